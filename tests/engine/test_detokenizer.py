"""Stop strings: found wherever they are cut, never shown, nothing else withheld."""

from __future__ import annotations

import itertools
import random

import pytest

from perilune.chat.deltas import ContentDelta, Delta, Finished, FinishReason, ReasoningDelta
from perilune.engine.detokenizer import Detokenizer
from perilune.engine.llm import LLM
from perilune.engine.sampling_params import SamplingParams


class Script:
    """A parser that says given deltas, one a token."""

    def __init__(self, deltas: list[Delta]) -> None:
        self._deltas = deltas

    def feed(self, token_id: int) -> list[Delta]:
        return [self._deltas[token_id]]

    def finish(self, reason: FinishReason | None = None) -> list[Delta]:
        return [Finished(reason or FinishReason.LENGTH)]


def read(deltas: list[Delta], stop: list[str]) -> tuple[list[Delta], str | None]:
    detokenizer = Detokenizer(Script(deltas), stop)
    seen: list[Delta] = []
    for token in range(len(deltas)):
        seen += detokenizer.feed(token)
        if detokenizer.stopped_by is not None:
            break
    return seen + detokenizer.finish(FinishReason.LENGTH), detokenizer.stopped_by


def text_of(deltas: list[Delta]) -> str:
    return "".join(d.text for d in deltas if isinstance(d, ContentDelta))


def test_any_cut_of_a_text_stops_at_the_same_place() -> None:
    rng = random.Random(3)
    for _ in range(3000):
        text = "".join(rng.choice("ab") for _ in range(rng.randint(1, 14)))
        stop = ["".join(rng.choice("ab") for _ in range(rng.randint(1, 4))) for _ in range(2)]
        cuts = sorted({0, len(text), *(rng.randint(0, len(text)) for _ in range(5))})
        pieces = [text[a:b] for a, b in itertools.pairwise(cuts)]
        deltas, stopped_by = read([ContentDelta(piece) for piece in pieces], stop)
        ends = [text.find(s) + len(s) for s in stop if s in text]
        if not ends:
            assert (text_of(deltas), stopped_by) == (text, None)
            assert deltas[-1] == Finished("length")
        else:
            assert stopped_by in stop
            assert text.startswith(text_of(deltas) + stopped_by)
            # Nothing before it was a stop string already complete.
            assert all(s not in text_of(deltas) for s in stop)
            assert deltas[-1] == Finished("stop") or stopped_by is not None


def test_text_is_held_back_only_while_undecided() -> None:
    detokenizer = Detokenizer(
        Script([ContentDelta("one <"), ContentDelta("/"), ContentDelta("p")]), ["</s>"]
    )
    assert detokenizer.feed(0) == [ContentDelta("one ")]
    assert detokenizer.feed(1) == []
    assert detokenizer.feed(2) == [ContentDelta("</p")]


def test_thinking_does_not_stop_and_keeps_its_place() -> None:
    deltas, stopped_by = read(
        [ReasoningDelta("END"), ContentDelta("EN"), ReasoningDelta("x"), ContentDelta("D")], ["END"]
    )
    assert stopped_by is None
    assert deltas == [
        ReasoningDelta("END"), ContentDelta("EN"), ReasoningDelta("x"), ContentDelta("D"),
        Finished("length"),
    ]  # fmt: skip


@pytest.mark.parametrize("speculate", [True, False])
def test_a_stop_string_ends_a_request(llm: LLM, speculate: bool) -> None:
    params = SamplingParams(max_tokens=200, seed=1, ignore_eos=True, speculate=speculate)
    (whole,) = llm.generate("The Moon", params)
    stop = whole.text[30:33]
    (cut,) = llm.generate(
        "The Moon", SamplingParams(**{**_fields(params), "stop": ("\0never", stop)})
    )
    assert cut.answers[0].finish_reason is FinishReason.STOP and cut.answers[0].stop == stop
    assert cut.text == whole.text[: whole.text.index(stop)]
    assert cut.answers[0].token_ids == whole.answers[0].token_ids[: len(cut.answers[0].token_ids)]


def test_stop_ids_end_a_request_and_min_tokens_keeps_them_off(llm: LLM) -> None:
    params = SamplingParams(max_tokens=60, seed=1, ignore_eos=True, speculate=False)
    (whole,) = llm.generate([1, 2], params)
    ids = whole.answers[0].token_ids
    stop = ids[20]
    first = ids.index(stop)
    (cut,) = llm.generate([1, 2], SamplingParams(**{**_fields(params), "stop_token_ids": (stop,)}))
    assert cut.answers[0].token_ids == ids[: first + 1] and cut.answers[0].stop == stop
    (late,) = llm.generate(
        [1, 2], SamplingParams(**{**_fields(params), "stop_token_ids": (stop,), "min_tokens": 40})
    )
    assert stop not in late.answers[0].token_ids[:40]


def _fields(params: SamplingParams) -> dict[str, object]:
    return {name: getattr(params, name) for name in SamplingParams.__dataclass_fields__}
