"""EngineModel: the embedded engine as the agent's model, on a toy checkpoint and on a fake one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from perilune.agent.agent import Agent, resolve_model
from perilune.agent.budgets import Budget
from perilune.agent.journal.journal import read_journal
from perilune.agent.models.chat_model import ModelError, Sampling
from perilune.agent.models.engine import EngineModel
from perilune.agent.models.tokens import TokenCounter
from perilune.agent.pictures.store import open_picture
from perilune.chat import deltas as chat
from perilune.chat.deltas import FinishReason
from perilune.chat.format import ChatFormat
from perilune.engine.outputs import SequenceOutput
from perilune.engine.request import RequestMetrics
from perilune.errors import (
    CheckpointError,
    ContextLengthError,
    EngineDeadError,
    MediaError,
    MediaFault,
    RequestError,
)
from perilune.events import AssistantMessage, ModelHasNoVision, ToolFinished
from perilune.home import find_run
from tests.agent import simple_tools as tools
from tests.agent.drawn import image_part, png
from tests.engine.models import write_tiny

OPTIONS = {"exact": True, "cache_tokens": 8192, "max_sequences": 2, "max_context": 4096}


@pytest.fixture(scope="module", autouse=True)
def one_torch_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("agent") / "tiny")


def test_a_run_on_the_engine(folder, workspace, home):
    """The toy model babbles; what is asserted is that its babble is a run like any other."""
    model = EngineModel.from_pretrained(folder, **OPTIONS)
    assert model.context_window == 4096
    agent = Agent(
        model,
        [tools.read_log],
        system_prompt="Be brief.",
        workspace=workspace,
        home=home,
        sampling=Sampling(max_tokens=16, seed=1, temperature=1.0),
        budget=Budget(steps=2),
    )
    for _ in range(2):  # closing after a sync run does not spend the model
        result = agent.run("hello")
        assert result.reason in ("done", "unverified", "budget:steps")
        records = read_journal(find_run(result.run, home)).records
        messages = [r.event for r in records if isinstance(r.event, AssistantMessage)]
        assert messages[0].usage.completion_tokens == 16
        assert messages[0].usage.prompt_tokens > 20
        assert messages[0].content or messages[0].reasoning


async def test_tokens_are_counted_as_the_engine_will(folder):
    model = EngineModel.from_pretrained(folder, **OPTIONS)
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "How far is the Moon?"},
        {
            "role": "assistant",
            "content": "",
            "reasoning_content": "hm",
            "tool_calls": [
                {"id": "functions.f:0", "type": "function",
                 "function": {"name": "f", "arguments": "{}"}}
            ],
        },
        {"role": "tool", "tool_call_id": "functions.f:0", "name": "f", "content": "far " * 50},
    ]  # fmt: skip
    whole = len(ChatFormat.from_pretrained(folder).encode(messages, add_generation_prompt=False))
    assert model.count_tokens(messages, []) == whole
    await model.close()


def test_a_folder_that_is_no_checkpoint(tmp_path):
    with pytest.raises(CheckpointError):
        resolve_model(tmp_path)


# --- what the engine says, translated -------------------------------------------------------------


class FakeEngine:
    """Says what it is told to."""

    def __init__(self, folder: Path, answers) -> None:
        self.chat_format = ChatFormat.from_pretrained(folder)
        self.answers = iter(answers)
        self.asked = []

    async def start(self) -> None: ...

    def chat(self, messages, params, *, tools, thinking):
        self.asked.append((messages, params, tools, thinking))
        answer = next(self.answers)

        async def stream():
            if isinstance(answer, Exception):
                raise answer
            *deltas, finish = answer
            for delta in deltas:
                yield SequenceOutput("r", 0, deltas=(delta,))
            metrics = RequestMetrics(prompt_tokens=5, output_tokens=3, cached_tokens=2)
            yield SequenceOutput("r", 0, finish_reason=finish, metrics=metrics)

        return stream()


def call(name: str, arguments: str, *, ended: bool = True):
    deltas = [
        chat.ToolCallStart(0, f"functions.{name}:0", name),
        chat.ToolCallArguments(0, arguments[:4]),
        chat.ToolCallArguments(0, arguments[4:]),
    ]
    return [*deltas, chat.ToolCallEnd(0)] if ended else [
        *deltas, chat.Truncated("tool_call_arguments", arguments)
    ]  # fmt: skip


def run(folder, workspace, home, answers, task="t", **options):
    engine = FakeEngine(folder, answers)
    agent = Agent(
        EngineModel(engine), [tools.append_line], workspace=workspace, home=home, **options
    )
    result = agent.run(task)
    records = read_journal(find_run(result.run, home)).records
    return engine, result, [r.event for r in records]


def test_thinking_calls_and_text_come_through(folder, workspace, home):
    answers = [
        [chat.ReasoningDelta("hm"), *call("append_line", '{"line": "x"}'), FinishReason.TOOL_CALLS],
        [chat.ContentDelta("Do"), chat.ContentDelta("ne."), FinishReason.STOP],
    ]
    engine, result, events = run(folder, workspace, home, answers)
    assert (result.answer, result.reason) == ("Done.", "done")
    assert (workspace / "log.txt").read_text() == "x\n"
    first = next(event for event in events if isinstance(event, AssistantMessage))
    assert (first.reasoning, first.tool_calls[0].id) == ("hm", "functions.append_line:0")
    assert first.usage.cached_tokens == 2
    messages, params, declared, thinking = engine.asked[1]
    assert messages[2]["reasoning_content"] == "hm"
    assert params.temperature == 1.0
    assert params.top_p == 0.95, "as the model card says"
    assert thinking
    assert declared[0]["function"]["name"] == "append_line"


def test_a_call_that_breaks_off_does_not_run(folder, workspace, home):
    """Whatever ended the text: a half-written call with arguments that happen to parse, too."""
    answers = [
        [*call("append_line", '{"line": "x"}', ended=False), FinishReason.STOP],
        [chat.ContentDelta("ok"), FinishReason.STOP],
    ]
    _, result, events = run(folder, workspace, home, answers)
    assert result.ok
    assert not (workspace / "log.txt").exists()
    finished = next(event for event in events if isinstance(event, ToolFinished))
    assert finished.outcome == "refused"


def test_a_dead_engine_is_asked_again(folder, workspace, home):
    from perilune.agent.models.retry import RetryPolicy

    answers = [EngineDeadError("it died"), [chat.ContentDelta("back"), FinishReason.STOP]]
    policy = RetryPolicy(base=0.001)
    _, result, _ = run(folder, workspace, home, answers, retry=policy)
    assert result.answer == "back"


TASK = [{"type": "text", "text": "What is it?"}, image_part(png(56, 56), name="mock.png")]


def test_pictures_reach_the_engine_as_parts(folder, workspace, home):
    answers = [[chat.ContentDelta("Red."), FinishReason.STOP]]
    engine, result, _ = run(folder, workspace, home, answers, TASK)
    assert result.ok
    assert engine.asked[0][0][-1]["content"] == [TASK[0], image_part(png(56, 56))]


def test_an_engine_without_eyes_is_told_once(folder, workspace, home):
    blind = MediaError(MediaFault.NO_VISION, "this model reads text only")
    answers = [blind, [chat.ContentDelta("I cannot see."), FinishReason.STOP]]
    engine, result, events = run(folder, workspace, home, answers, TASK)
    assert result.answer == "I cannot see."
    assert "mock.png, PNG, 56 x 56" in str(engine.asked[1][0])
    assert sum(isinstance(event, ModelHasNoVision) for event in events) == 1


async def test_pictures_are_counted_by_their_header(folder):
    """By the tokenizer what is text, by the size rule what is not."""
    counter = TokenCounter(EngineModel(FakeEngine(folder, [])))
    assert counter.exact
    picture = open_picture(png(1280, 720))
    text = {"role": "user", "content": [TASK[0], {"type": "text", "text": ""}]}
    both = {"role": "user", "content": [TASK[0], picture.part]}
    assert counter.message(both) == counter.message(text) + 1196 + 5


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ContextLengthError("the prompt has 9 tokens, but the model reads at most 8"), "context"),
        (RequestError("top_p must be positive"), "request"),
        (MediaError(MediaFault.NO_VISION, "this model reads text only"), "no_vision"),
        (MediaError(MediaFault.COUNT, "too many", limit=4), "pictures"),
        (MediaError(MediaFault.TRUNCATED, "it ends early"), "request"),
    ],
)
async def test_refusals_are_told_apart(folder, error, kind):
    model = EngineModel(FakeEngine(folder, [error]))
    with pytest.raises(ModelError) as caught:
        async for _ in model.complete([{"role": "user", "content": "x"}], [], Sampling()):
            pass
    assert caught.value.kind == kind
