"""The embedded engine as a chat model: no server, no wire, the model's own tokenizer."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from perilune.agent.models.chat_model import Message, ModelError, Sampling
from perilune.agent.models.wire import to_wire
from perilune.chat.deltas import Delta, Finished, FinishReason, Truncated
from perilune.errors import (
    ChatError,
    ContextLengthError,
    EngineDeadError,
    MediaError,
    MediaFault,
    RequestError,
)
from perilune.events import Usage

if TYPE_CHECKING:
    from perilune.chat.format import ChatFormat
    from perilune.engine.async_engine import AsyncEngine
    from perilune.engine.outputs import SequenceOutput
    from perilune.engine.sampling_params import SamplingParams

_ANCHOR: Message = {"role": "system", "content": "x"}
"""Stands before a message that is counted alone, so that no default system prompt is added."""


class EngineModel:
    """A `ChatModel` over an `AsyncEngine`. Closing it ends an engine that it started itself."""

    def __init__(
        self, engine: AsyncEngine, *, name: str = "engine", context_window: int | None = None
    ) -> None:
        if engine.chat_format is None:
            raise ChatError("this engine has no chat format, so it cannot hold a conversation")
        self.name = name
        self.endpoint = f"engine:{id(engine)}"
        self.context_window = context_window
        self._engine = engine
        self._format: ChatFormat = engine.chat_format
        self._anchor = self._length([_ANCHOR])
        self._folder: Path | None = None
        self._options: dict[str, Any] = {}

    @classmethod
    def from_pretrained(cls, folder: str | Path, **options: Any) -> Self:
        """A model over a checkpoint folder; `options` are those of the engine.

        The weights are loaded before the first completion. Raises `CheckpointError`.
        """
        from perilune.config import read_config
        from perilune.engine.async_engine import AsyncEngine

        folder = Path(folder)
        window = options.get("max_context") or read_config(folder).text.max_position_embeddings
        model = cls(AsyncEngine(folder, **options), name=folder.name, context_window=window)
        model._folder, model._options = folder, options
        return model

    async def prepare(self) -> None:
        await self._engine.start()

    async def complete(
        self,
        messages: Sequence[Message],
        tools: Sequence[dict[str, Any]],
        sampling: Sampling,
    ) -> AsyncGenerator[Delta, None]:
        finished: SequenceOutput | None = None
        cut = False
        stream = self._engine.chat(
            to_wire(messages),
            self._params(sampling),
            tools=list(tools) or None,
            thinking=sampling.thinking is not False,
        )
        try:
            async with aclosing(stream) as outputs:
                async for output in outputs:
                    for delta in output.deltas:
                        cut = cut or isinstance(delta, Truncated)
                        if not isinstance(delta, Finished):  # its own comes below, with usage
                            yield delta
                    if output.finish_reason is not None:
                        finished = output
        except EngineDeadError as error:
            raise ModelError(error.message, kind="overloaded", retryable=True) from error
        except MediaError as error:
            raise _picture_error(error) from error
        except (RequestError, ChatError) as error:
            kind = "context" if error.code == ContextLengthError.code else "request"
            raise ModelError(error.message, kind=kind, remedy=error.remedy) from error
        if finished is None or finished.error is not None:
            detail = finished.error if finished is not None else "it has no end"
            raise ModelError(f"the engine's stream broke: {detail}", kind="cut", retryable=True)
        # A call that the model left half-written must not run, whatever ended the text.
        reason = FinishReason.LENGTH if cut else finished.finish_reason
        assert reason is not None
        yield Finished(reason, _usage(finished), response_id=finished.request_id, model=self.name)

    def count_tokens(
        self, messages: Sequence[Message], tools: Sequence[dict[str, Any]]
    ) -> int | None:
        """By the model's own tokenizer; messages are counted one by one."""
        return sum(self._count(message) for message in to_wire(messages))

    async def close(self) -> None:
        """End the engine that `from_pretrained` made; the next `prepare` starts a new one."""
        if self._folder is not None:
            from perilune.engine.async_engine import AsyncEngine

            await self._engine.close()
            self._engine = AsyncEngine(self._folder, **self._options)

    def _count(self, message: Message) -> int:
        if message["role"] == "system":
            return self._length([message])
        if message["role"] == "tool":  # a result may only stand after its call
            name, call_id = message.get("name") or "f", message["tool_call_id"]
            function = {"name": name, "arguments": "{}"}
            call = {"id": call_id, "type": "function", "function": function}
            asked: Message = {"role": "assistant", "content": None, "tool_calls": [call]}
            return self._length([_ANCHOR, asked, message]) - self._length([_ANCHOR, asked])
        return self._length([_ANCHOR, message]) - self._anchor

    def _length(self, messages: Sequence[Message]) -> int:
        return len(self._format.encode(messages, add_generation_prompt=False))

    def _params(self, sampling: Sampling) -> SamplingParams:
        """What the model card recommends, with what was asked for in its place."""
        from perilune.engine.conversation import recommended_sampling

        thinking = sampling.thinking is not False
        wanted: dict[str, Any] = {
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_tokens": sampling.max_tokens,
            "seed": sampling.seed,
            "stop": sampling.stop or None,
            "thinking_budget": sampling.thinking_tokens,
        }
        given = {name: value for name, value in wanted.items() if value is not None}
        return replace(recommended_sampling(self._format.family, thinking=thinking), **given)


def _picture_error(error: MediaError) -> ModelError:
    kind, room = "request", None
    if error.kind is MediaFault.NO_VISION:
        kind = "no_vision"
    elif error.kind is MediaFault.COUNT and error.limit:
        kind, room = "pictures", int(error.limit)
    return ModelError(error.message, kind=kind, room=room, remedy=error.remedy)


def _usage(output: SequenceOutput) -> Usage | None:
    metrics = output.metrics
    if metrics is None:
        return None
    return Usage(
        prompt_tokens=metrics.prompt_tokens,
        completion_tokens=metrics.output_tokens,
        cached_tokens=metrics.cached_tokens,
    )
