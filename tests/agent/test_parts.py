"""The small parts: events, tools, repeats, retries, the limiter, evidence, outputs, spans."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perilune.agent.context.outputs import fit_output
from perilune.agent.endings import ModelFailed
from perilune.agent.evidence.store import RunEvidence, source_digest
from perilune.agent.journal.journal import read_journal
from perilune.agent.journal.otel import record_spans
from perilune.agent.journal.repeat_guard import STOP_AT, RepeatGuard, level
from perilune.agent.models.chat_model import ModelError
from perilune.agent.models.limiter import RECOVER_AFTER, START, Limiter, limiter_for
from perilune.agent.models.retry import RetryPolicy
from perilune.agent.models.scripted import Call, RateLimited, Reply
from perilune.agent.tool import ToolContext, ToolResult, tool
from perilune.agent.tool_registry import ToolRegistry
from perilune.errors import ToolError, UsageError
from perilune.events import (
    KNOWN,
    AssistantMessage,
    Event,
    PlanItem,
    PlanUpdated,
    Record,
    ToolCall,
    ToolFinished,
    Unknown,
    decode_event,
    decode_record,
    encode_event,
    encode_record,
    event_type,
)
from perilune.home import find_run
from tests.agent import simple_tools as tools
from tests.agent.conftest import MakeAgent

# --- events ---------------------------------------------------------------------------------------


def test_every_event_has_its_own_name():
    names = [event_type_of(kind) for kind in KNOWN]
    assert len(set(names)) == len(names)
    defined = {kind for kind in Event.__subclasses__() if kind is not Unknown}
    assert defined == set(KNOWN), "an event that is not in KNOWN could not be read back"


def event_type_of(kind: type[Event]) -> str:
    return str(kind.__struct_config__.tag)


@pytest.mark.parametrize(
    "event",
    [
        AssistantMessage(step=1, tool_calls=[ToolCall(id="1", name="f", arguments="{}")]),
        ToolFinished(call_id="1", name="f", content=[{"type": "text", "text": "ü\ud7ff"}]),
        PlanUpdated(items=[PlanItem(text="a", status="dropped", note="why")]),
        Unknown(fields={"type": "x.y", "deep": {"a": [1, None]}}),
    ],
)
def test_events_and_lines_round_trip(event):
    assert decode_event(encode_event(event)) == event
    record = Record(event=event, run="r", seq=3, time=1.5, agent="a")
    line = encode_record(record)
    assert b"\n" not in line
    assert decode_record(line) == record
    fields = json.loads(line)
    assert (fields["v"], fields["type"]) == (1, event_type(event))


def test_fields_of_a_newer_version_are_skipped():
    data = encode_event(PlanUpdated(items=[])).replace(b"{", b'{"mood":"good",', 1)
    assert decode_event(data) == PlanUpdated(items=[])
    with pytest.raises(msgspec.ValidationError):
        decode_event(b'{"type": "plan.updated", "items": 3}')


# --- tools ----------------------------------------------------------------------------------------


def test_a_function_declares_itself():
    @tool(side_effects=False)
    def measure(path: str, unit: str = "m", tags: list[str] | None = None, context=None) -> float:
        """Measure a thing."""
        return 1.5

    assert measure.name == "measure"
    assert measure.description == "Measure a thing."
    assert measure.parameters == {
        "type": "object",
        "properties": {
            "path": {"type": "string"},
            "unit": {"type": "string", "default": "m"},
            "tags": {"anyOf": [{"type": "array", "items": {"type": "string"}}, {"type": "null"}]},
        },
        "required": ["path"],
        "additionalProperties": False,
    }
    result = asyncio.run(measure.run({"path": "x"}, ToolContext(workspace=Path())))
    assert result == ToolResult("1.5")


def test_bad_tools_are_refused_at_once():
    with pytest.raises(UsageError, match="two tools"):
        ToolRegistry([tools.wait, tools.wait])
    with pytest.raises(UsageError, match="cannot be declared"):
        tool()(lambda *things: "x")
    bad = tool()(lambda: "x")
    object.__setattr__(bad, "parameters", {"type": "nonsense"})
    with pytest.raises(UsageError, match="not a JSON schema"):
        ToolRegistry([bad])


def test_deferred_tools_can_be_called_but_are_not_declared():
    class Deferred:
        deferred = True

        def __getattr__(self, name):
            return getattr(tools.big, name)

    registry = ToolRegistry([tools.wait, Deferred()])
    assert [each["function"]["name"] for each in registry.declarations()] == ["wait"]
    assert registry.parse_arguments("big", '{"characters": 3}') == {"characters": 3}
    registry.reveal("big")
    assert len(registry.declarations()) == 2


def test_no_arguments_are_an_empty_object():
    registry = ToolRegistry([tools.read_log, tools.wait])
    assert registry.parse_arguments("read_log", "") == {}
    with pytest.raises(ToolError, match="seconds"):
        registry.parse_arguments("wait", "")


# --- repeats --------------------------------------------------------------------------------------


def guard_of(calls: list[str]) -> RepeatGuard:
    guard = RepeatGuard()
    for call in calls:
        guard.observe(call, {}, "same")
    return guard


@pytest.mark.parametrize(
    ("calls", "repeats"),
    [
        ("", (0, 1)),
        ("a", (1, 1)),
        ("ab", (1, 1)),
        ("aaa", (3, 1)),
        ("baaa", (3, 1)),
        ("ababab", (3, 2)),
        ("abcabcabc", (3, 3)),
        ("abcdabcd", (2, 4)),
        ("abaabaa", (2, 1)),
    ],
)
def test_repeats(calls, repeats):
    assert guard_of(list(calls)).repeats == repeats


@given(st.text("abc", max_size=80))
def test_repeats_are_true(calls):
    count, period = guard_of(list(calls)).repeats
    if calls:
        assert calls.endswith(calls[-period:] * count) or count > STOP_AT


def test_levels():
    assert [level(n) for n in (1, 2, 3, 4, 5, 7, 8, 11)] == [0, 0, 3, 3, 5, 5, 8, 8]


# --- retries and the limiter ----------------------------------------------------------------------


def test_backoff_grows_and_obeys_the_server():
    policy = RetryPolicy(jitter=lambda: 1.0)
    error = ModelError("busy", retryable=True)
    assert [policy.wait(n, error) for n in range(1, 8)] == [1, 2, 4, 8, 16, 32, 60]
    with pytest.raises(ModelFailed, match="8 times"):
        policy.wait(8, error)
    told = ModelError("busy", retryable=True, retry_after=30.0)
    assert policy.wait(1, told) >= 30
    assert RetryPolicy(jitter=lambda: 0.0).wait(1, told) == 30, "never undercut"
    with pytest.raises(ModelFailed, match="3600"):
        policy.wait(1, ModelError("busy", retryable=True, retry_after=3600.0))
    with pytest.raises(ModelFailed):
        policy.wait(1, ModelError("bad key"))


async def test_the_limiter_bounds_and_pauses():
    limiter = Limiter(most=4)
    high = 0

    async def request() -> None:
        nonlocal high
        async with limiter.slot():
            high = max(high, limiter.in_flight)
            await asyncio.sleep(0.01)

    await asyncio.gather(*(request() for _ in range(20)))
    assert high == 4
    limiter.limited(0.2)
    assert limiter.bound == 2
    began = time.monotonic()
    await request()
    assert time.monotonic() - began >= 0.2
    for _ in range(RECOVER_AFTER):
        limiter.succeeded()
    assert limiter.bound == 3


async def test_a_burst_of_refusals_halves_the_bound_once():
    limiter = Limiter(most=16)
    async with limiter.slot() as one, limiter.slot() as other:
        pass
    limiter.limited(0.01, one)
    limiter.limited(0.01, other)
    assert limiter.bound == 8
    async with limiter.slot() as later:
        pass
    limiter.limited(0.01, later)
    assert limiter.bound == 4


async def test_a_server_is_asked_more_and_more_until_it_refuses():
    limiter = limiter_for("http://ramp")
    assert limiter.bound == START < limiter.most
    for _ in range(START):
        limiter.succeeded()
    assert limiter.bound == 2 * START
    limiter.limited(0.0)
    for _ in range(RECOVER_AFTER - 1):
        limiter.succeeded()
    assert limiter.bound == START
    limiter.allow(100)
    assert limiter.most == 100
    assert limiter.bound == START
    engine = limiter_for("engine:1")
    engine.allow(100)
    assert engine.bound == 100


async def test_who_was_refused_goes_first_and_who_left_takes_no_slot():
    limiter = Limiter(most=1)
    order: list[str] = []

    async def request(name: str, *, first: bool = False) -> None:
        async with limiter.slot(first=first):
            order.append(name)
            await asyncio.sleep(0.01)

    tasks = [asyncio.create_task(request(name)) for name in "abcd"]
    await asyncio.sleep(0)
    tasks.append(asyncio.create_task(request("again", first=True)))
    await asyncio.sleep(0)
    tasks[1].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert order == ["a", "again", "c", "d"]
    assert limiter.in_flight == 0


async def test_a_run_that_waits_for_its_turn_can_be_interrupted(make_agent: MakeAgent):
    agent = make_agent([Reply("never")])
    limiter_for(agent.model.endpoint).limited(30.0)
    async with agent.session() as session:
        work = asyncio.create_task(session.run("t"))
        await asyncio.sleep(0.05)
        session.interrupt()
        assert (await work).reason == "interrupted"
    assert limiter_for(agent.model.endpoint).in_flight == 0


async def test_runs_on_one_endpoint_share_a_limiter(make_agent: MakeAgent):
    """A 429 for one run holds the other back, too."""
    assert limiter_for("a") is limiter_for("a")
    assert limiter_for("a") is not limiter_for("b")
    slow = make_agent([[RateLimited(retry_after=0.5), Reply("one")]])
    other = make_agent([Reply("two")])
    limiter = limiter_for(slow.model.endpoint)
    first = asyncio.create_task(slow.arun("t"))
    while limiter.bound == limiter.most:  # the 429 has not come yet
        await asyncio.sleep(0.001)
    began = time.monotonic()
    assert (await other.arun("t")).answer == "two"
    assert time.monotonic() - began > 0.2
    assert (await first).answer == "one"


# --- evidence and outputs -------------------------------------------------------------------------


def test_evidence_is_kept_by_content(tmp_path: Path):
    told = []
    store = RunEvidence(tmp_path / "evidence", told.append)
    one = store.keep("https://a", "text", title="A")
    assert store.keep("https://a", "text").id == one.id
    assert store.keep("https://b", "text").id != one.id
    assert store.text(one.id) == "text"
    assert one.id in store
    assert "ev:00000000" not in store
    assert "../../etc/passwd" not in store
    assert 3 not in store
    with pytest.raises(KeyError):
        store.text("../x")
    assert {event.id for event in told} >= {one.id}


def test_short_evidence_ids_grow_where_two_would_be_equal(tmp_path: Path):
    texts: dict[str, str] = {}
    for number in range(5000):  # two of some hundred share four digits
        first = texts.setdefault(source_digest("a", str(number))[:4], str(number))
        if first != str(number):
            break
    store = RunEvidence(tmp_path / "evidence", lambda event: None)
    one, other = (store.keep("a", text, digits=4).id for text in (first, str(number)))
    assert len(one) == len("ev:1a2b")
    assert len(other) > len(one)
    assert other.startswith(one)
    assert store.keep("a", str(number), digits=4).id == other
    assert (store.text(one), store.text(other)) == (first, str(number))


def test_short_outputs_pass_and_long_ones_are_cut(tmp_path: Path):
    assert fit_output(ToolResult("short"), "1", tmp_path) == ("short", None)
    content, path = fit_output(ToolResult("a" * 500 + "z" * 500), "f:../1", tmp_path, shown=300)
    assert content.startswith("a" * 200 + "\n[... 700 characters")
    assert content.count("z") >= 100
    assert Path(path).parent == tmp_path
    assert Path(path).read_text() == "a" * 500 + "z" * 500
    content, path = fit_output(ToolResult("cut", full_output="the whole"), "2", tmp_path)
    assert content.startswith("cut\n[The whole output, 9 characters")
    image = {"type": "image_url", "image_url": {"url": "data:x"}}
    parts, path = fit_output(
        ToolResult([{"type": "text", "text": "t" * 400}, image]), "3", tmp_path, shown=300
    )
    assert (parts[1], path is not None) == (image, True)


def test_an_output_that_cannot_be_kept_is_shown_in_part(tmp_path: Path):
    (tmp_path / "outputs").write_text("a file where the folder should be")
    content, path = fit_output(ToolResult("x" * 500), "1", tmp_path / "outputs", shown=300)
    assert path is None
    assert "could not be kept" in content


# --- spans ----------------------------------------------------------------------------------------


def test_a_run_as_spans(make_agent: MakeAgent, home):
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    tape = [Reply(calls=[Call("read_log", {}), Call("fail", {"how": "tool"})]), Reply("secret")]
    agent = make_agent(tape, [tools.read_log, tools.fail])
    result = agent.run("t")
    records = read_journal(find_run(result.run, home)).records
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    assert record_spans(records, provider) == 5
    spans = {span.name: span for span in exporter.get_finished_spans()}
    root = spans["invoke_agent main"]
    assert root.attributes["gen_ai.conversation.id"] == result.run
    for span in spans.values():
        assert span is root or span.parent.span_id == root.context.span_id
        assert span.end_time >= span.start_time
    assert spans["execute_tool fail"].attributes["error.type"] == "error"
    assert spans["execute_tool read_log"].status.is_ok
    chat = spans["chat scripted"]
    assert chat.attributes["gen_ai.usage.input_tokens"] > 0
    assert "secret" not in str([span.to_json() for span in spans.values()])
    assert record_spans(records[:4], provider) >= 2, "a killed run has spans, too"
