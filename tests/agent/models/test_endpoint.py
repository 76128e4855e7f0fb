"""EndpointModel against a real socket: the habits and the faults of OpenAI-compatible servers."""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing

import pytest

from perilune.agent.agent import Agent
from perilune.agent.models.chat_model import ModelError, Sampling
from perilune.agent.models.endpoint import EndpointModel, Prices
from perilune.agent.models.retry import RetryPolicy, retry_after
from perilune.agent.models.wire import to_wire
from perilune.agent.tool import ToolResult, tool
from perilune.chat.deltas import ContentDelta, Finished, ReasoningDelta, ToolCallStart
from perilune.errors import UsageError
from perilune.events import AssistantMessage, Usage
from tests.agent import simple_tools as tools
from tests.agent.drawn import image_part, png
from tests.agent.openai_server import OpenAIServer, call, delta

USER = [{"role": "user", "content": "hi"}]
USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10, "cached_tokens": 4}


async def collect(server: OpenAIServer, messages=USER, declared=(), sampling=None, **options):
    model = EndpointModel(server.url, "served-model", **options)
    try:
        stream = model.complete(messages, list(declared), sampling or Sampling())
        return [delta async for delta in stream]
    finally:
        await model.close()


def text_of(deltas, kind):
    return "".join(each.text for each in deltas if isinstance(each, kind))


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
async def test_streams_thinking_and_text(field):
    chunks = [
        delta(role="assistant", content=""),
        delta(**{field: "hm"}),
        delta(**{field: " hm"}),
        delta(content="Hel"),
        delta(content="lo"),
        delta(finish="stop"),
        {**delta(usage=USAGE), "choices": []},
    ]
    with OpenAIServer([chunks]) as server:
        deltas = await collect(server)
    assert text_of(deltas, ReasoningDelta) == "hm hm"
    assert text_of(deltas, ContentDelta) == "Hello"
    finished = deltas[-1]
    assert isinstance(finished, Finished)
    assert (finished.reason, finished.model) == ("stop", "served-model")
    assert finished.usage == Usage(prompt_tokens=7, completion_tokens=3, cached_tokens=4)
    body = server.requests[0]
    assert body["stream_options"] == {"include_usage": True}
    assert "tools" not in body
    assert "temperature" not in body


async def test_usage_inside_the_choice_is_found():
    last = delta(finish="stop")
    last["choices"][0]["usage"] = USAGE
    with OpenAIServer([[delta(content="x"), last]]) as server:
        assert (await collect(server))[-1].usage.prompt_tokens == 7


@pytest.mark.parametrize("indices", [(0, 1), (0, 0), (None, None)])
async def test_tool_calls_are_numbered_whatever_the_server_says(indices):
    one, two = indices
    chunks = [
        delta(tool_calls=[call(one, "a", "f", "")]),
        delta(tool_calls=[call(one, None, None, '{"x"')]) if one is not None else delta(content=""),
        delta(tool_calls=[call(two, "b", "g", "{}")]),
        delta(finish="tool_calls"),
    ]
    with OpenAIServer([chunks]) as server:
        deltas = await collect(server)
    calls = [each for each in deltas if isinstance(each, ToolCallStart)]
    named = {each.index: each.name for each in calls}
    assert named == {0: "f", 1: "g"}


@pytest.mark.parametrize(
    ("status", "headers", "error", "kind", "retryable", "wait"),
    [
        (429, {"retry-after": "7"}, "rate_limit_reached_error", "rate_limit", True, 7.0),
        (429, {"retry-after-ms": "250"}, "x", "rate_limit", True, 0.25),
        (429, {}, "engine_overloaded_error", "overloaded", True, None),
        (429, {}, "exceeded_current_quota_error", "quota", False, None),
        (503, {}, "x", "overloaded", True, None),
        (500, {}, "server_error", "overloaded", True, None),
        (401, {}, "invalid_authentication_error", "auth", False, None),
        (400, {}, "invalid_request_error", "request", False, None),
    ],
)
async def test_refusals_are_told_apart(status, headers, error, kind, retryable, wait):
    body = {"error": {"type": error, "message": "no"}}
    with OpenAIServer([(status, headers, body)]) as server:
        with pytest.raises(ModelError) as caught:
            await collect(server)
    assert (caught.value.kind, caught.value.retryable) == (kind, retryable)
    assert caught.value.retry_after == wait
    assert len(server.requests) == 1, "the client must not retry behind our back"


async def test_a_full_window_is_told_apart():
    body = {"error": {"type": "invalid_request_error", "message": "maximum context length is 10"}}
    with OpenAIServer([(400, {}, body)]) as server:
        with pytest.raises(ModelError) as caught:
            await collect(server)
    assert caught.value.kind == "context"


async def test_a_half_stream_is_retryable():
    with OpenAIServer([[delta(content="The ans"), "[cut]"]]) as server:
        with pytest.raises(ModelError) as caught:
            await collect(server)
    assert (caught.value.kind, caught.value.retryable) == ("cut", True)


async def test_a_dead_server_is_retryable():
    server = OpenAIServer([])
    server._server.server_close()
    with pytest.raises(ModelError) as caught:
        await collect(server)
    assert (caught.value.kind, caught.value.retryable) == ("connection", True)


async def test_a_stalled_server_is_given_up():
    with OpenAIServer([[delta(content="x"), 5.0, delta(finish="stop")]]) as server:
        with pytest.raises(ModelError) as caught:
            await collect(server, stall_seconds=0.3)
    assert caught.value.retryable


async def test_leaving_the_stream_closes_the_connection():
    many = [part for _ in range(200) for part in (delta(content="x" * 1000), 0.02)]
    with OpenAIServer([many]) as server:
        model = EndpointModel(server.url, "m")
        async with aclosing(model.complete(USER, [], Sampling())) as stream:
            await anext(stream)
        assert await asyncio.to_thread(server.disconnected.wait, 5)
        await model.close()


async def test_the_key_comes_from_the_environment(monkeypatch):
    monkeypatch.setenv("SOME_KEY", "sk-123")
    with OpenAIServer([[delta(content="x", finish="stop")]]) as server:
        await collect(server, api_key_env="SOME_KEY")
    assert server.authorizations == ["Bearer sk-123"]
    monkeypatch.delenv("SOME_KEY")
    with pytest.raises(UsageError, match="SOME_KEY"):
        EndpointModel(server.url, api_key_env="SOME_KEY")


async def test_sampling_goes_into_the_body():
    sampling = Sampling(
        temperature=0.5, top_p=0.9, max_tokens=64, seed=3, stop=("END",), thinking=False,
        effort="high", extra={"top_k": 5},
    )  # fmt: skip
    with OpenAIServer([[delta(content="x", finish="stop")]]) as server:
        await collect(server, sampling=sampling)
    body = server.requests[0]
    assert body["chat_template_kwargs"] == {"thinking": False}
    assert (body["max_tokens"], body["seed"], body["stop"], body["top_k"]) == (64, 3, ["END"], 5)
    assert body["reasoning_effort"] == "high"


@pytest.mark.parametrize(
    ("model", "window"),
    [
        ({"id": "m", "max_model_len": 4096}, 4096),
        ({"id": "m", "context_length": 262144}, 262144),
        ({"id": "m", "meta": {"n_ctx": 8192}}, 8192),
        ({"id": "m"}, None),
    ],
)
async def test_learns_name_and_window(model, window):
    with OpenAIServer([], models=[model]) as server:
        endpoint = EndpointModel(server.url)
        await endpoint.prepare()
        assert (endpoint.name, endpoint.context_window) == ("m", window)
        await endpoint.close()


async def test_says_which_models_there_are():
    with OpenAIServer([], models=[{"id": "one"}, {"id": "two"}]) as server:
        with pytest.raises(UsageError, match="one, two"):
            await EndpointModel(server.url).prepare()


def test_urls():
    assert EndpointModel("http://localhost:8000").endpoint == "http://localhost:8000/v1"
    assert EndpointModel("https://api.x.ai/v1").endpoint == "https://api.x.ai/v1"
    assert (
        EndpointModel("localhost:8000/v1/chat/completions").endpoint == "http://localhost:8000/v1"
    )
    for bad in ("ftp://x", "http://"):
        with pytest.raises(UsageError):
            EndpointModel(bad)


def test_prices():
    usage = Usage(prompt_tokens=1_000_000, cached_tokens=500_000, completion_tokens=100_000)
    assert Prices(prompt=1.0, cached=0.1, completion=10.0).cost(usage) == pytest.approx(1.55)


def test_retry_after_as_a_date():
    date = {"retry-after": "Wed, 21 Oct 2026 07:28:00 GMT"}
    assert retry_after(date, now=1792567670.0) == pytest.approx(10.0)
    assert retry_after({"retry-after": "soon"}) is None
    assert retry_after({"retry-after": "-5"}) is None


# --- through the loop -----------------------------------------------------------------------------


def make(server: OpenAIServer, workspace, home, given=(), **options) -> Agent:
    return Agent(
        EndpointModel(server.url, "served-model"),
        list(given),
        workspace=workspace,
        home=home,
        retry=RetryPolicy(base=0.01),
        **options,
    )


def test_a_run_over_http(workspace, home):
    """Reasoning goes back with its call, and the tool's result after it."""
    answers = [
        [
            delta(reasoning_content="I look"),
            delta(tool_calls=[call(0, "functions.append_line:0", "append_line", '{"li')]),
            delta(tool_calls=[call(0, None, None, 'ne": "x"}')]),
            delta(finish="tool_calls"),
        ],
        [delta(content="Done."), delta(finish="stop", usage=USAGE)],
    ]
    with OpenAIServer(answers) as server:
        result = make(server, workspace, home, [tools.append_line]).run("t")
    assert (result.answer, result.reason) == ("Done.", "done")
    assert (workspace / "log.txt").read_text() == "x\n"
    sent = server.requests[1]["messages"]
    assert sent[2]["reasoning_content"] == "I look"
    assert sent[2]["content"] is None
    assert sent[2]["tool_calls"][0]["id"] == sent[3]["tool_call_id"] == "functions.append_line:0"
    assert server.requests[0]["tools"][0]["function"]["name"] == "append_line"


def test_a_fault_plan_over_http(workspace, home):
    """429 bursts with Retry-After, an overloaded engine, a half stream: the run recovers."""
    slow = (429, {"retry-after": "0.2"}, {"error": {"type": "rate_limit_reached_error"}})
    busy = (503, {}, {"error": {"message": "overloaded"}})
    answers = [
        slow,
        slow,
        busy,
        [delta(content="ha"), "[cut]"],
        [delta(content="ok", finish="stop")],
    ]
    with OpenAIServer(answers) as server:
        result = make(server, workspace, home).run("t")
    assert (result.answer, len(server.requests)) == ("ok", 5)
    gaps = [b - a for a, b in zip(server.times, server.times[1:], strict=False)]
    assert gaps[0] >= 0.2
    assert gaps[1] >= 0.2


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ((401, {}, {"error": {"message": "bad key"}}), "bad key"),
        ((429, {"retry-after": "86400"}, {"error": {"message": "slow"}}), "86400"),
        ((500, {}, {"error": {"message": "boom"}}), "failed 8 times"),
    ],
)
def test_what_does_not_recover_ends_honestly(workspace, home, answer, words):
    with OpenAIServer([answer]) as server:
        result = make(server, workspace, home).run("t")
    assert result.reason == "model"
    assert words in result.detail


def test_a_server_with_a_smaller_window_than_known(workspace, home):
    """A refused prompt teaches the window; the run compacts and goes on."""

    def answer(request):
        size = len(json.dumps(request["messages"]))
        if size > 30_000:
            message = "This model's maximum context length is 7000 tokens"
            return (400, {}, {"error": {"message": message}})
        turns = sum(message["role"] == "tool" for message in request["messages"])
        if turns >= 8:
            return [delta(content="enough", finish="stop")]
        arguments = json.dumps({"characters": 6000 + turns})
        return [delta(tool_calls=[call(0, f"c{turns}", "big", arguments)], finish="tool_calls")]

    with OpenAIServer([answer]) as server:
        result = make(server, workspace, home, [tools.big]).run("t")
    assert (result.reason, result.answer) == ("done", "enough")


def test_an_overflow_in_moonshots_words_makes_the_history_smaller(workspace, home):
    """With the window unknown; and a refusal in unknown words near a known window, tried once."""

    def answer(words):
        def answer(request):
            size = len(json.dumps(request["messages"]))
            if size > 30_000:
                return (400, {}, {"error": {"message": words}})
            turns = sum(message["role"] == "tool" for message in request["messages"])
            if turns >= 8:
                return [delta(content="enough", finish="stop")]
            arguments = json.dumps({"characters": 6000 + turns})
            return [delta(tool_calls=[call(0, f"c{turns}", "big", arguments)], finish="tool_calls")]

        return answer

    with OpenAIServer([answer("Your request exceeded model token limit: 7000")]) as server:
        result = make(server, workspace, home, [tools.big]).run("t")
    assert (result.reason, result.answer) == ("done", "enough")
    unknown = answer("Das ist mir zu viel")
    with OpenAIServer([unknown]) as server:
        result = make(server, workspace, home, [tools.big], context_window=9000).run("t")
    assert (result.reason, result.answer) == ("done", "enough")
    with OpenAIServer([unknown]) as server:
        result = make(server, workspace, home, [tools.big], context_window=900_000).run("t")
    assert (result.reason, "zu viel" in result.detail) == ("model", True), "far from the window"


def test_a_refusal_of_another_cause_is_tried_once_and_ends_the_run(workspace, home):
    """Near the window, a refusal that the smaller history gets too is the answer."""

    def answer(request):
        if any(message["role"] == "tool" for message in request["messages"]):
            return (400, {}, {"error": {"message": "no such thing"}})
        arguments = json.dumps({"characters": 24_000})
        return [delta(tool_calls=[call(0, "c", "big", arguments)], finish="tool_calls")]

    with OpenAIServer([answer]) as server:
        result = make(server, workspace, home, [tools.big], context_window=5500).run("t")
        assert len(server.requests) <= 4
    assert result.reason in ("model", "context")


def test_a_section_in_the_content_is_run_and_a_broken_one_asked_again(workspace, home):
    begin, end = "<|tool_calls_section_begin|><|tool_call_begin|>", "<|tool_calls_section_end|>"
    arguments = '<|tool_call_argument_begin|>{"line": "x"}<|tool_call_end|>'
    answers = [
        [delta(content=f"{begin}functions.append_li"), delta(finish="stop")],
        [delta(content=f"{begin}functions.append_line:0{arguments}{end}"), delta(finish="stop")],
        [delta(content="Done.<|im_end|>"), delta(finish="stop")],
    ]
    with OpenAIServer(answers) as server:
        result = make(server, workspace, home, [tools.append_line]).run("t")
    assert (result.answer, result.reason) == ("Done.", "done")
    assert (workspace / "log.txt").read_text() == "x\n"


def test_sections_that_stay_broken_end_the_run_soon(workspace, home):
    broken = [delta(content="<|tool_calls_section_begin|>"), delta(finish="stop")]
    with OpenAIServer([broken]) as server:
        result = make(server, workspace, home, [tools.append_line]).run("t")
        assert len(server.requests) == 3
    assert (result.reason, result.answer) == ("model", "")


def test_thinking_in_the_content_is_no_answer(workspace, home):
    chunks = [delta(content="Hm, he"), delta(content="llo?</th"), delta(content="ink>\n\nHi.")]
    seen = []
    with OpenAIServer([[*chunks, delta(finish="stop")]]) as server:
        agent = make(server, workspace, home, on_record=lambda r: seen.append(r.event))
        result = agent.run("t")
    assert result.answer == "Hi."
    (message,) = [each for each in seen if isinstance(each, AssistantMessage)]
    assert message.reasoning == "Hm, hello?"


def test_malformed_arguments_do_not_go_back_as_they_came():
    broken = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a'}}
    (sent,) = to_wire([{"role": "assistant", "content": "", "tool_calls": [broken]}])
    assert json.loads(sent["tool_calls"][0]["function"]["arguments"]) == {
        "malformed_arguments": '{"a'
    }


def test_images_of_tools_stand_in_their_results(workspace, home):
    image = image_part(png())

    @tool(side_effects=False)
    def look() -> ToolResult:
        """See."""
        return ToolResult([{"type": "text", "text": "a chart"}, image])

    answers = [
        [delta(tool_calls=[call(0, "c", "look", "{}")], finish="tool_calls")],
        [delta(content="seen", finish="stop")],
    ]
    with OpenAIServer(answers) as server:
        make(server, workspace, home, [look]).run("t")
    result = server.requests[1]["messages"][-1]
    assert (result["role"], result["content"][1]) == ("tool", image)
    assert result["content"][0]["text"] == "a chart"
