"""`LLM`: prompts in, answers out, in one call. The face for scripts and notebooks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from perilune.chat.deltas import ContentDelta, Delta, FinishReason, ReasoningDelta, TokenLogprob
from perilune.chat.format import ChatFormat
from perilune.chat.turn import assemble
from perilune.engine.conversation import encode_conversation, recommended_sampling
from perilune.engine.engine import Engine
from perilune.engine.load import load_engine
from perilune.engine.options import EngineOptions
from perilune.engine.outputs import SequenceOutput
from perilune.engine.request import OutputFormat, RequestMetrics
from perilune.engine.sampling_params import SamplingParams
from perilune.errors import RequestError, UsageError, request_error
from perilune.model.model import KimiK2Model

Prompt = str | Sequence[int]
Message = Mapping[str, Any]
Params = SamplingParams | Sequence[SamplingParams]


@dataclass(slots=True)
class Answer:
    """One answer to a prompt. Of a chat: `message` is the assistant's, OpenAI-shaped."""

    index: int
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    deltas: list[Delta] = field(default_factory=list, repr=False)
    finish_reason: FinishReason | None = None
    stop: int | str | None = None

    @property
    def text(self) -> str:
        return "".join(d.text for d in self.deltas if isinstance(d, ContentDelta))

    @property
    def reasoning(self) -> str:
        return "".join(d.text for d in self.deltas if isinstance(d, ReasoningDelta))

    @property
    def message(self) -> dict[str, Any]:
        return assemble(self.deltas)

    def add(self, output: SequenceOutput) -> None:
        self.token_ids += output.tokens
        self.logprobs += output.logprobs
        self.deltas += output.deltas
        self.finish_reason = output.finish_reason or self.finish_reason
        self.stop = output.stop if output.stop is not None else self.stop


@dataclass(slots=True)
class Result:
    """What came of one prompt: its n answers and where the time went."""

    prompt_ids: list[int]
    answers: list[Answer]
    metrics: RequestMetrics | None = None

    @property
    def text(self) -> str:
        """Of the first answer."""
        return self.answers[0].text

    @property
    def message(self) -> dict[str, Any]:
        """Of the first answer."""
        return self.answers[0].message


class LLM:
    """A model and its engine, in this thread.

        llm = LLM("path/to/checkpoint")
        llm.generate("The Moon is", SamplingParams(max_tokens=32))[0].text

    `options` are the fields of `EngineOptions` (exact, cache_tokens, max_context, ...). With a
    `KimiK2Model` instead of a folder give `chat` as well, or use token ids only.
    """

    def __init__(
        self, model: str | Path | KimiK2Model, *, chat: ChatFormat | None = None, **options: Any
    ) -> None:
        self.engine: Engine = load_engine(model, read_options(options), chat=chat)
        self.chat_format = self.engine.chat
        self.media_reader = self.engine.media_reader  # None: the model reads text only

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        params: Params | None = None,
        *,
        progress: bool | None = None,
    ) -> list[Result]:
        """Continue each prompt (text or token ids) -> a Result each, in order.

        `params` is for all, or one each. Raises RequestError when one of them makes no sense; then
        none has run. `progress` shows a bar; None: on a terminal, for several prompts.
        """
        many = _prompts(prompts)
        encoded = [self._encode(prompt) for prompt in many]
        each = _params_each(params or SamplingParams(), len(many))
        output = OutputFormat.TEXT if self.chat_format else OutputFormat.TOKENS
        with self._all_or_none() as added:
            for prompt, one in zip(encoded, each, strict=True):
                added.append(self.engine.add_request(prompt, one, output=output))
        return self._run(added, encoded, progress)

    def chat(
        self,
        messages: Sequence[Message] | Sequence[Sequence[Message]],
        params: Params | None = None,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        tool_choice: str | Mapping[str, Any] = "auto",
        parallel_tool_calls: bool = True,
        thinking: bool = True,
        preserve_thinking: bool = False,
        progress: bool | None = None,
    ) -> list[Result]:
        """Answer a conversation (a list of messages), or each of several -> a Result each.

        Messages may hold pictures and clips (`image_url`, `video_url`) where the model has eyes.
        Without `params` it samples as the model card says. Raises ChatError (MediaError is one) and
        RequestError.
        """
        if self.chat_format is None:
            raise UsageError("the engine has no chat format", remedy="Give LLM a folder, or chat=")
        many = _conversations(messages)
        default = recommended_sampling(self.chat_format.family, thinking=thinking)
        each = _params_each(params or default, len(many))
        conversations = [
            encode_conversation(
                self.chat_format,
                conversation,
                tools,
                tool_choice=tool_choice,
                parallel_tool_calls=parallel_tool_calls,
                thinking=thinking,
                preserve_thinking=preserve_thinking,
                media=self.media_reader,
            )
            for conversation in many
        ]
        with self._all_or_none() as added:
            for conversation, one in zip(conversations, each, strict=True):
                added.append(
                    self.engine.add_request(
                        conversation.prompt,
                        one,
                        output=OutputFormat.CHAT,
                        thinking=conversation.thinking,
                        tools=conversation.tools,
                        media=conversation.media,
                    )
                )
        return self._run(added, [c.prompt for c in conversations], progress)

    def close(self) -> None:
        self.engine.close()

    def __enter__(self) -> LLM:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _encode(self, prompt: Prompt) -> list[int]:
        if not isinstance(prompt, str):
            return list(prompt)
        if self.chat_format is None:
            raise UsageError("the engine has no tokenizer", remedy="Give token ids, or chat=")
        return self.chat_format.tokenizer.encode(prompt)

    @contextmanager
    def _all_or_none(self) -> Iterator[list[str]]:
        """Collects request ids; when one is refused the others are taken back."""
        added: list[str] = []
        try:
            yield added
        except BaseException:
            self._cancel(added)
            raise

    def _cancel(self, request_ids: Sequence[str]) -> None:
        for request_id in request_ids:
            self.engine.cancel(request_id)
        self.engine.step()  # takes the outputs of the cancellations with it

    def _run(
        self, request_ids: Sequence[str], prompts: Sequence[list[int]], progress: bool | None
    ) -> list[Result]:
        """Step until all are done. An interrupt cancels them and leaves the engine usable."""
        results = {
            request_id: Result(prompt, [])
            for request_id, prompt in zip(request_ids, prompts, strict=True)
        }
        error: RequestError | None = None
        try:
            with _bar(len(results), progress) as advance:
                while self.engine.has_work:
                    for output in self.engine.step():
                        result = results[output.request_id]
                        while len(result.answers) <= output.index:
                            result.answers.append(Answer(len(result.answers)))
                        result.answers[output.index].add(output)
                        if output.error is not None:
                            error = request_error(
                                output.error_code, f"{output.request_id}: {output.error}"
                            )
                        if output.metrics is not None:
                            result.metrics = output.metrics
                            advance()
        except BaseException:
            self._cancel(request_ids)
            raise
        if error is not None:
            raise error
        return list(results.values())


def read_options(options: Mapping[str, Any]) -> EngineOptions:
    """Keyword arguments -> EngineOptions. Raises UsageError naming one that there is not."""
    known = EngineOptions.__dataclass_fields__
    if unknown := [name for name in options if name not in known]:
        raise UsageError(
            f"there is no engine option {unknown[0]!r}", remedy=f"There are: {', '.join(known)}"
        )
    return EngineOptions(**options)


def _prompts(prompts: Prompt | Sequence[Prompt]) -> list[Prompt]:
    if isinstance(prompts, str):
        return [prompts]
    items: list[Any] = list(prompts)
    return [items] if items and isinstance(items[0], int) else items


def _conversations(
    messages: Sequence[Message] | Sequence[Sequence[Message]],
) -> list[Sequence[Message]]:
    items: list[Any] = list(messages)
    return [items] if items and isinstance(items[0], Mapping) else items


def _params_each(params: Params, count: int) -> list[SamplingParams]:
    if isinstance(params, SamplingParams):
        return [params] * count
    if len(params) != count:
        raise UsageError(f"{len(params)} sampling params for {count} prompts")
    return list(params)


@contextmanager
def _bar(total: int, progress: bool | None) -> Iterator[Any]:
    """A function to call for each finished request; shows a bar on a terminal by default."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    if progress is False or (progress is None and (total == 1 or not console.is_terminal)):
        yield lambda: None
        return
    with Progress(console=console) as bar:
        task = bar.add_task("Requests", total=total)
        yield lambda: bar.advance(task)
