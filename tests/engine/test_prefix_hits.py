"""What of a prompt is found in the prefix cache, token by token, and what that may never break."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from perilune.chat.deltas import FinishReason, TokenLogprob
from perilune.engine.engine import Engine
from perilune.engine.load import EngineOptions, load_engine
from perilune.engine.outputs import SequenceOutput
from perilune.engine.sampling_params import SamplingParams
from perilune.engine.scheduler import MIN_COPIED_TOKENS
from perilune.runner.cache import PagedLatentCache

from .fakes import FakeForward, answers, check_pages, fake_engine, reference, run
from .models import FORWARDS, VOCAB


def params(max_tokens: int = 5, **values: object) -> SamplingParams:
    return SamplingParams(
        **{"max_tokens": max_tokens, "temperature": 0, "ignore_eos": True, "seed": 1, **values}  # type: ignore[arg-type]
    )


def text(length: int, seed: int = 0) -> list[int]:
    return torch.randint(0, 20, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def check(prompt: list[int], wanted: SamplingParams, tokens: list[int]) -> None:
    assert tokens == reference(prompt, wanted, seed=1, max_context=1024)


def ask(
    engine: Engine, prompt: list[int], max_tokens: int = 5, **values: str
) -> tuple[int, list[int]]:
    """Tokens found in the cache and the answer, which is right, of a request alone."""
    assert isinstance(engine.runner, FakeForward)
    rows = engine.runner.rows
    engine.add_request(prompt, params(max_tokens), **values)  # type: ignore[arg-type]
    outputs = run(engine)
    check_pages(engine)
    (answer,) = answers(outputs).values()
    check(prompt, params(max_tokens), answer)
    found = cached(outputs[-1])
    assert engine.runner.rows - rows == len(prompt) - found + max_tokens - 1
    return found, answer


def cached(output: SequenceOutput) -> int:
    assert output.metrics is not None
    return output.metrics.cached_tokens


@pytest.fixture
def copied(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The copies of pages that were made."""
    made: list[tuple[int, int]] = []
    plain = PagedLatentCache.copy_pages

    def spy(cache: PagedLatentCache, copies: list[tuple[int, int]]) -> None:
        made.extend(copies)
        plain(cache, copies)

    monkeypatch.setattr(PagedLatentCache, "copy_pages", spy)
    return made


def test_a_turn_computes_only_what_is_new(copied: list[tuple[int, int]]) -> None:
    """What an agent does: the next prompt is the last one, its answer, and a little more."""
    engine = fake_engine(pages=12)
    prompt, known = text(50), 0
    for turn in range(12):
        found, answer = ask(engine, prompt, max_tokens=11)
        assert found == known
        known = len(prompt) + len(answer) - 1  # the last token of an answer is never computed
        prompt += answer + text(7, seed=turn)
    assert not copied  # each turn goes on in the page of the last
    assert engine.pages.num_idle == -(-known // 64)


def test_the_prompt_again_leaves_one_token() -> None:
    engine = fake_engine(pages=12)
    for length in (1, 2, 63, 64, 65, 128, 129, 200):
        prompt = text(length, seed=length)
        assert ask(engine, prompt)[0] == 0
        # A copy of a page for fewer tokens is not worth it.
        part = (length - 1) % 64
        assert ask(engine, prompt)[0] == length - 1 - (part if part < MIN_COPIED_TOKENS else 0)


def test_a_branch_copies_and_spares_the_trunk(copied: list[tuple[int, int]]) -> None:
    engine = fake_engine(pages=12)
    trunk = text(100)
    _, answer = ask(engine, trunk, max_tokens=20)
    # The answer again from its middle, as after an edit: the page of the first one stays.
    branch = trunk + answer[:10] + [21, 21]
    assert ask(engine, branch)[0] == 110
    assert len(copied) == 1
    assert ask(engine, [*trunk, *answer, 1])[0] == 119
    assert len(copied) == 1


def test_a_full_page_lends_its_beginning(copied: list[tuple[int, int]]) -> None:
    engine = fake_engine(pages=12)
    ask(engine, text(192))
    assert ask(engine, [*text(104), 21, 22])[0] == 104
    assert ask(engine, [*text(40), 21, 22])[0] == 40
    assert ask(engine, [*text(192), 1])[0] == 192  # still whole
    assert len(copied) == 2


def test_the_longest_beginning_wins() -> None:
    engine = fake_engine(pages=12)
    for length in (20, 50, 30, 40):
        ask(engine, [*text(length), 21, 21, length % 20], max_tokens=1)
    assert ask(engine, [*text(45), 22])[0] == 45
    assert ask(engine, [*text(30), 21, 21, 10, 22])[0] == 33


def test_few_tokens_are_not_worth_a_copy(copied: list[tuple[int, int]]) -> None:
    engine = fake_engine(pages=12)
    ask(engine, text(64))
    assert ask(engine, [*text(MIN_COPIED_TOKENS - 1), 21, 21])[0] == 0
    assert not copied
    assert ask(engine, [*text(MIN_COPIED_TOKENS), 22, 22])[0] == MIN_COPIED_TOKENS
    assert len(copied) == 1
    # Where somebody is at work in the page, one cannot go on in it either.
    engine.add_request([21, 21], params(9))
    engine.step()
    engine.add_request([21, 21, 22], params(2))
    assert [cached(o) for o in run(engine) if o.metrics is not None] == [0, 0]
    assert len(copied) == 1


def test_another_salt_and_scored_prompts_take_nothing() -> None:
    engine = fake_engine(pages=12)
    ask(engine, text(40))
    assert ask(engine, text(40), cache_salt="other")[0] == 0
    assert ask(engine, text(40), cache_salt="other")[0] == 39
    engine.add_request(text(40), params(3, prompt_logprobs=1))
    (*_, last) = run(engine)
    assert cached(last) == 0


def test_a_prompt_is_shared_while_it_is_answered(copied: list[tuple[int, int]]) -> None:
    """Sub-agents with one header: the second begins while the first is at work."""
    engine = fake_engine(pages=12)
    header, parts = text(90), ([1, 2, 3], [4, 5], [1, 2, 3, 4])
    outputs = []
    for part in parts:
        engine.add_request(header + part, params(40))
        outputs += engine.step() + engine.step() + engine.step()
        check_pages(engine)
    outputs += run(engine)
    for part, answer in zip(parts, answers(outputs).values(), strict=True):
        check(header + part, params(40), answer)
    assert [cached(o) for o in outputs if o.metrics is not None] == [0, 90, 93]
    assert len(copied) == 2


def test_answers_of_one_request_go_on_from_a_shared_tail() -> None:
    engine = fake_engine(pages=20, max_sequences=3)
    ask(engine, text(100))
    wanted = params(30, n=3, temperature=1.0)
    prompt = [*text(100), 3, 4]
    engine.add_request(prompt, wanted)
    outputs = run(engine)
    check_pages(engine)
    for (_, index), answer in answers(outputs).items():
        assert answer == reference(prompt, wanted, seed=1, index=index, max_context=1024)
    assert cached(outputs[-1]) == 100
    for answer in list(answers(outputs).values()):
        assert ask(engine, [*prompt, *answer, 5])[0] == len(prompt) + 29


def test_a_sequence_that_gave_way_finds_its_last_page() -> None:
    engine = fake_engine(pages=7, max_batch_tokens=256)
    assert isinstance(engine.runner, FakeForward)
    engine.add_request(text(150), params(60), priority=1)
    outputs = [o for _ in range(20) for o in engine.step()]
    engine.add_request(text(200, seed=1), params(1), priority=0)
    outputs += run(engine)
    later, now = answers(outputs)["request-1", 0], answers(outputs)["request-2", 0]
    check(text(150), params(60), later)
    check(text(200, seed=1), params(1), now)
    assert outputs[-1].metrics is not None and outputs[-1].metrics.preemptions == 1
    assert engine.runner.rows == 150 + 59 + 200  # nothing is computed twice


def test_a_copy_needs_no_page_more(copied: list[tuple[int, int]]) -> None:
    """Where the page to copy is the last that can be had, it is taken itself."""
    engine = fake_engine(pages=3, max_context=192)
    ask(engine, text(190), max_tokens=1)
    assert ask(engine, [*text(180), *[21] * 9], max_tokens=1)[0] == 180
    assert ask(engine, [*text(20), *[21] * 9], max_tokens=1)[0] == 20
    assert len(copied) == 1
    assert ask(engine, [*text(150), 21], max_tokens=1)[0] == 128  # the tail went


def test_a_copy_that_was_not_made_is_not_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = fake_engine(pages=12)
    ask(engine, text(60))
    plain = PagedLatentCache.copy_pages

    def interrupted(cache: PagedLatentCache, copies: list[tuple[int, int]]) -> None:
        if copies:
            raise KeyboardInterrupt
        plain(cache, copies)

    monkeypatch.setattr(PagedLatentCache, "copy_pages", interrupted)
    engine.add_request([*text(50), 21, 21], params(), request_id="a")
    with pytest.raises(KeyboardInterrupt):
        engine.step()
    engine.clear_prefix_cache()  # what was to be copied has no name any more
    engine.cancel("a")
    engine.step()
    check_pages(engine)
    monkeypatch.setattr(PagedLatentCache, "copy_pages", plain)
    assert ask(engine, [*text(50), 21, 21])[0] == 0


def test_a_row_that_is_no_number_leaves_no_tail(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = fake_engine(pages=12)
    execute = engine.runner.execute
    monkeypatch.setattr(
        engine.runner, "execute", lambda step, cache: execute(step, cache).fill_(torch.nan)
    )
    engine.add_request(text(50), params())
    (output,) = run(engine)
    assert output.finish_reason is FinishReason.ERROR
    monkeypatch.setattr(engine.runner, "execute", execute)
    assert ask(engine, text(50))[0] == 0


def test_cleared_while_it_runs_a_sequence_ends_without_a_tail() -> None:
    engine = fake_engine(pages=12)
    engine.add_request(text(100), params(), request_id="a")
    engine.step()
    engine.clear_prefix_cache()
    engine.cancel("a")
    engine.step()
    check_pages(engine)
    assert engine.pages.num_free == 12
    assert ask(engine, text(100))[0] == 0


def test_tails_go_when_room_is_needed_the_oldest_first() -> None:
    engine = fake_engine(pages=3, max_context=192)
    for seed in range(3):
        ask(engine, text(40, seed=seed), max_tokens=1)
    ask(engine, [*text(40, seed=0), 1], max_tokens=1)  # used again
    ask(engine, text(40, seed=3), max_tokens=1)
    cache = engine.prefix_cache
    keys = [cache.root_key("")]
    assert [cache.match_part(keys, [], text(40, seed=seed))[1] for seed in range(4)] == [
        40,
        0,
        40,
        40,
    ]


@pytest.mark.skipif("native" not in FORWARDS, reason="the C library is not built")
@pytest.mark.parametrize("mode", [{}, {"exact": True}, {"dense_format": "int8"}])
def test_the_bits_are_those_of_a_prompt_computed_whole(
    int4_folder: Path, mode: dict[str, bool]
) -> None:
    """With the C kernels: every log probability of a conversation with branches, in full."""
    engine = load_engine(int4_folder, EngineOptions(native=True, cache_tokens=2048, seed=1, **mode))

    def say(prompt: list[int]) -> tuple[int, list[int], list[TokenLogprob]]:
        engine.add_request(prompt, params(9, logprobs=VOCAB))
        outputs = run(engine)
        check_pages(engine)
        return (
            cached(outputs[-1]),
            [token for o in outputs for token in o.tokens],
            [entry for o in outputs for entry in o.logprobs],
        )

    prompts, known = [text(100)], [0]
    warm = [say(prompts[0])]
    for turn in range(6):
        prompts.append(prompts[-1] + warm[-1][1] + text(11, seed=turn))
        known.append(len(prompts[-2]) + 8)
        warm.append(say(prompts[-1]))
    for cut in (50, 90, 140, 200):  # within full pages
        prompts.append([*prompts[6][:cut], 500, 501])
        known.append(cut)
        warm.append(say(prompts[-1]))
    assert [found for found, _, _ in warm] == known
    for prompt, (_, tokens, logprobs) in zip(prompts, warm, strict=True):
        engine.clear_prefix_cache()
        assert say(prompt) == (0, tokens, logprobs)
    engine.close()
