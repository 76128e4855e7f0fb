"""One vocabulary of deltas: defined once, the same behind a wire, added up in one place."""

from __future__ import annotations

import ast
import json
from itertools import pairwise
from pathlib import Path
from typing import get_args

from hypothesis import given
from hypothesis import strategies as st

import perilune
from perilune.chat import deltas
from perilune.chat.deltas import (
    ContentDelta,
    ContentWasReasoning,
    Delta,
    Finished,
    FinishReason,
    ReasoningDelta,
    ReasoningEnd,
    TokenLogprob,
    ToolCallArguments,
    ToolCallEnd,
    ToolCallStart,
    Truncated,
)
from perilune.chat.turn import AssembledTurn, assemble
from perilune.engine.core_messages import Outputs
from perilune.engine.metrics import EngineStatus
from perilune.engine.outputs import SequenceOutput
from perilune.engine.wire import event_frame, read_event, unpack
from perilune.events import Usage

TEXT = st.text(max_size=12)
COUNT = st.integers(0, 2**40)
SCORES = st.lists(
    st.builds(
        TokenLogprob,
        st.integers(0, 200_000),
        st.floats(-50, 0),
        st.lists(st.tuples(st.integers(0, 200_000), st.floats(-50, 0)), max_size=2).map(tuple),
    ),
    max_size=2,
).map(tuple)
USAGE = st.builds(
    Usage,
    prompt_tokens=COUNT, completion_tokens=COUNT, reasoning_tokens=COUNT, cached_tokens=COUNT,
)  # fmt: skip
DELTA = st.one_of(
    st.builds(ReasoningDelta, TEXT),
    st.just(ReasoningEnd()),
    st.builds(ContentDelta, TEXT, SCORES),
    st.just(ContentWasReasoning()),
    st.builds(ToolCallStart, st.integers(0, 9), TEXT, TEXT),
    st.builds(ToolCallArguments, st.integers(0, 9), TEXT),
    st.builds(ToolCallEnd, st.integers(0, 9)),
    st.builds(Truncated, st.sampled_from(get_args(deltas.TruncatedWhere)), TEXT),
    st.builds(
        Finished,
        st.sampled_from(FinishReason),
        st.none() | USAGE,
        st.none() | COUNT | TEXT,
        st.lists(st.integers(0, 200_000), max_size=3).map(tuple),
        TEXT,
        TEXT,
    ),
)


def test_nothing_else_in_the_package_is_named_like_a_delta() -> None:
    source = Path(perilune.__file__).parent
    ours = {kind.__name__ for kind in get_args(Delta)} | {"FinishReason", "TokenLogprob", "Usage"}
    assert len(ours) == 12
    places: dict[str, list[str]] = {}
    for file in source.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.ClassDef) and node.name in ours:
                places.setdefault(node.name, []).append(str(file.relative_to(source)))
    assert places == {name: ["chat/deltas.py"] for name in ours - {"Usage"}} | {
        "Usage": ["event/parts.py"]
    }


@given(st.lists(DELTA, max_size=6), st.sampled_from([None, *FinishReason]), SCORES)
def test_deltas_come_over_the_wire_as_they_were(
    given_deltas: list[Delta], reason: FinishReason | None, scores: tuple[TokenLogprob, ...]
) -> None:
    output = SequenceOutput(
        "r", 0, (1, 2), tuple(given_deltas), scores, scores, reason, "END", "broke", "bad_grammar"
    )
    said = Outputs([output], EngineStatus(0, 0, 0, 0, 0, 0))
    read = read_event(*unpack(event_frame(said)[4:]))
    assert read == said
    (back,) = read.outputs  # type: ignore[union-attr]
    for before, after in zip(given_deltas, back.deltas, strict=True):
        assert type(before) is type(after)
        if isinstance(after, Finished):
            assert type(after.reason) is FinishReason


@st.composite
def pieces(draw: st.DrawFn, text: str) -> list[str]:
    cuts = sorted(draw(st.sets(st.integers(0, len(text)), max_size=4)))
    return [text[a:b] for a, b in pairwise([0, *cuts, len(text)])]


@given(st.data(), TEXT, TEXT, st.lists(st.dictionaries(TEXT, TEXT, max_size=2), max_size=3))
def test_a_turn_is_the_same_however_it_was_cut(
    data: st.DataObject, reasoning: str, content: str, calls: list[dict[str, str]]
) -> None:
    turn = AssembledTurn()
    for piece in data.draw(pieces(reasoning)):
        turn.add(ReasoningDelta(piece))
    for piece in data.draw(pieces(content)):
        turn.add(ContentDelta(piece))
    for index, arguments in enumerate(calls):
        turn.add(ToolCallStart(index, f"functions.f:{index}", "f"))
        for piece in data.draw(pieces(json.dumps(arguments))):
            turn.add(ToolCallArguments(index, piece))
        if index or len(calls) == 1:
            turn.add(ToolCallEnd(index))
    assert turn.finished is None
    turn.add(Finished(FinishReason.STOP))
    assert turn.ending.reason is FinishReason.STOP
    assert (turn.reasoning, turn.content) == (reasoning, content)
    assert [json.loads(turn.calls[index].arguments) for index in range(len(calls))] == calls
    complete = calls if len(calls) == 1 else calls[1:]
    assert [json.loads(call.arguments) for call in turn.complete_calls] == complete
    assert len(turn.message().get("tool_calls", [])) == len(complete)


def test_content_that_was_thinking_moves() -> None:
    said = [ContentDelta("hm"), ContentWasReasoning(), ContentDelta("yes")]
    assert assemble(said) == {"role": "assistant", "content": "yes", "reasoning_content": "hm"}


def test_a_call_whose_beginning_is_missing_is_kept_without_a_name() -> None:
    turn = AssembledTurn()
    turn.add(ToolCallArguments(3, "{}"))
    assert (turn.calls[3].name, turn.calls[3].arguments) == ("", "{}")
    assert turn.complete_calls == []
