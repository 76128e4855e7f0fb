"""Half a character never ends a run: every edge of the agent makes text valid Unicode."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perilune.agent.agent import Agent
from perilune.agent.context.outputs import fit_output
from perilune.agent.evidence.store import RunEvidence
from perilune.agent.journal.journal import read_journal
from perilune.agent.models.chat_model import Sampling
from perilune.agent.models.scripted import Call, Reply, ScriptedModel
from perilune.agent.models.wire import to_wire
from perilune.agent.tool import ToolResult, tool
from perilune.agent.tool_registry import ToolRegistry
from perilune.chat.messages import read_messages
from perilune.events import (
    AssistantMessage,
    Record,
    ToolCall,
    ToolFinished,
    ToolProgress,
    ToolStarted,
    UserMessage,
    decode_event,
    decode_record,
    encode_event,
    encode_record,
    valid_event,
)
from perilune.exam.suites.ask import ask
from perilune.exam.suites.suite import Examinee
from perilune.text import valid_text

ANY_TEXT = st.text(st.characters(codec=None, exclude_categories=()), max_size=20)
HALVES = "a\ud83d\ude00b\ud83d caf\udce9"
WHOLE = "a😀b\ufffd caf\ufffd"


@tool(side_effects=False)
def echo(text: str, context) -> ToolResult:
    """Say it again."""
    context.progress(text + "\udcff")
    parts = [{"type": "text", "text": text + "\ud83d"}]
    return ToolResult(parts, full_output=text + "\ud83d" + "x" * 20_000)


def test_a_run_full_of_halves(tmp_path: Path) -> None:
    """In the task, the model's text and arguments, a tool's progress and output, and a steer."""
    tape = [
        Reply(HALVES, calls=[Call("echo", {"text": HALVES}, id="i\ud83d")], reasoning=HALVES),
        Reply(f"It is {HALVES}"),
    ]
    lines: list[bytes] = []
    agent = Agent(
        ScriptedModel(tape),
        [echo],
        workspace=tmp_path,
        home=tmp_path / "home",
        verifiers=(),
        snapshot=False,
        on_record=lambda record: lines.append(encode_record(record)),
    )
    result = agent.run(HALVES)
    assert (result.reason, result.answer) == ("done", f"It is {WHOLE}")
    (folder,) = (tmp_path / "home" / "runs").iterdir()
    history = read_journal(folder)
    assert not history.damage
    events = [record.event for record in history.records]
    assert [e.content for e in events if isinstance(e, UserMessage)] == [WHOLE]
    assert [e.arguments for e in events if isinstance(e, ToolStarted)] == [{"text": WHOLE}]
    (finished,) = (e for e in events if isinstance(e, ToolFinished))
    Path(finished.full_output or "").read_text("utf-8")
    for line in lines:
        decode_record(line)
        line.decode()


@pytest.mark.parametrize("where", ["runs"])
def test_a_resumed_run_reads_what_the_living_one_knew(tmp_path: Path, where: str) -> None:
    model = ScriptedModel([Reply("a\ud83d"), Reply("b")])
    agent = Agent(model, [], workspace=tmp_path, home=tmp_path / "home", verifiers=())
    first = agent.run("t\udce9")
    agent.run("and?", resume=first.run)
    (folder,) = (tmp_path / "home" / where).iterdir()
    said = [r.event.content for r in read_journal(folder).records if hasattr(r.event, "content")]
    assert said == ["t\ufffd", "a\ufffd", "and?", "b"]


@given(ANY_TEXT)
def test_every_event_is_written_and_read_again(text: str) -> None:
    call = ToolCall(id=text, name=text, arguments=text)
    for event in (
        UserMessage(content=text, source="task"),
        UserMessage(content=[{"type": "text", "text": text}], source="task"),
        AssistantMessage(step=1, content=text, reasoning=text, tool_calls=[call]),
        ToolStarted(call_id=text, name=text, arguments={text: [text]}, side_effects=True, step=1),
        ToolFinished(call_id=text, name=text, content=text, outcome="ok"),
        ToolProgress(call_id=text, text=text),
    ):
        assert decode_event(encode_event(event)) == valid_event(event)
        again = decode_record(encode_record(Record(event=event, run=text, agent=text, seq=1)))
        assert again.event == valid_event(event)
        assert again.run == valid_text(text)


@given(ANY_TEXT)
def test_every_argument_is_valid_in_tools_and_on_the_wire(text: str) -> None:
    arguments = json.dumps({"text": text})
    parsed = ToolRegistry([echo]).parse_arguments("echo", arguments)
    parsed["text"].encode()
    call = {"id": "1", "type": "function", "function": {"name": "echo", "arguments": arguments}}
    (sent,) = to_wire([{"role": "assistant", "content": "", "tool_calls": [call]}])
    again = json.loads(sent["tool_calls"][0]["function"]["arguments"])
    assert again == {"text": valid_text(text)}
    read_messages([{"role": "user", "content": text}])


@settings(max_examples=30)
@given(ANY_TEXT, ANY_TEXT)
def test_every_source_and_output_is_kept(tmp_path_factory, source: str, text: str) -> None:
    folder = tmp_path_factory.mktemp("evidence")
    events: list[object] = []
    store = RunEvidence(folder / "evidence", events.append)
    kept = store.keep(source, text, title=text)
    store.text(kept.id).encode()
    encode_event(events[0])  # type: ignore[arg-type]
    fit_output(ToolResult(text * 2000), text, folder)


async def test_an_exam_hears_valid_text() -> None:
    model = ScriptedModel([Reply(HALVES, calls=[Call("f", '{"t": "\\ud83d"}')], reasoning=HALVES)])
    reply = await ask(Examinee(model, Sampling()), [{"role": "user", "content": "x"}])
    assert (reply.content, reply.reasoning) == (WHOLE, WHOLE)
    assert reply.calls[0].arguments == {"t": "\ufffd"}
