"""From the engine's outputs to the deltas of the answers (`stream.py`), with usage and scores."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from perilune.chat.deltas import (
    ContentDelta,
    Delta,
    Finished,
    FinishReason,
    ReasoningDelta,
    ReasoningEnd,
    TokenLogprob,
    ToolCallStart,
    Truncated,
)
from perilune.chat.format import ChatFormat
from perilune.chat.media import MediaKind, MediaSpan
from perilune.chat.parser import Channel
from perilune.engine.async_engine import EngineStream
from perilune.engine.core_messages import Add
from perilune.engine.outputs import SequenceOutput
from perilune.engine.request import OutputFormat, RequestMetrics
from perilune.errors import GrammarError, MediaRequestError, PeriluneError, RequestError
from perilune.events import Usage
from perilune.serve.api_error import ApiError, api_error
from perilune.serve.stream import AnswerDelta, Completed, Event


def media_tokens(media: Sequence[MediaSpan]) -> dict[MediaKind, int]:
    """How many of a prompt's tokens are pictures', and how many clips'."""
    counts: dict[MediaKind, int] = {"image": 0, "video": 0}
    for span in media:
        counts[span.item.kind] += span.length
    return counts


@dataclass(slots=True)
class _Track:
    """What is known of one answer while it comes."""

    thinking: bool  # by the ids so far
    in_call: bool = False
    reasoned: bool = False  # reasoning was sent and its end was not
    reasoning: int = 0  # tokens of it
    tokens: list[int] = field(default_factory=list)
    scores: list[TokenLogprob] = field(default_factory=list)  # whose text has not come yet
    cut: bool = False


class AnswerStream:
    """The events of one request. `aclose` before the end cancels it. Raises ApiError."""

    def __init__(
        self,
        add: Add,
        outputs: EngineStream,
        chat: ChatFormat,
        on_close: Callable[[AnswerStream], None],
        media: Sequence[MediaSpan] = (),
    ) -> None:
        """`media`: the pads of the prompt's pictures and clips."""
        self.request_id = add.request_id
        self.prompt = list(add.prompt)
        self.media_tokens = media_tokens(media)
        self.n = add.params.n
        self.params = add.params
        self.opened = time.monotonic()
        self.token_times: list[float] = []  # of the first answer's outputs, for latencies
        self.token_counts: list[int] = []  # and how many tokens each brought
        self.finish_reasons: list[FinishReason] = []
        self.prompt_scores: tuple[TokenLogprob, ...] = ()  # of the prompt's second token and on
        self.metrics: RequestMetrics | None = None
        self.error: ApiError | None = None  # what broke it
        self._outputs = outputs
        self._on_close = on_close
        self._closed = False
        self._events: deque[Event] = deque()
        self._ids = chat.special_ids
        is_chat = add.output is OutputFormat.CHAT
        self._special = (
            frozenset(i for i in (chat.tokenizer.special_tokens or {}).values())
            if is_chat
            else frozenset()
        )
        thinking = is_chat and (
            chat.parser(thinking=add.thinking, prompt=add.prompt).channel is Channel.REASONING
        )
        self._tracks = [_Track(thinking) for _ in range(self.n)]

    @property
    def completed(self) -> bool:
        """Whether all of its answers came to their ends."""
        return self.metrics is not None

    @property
    def failed(self) -> bool:
        return self.error is not None

    @property
    def prompt_tokens(self) -> int:
        return len(self.prompt)

    @property
    def completion_tokens(self) -> int:
        return sum(len(track.tokens) for track in self._tracks)

    @property
    def more_is_here(self) -> bool:
        """Whether the next event needs no waiting: frames that come together go out together."""
        return bool(self._events)

    def __aiter__(self) -> AnswerStream:
        return self

    async def __anext__(self) -> Event:
        while not self._events:
            if self._closed:
                raise StopAsyncIteration
            try:
                output = await anext(self._outputs)
                self._take(output)
            except StopAsyncIteration:
                await self.aclose()
                raise
            except PeriluneError as error:
                self.error = _failure(error)
                await self.aclose()
                raise self.error from None
            except ApiError as error:
                self.error = error
                await self.aclose()
                raise
        return self._events.popleft()

    async def begin(self) -> None:
        """Wait for the first event, and keep it. Raises ApiError for what goes wrong before it."""
        try:
            self._events.appendleft(await anext(self))
        except StopAsyncIteration:
            pass
        except BaseException:
            await self.aclose()
            raise

    async def aclose(self) -> None:
        """Leave; safe to call again."""
        if not self._closed:
            self._closed = True
            await self._outputs.aclose()
            self._on_close(self)

    # --- one output of the engine ------------------------------------------------------------

    def _take(self, output: SequenceOutput) -> None:
        track = self._tracks[output.index]
        if output.tokens and output.index == 0:
            self.token_times.append(time.monotonic())
            self.token_counts.append(len(output.tokens))
        if output.prompt_logprobs:
            self.prompt_scores = output.prompt_logprobs
        self._count(track, output)
        for delta in output.deltas:
            self._delta(output.index, track, delta)
        if output.finish_reason is not None:
            self._finish(output, track)

    def _count(self, track: _Track, output: SequenceOutput) -> None:
        """Which tokens were thinking, and which scores belong to the answer."""
        ids = self._ids
        track.tokens += output.tokens
        scores = iter(output.logprobs)
        for token in output.tokens:
            score = next(scores, None)
            if token in self._special:
                if token == ids.think and not track.in_call:
                    track.thinking = True
                elif token in (
                    ids.end_think, ids.tool_calls_section_begin, ids.tool_call_begin,
                    ids.tool_calls_section_end,
                ):  # fmt: skip
                    track.thinking = False
                    track.in_call = token in (ids.tool_calls_section_begin, ids.tool_call_begin)
            elif track.thinking:
                track.reasoning += 1
            elif not track.in_call and score is not None:
                track.scores.append(score)

    def _delta(self, index: int, track: _Track, delta: Delta) -> None:
        """Hand a delta on; text without what is not text, content with its scores."""
        match delta:
            case ReasoningDelta(text):
                if text := _valid(text):
                    track.reasoned = True
                    self._put(index, ReasoningDelta(text))
            case ContentDelta(text):
                self._end_reasoning(index, track)
                if text := _valid(text):
                    scores, track.scores = track.scores, []
                    self._put(index, ContentDelta(text, tuple(scores)))
            case Truncated(where, _):
                track.cut = track.cut or where != "reasoning"
            case Finished():
                pass  # `_finish` says it, with usage
            case _:
                if isinstance(delta, ToolCallStart):
                    self._end_reasoning(index, track)
                self._put(index, delta)

    def _put(self, index: int, delta: Delta) -> None:
        self._events.append(AnswerDelta(index, delta))

    def _end_reasoning(self, index: int, track: _Track) -> None:
        if track.reasoned:
            track.reasoned = False
            self._put(index, ReasoningEnd())

    def _finish(self, output: SequenceOutput, track: _Track) -> None:
        reason = output.finish_reason
        assert reason is not None
        if reason is FinishReason.CANCELLED:
            raise ApiError(499, f"request {self.request_id} was cancelled", code="cancelled")
        self._end_reasoning(output.index, track)
        if track.scores and track.scores[-1].token == output.stop:
            track.scores.pop()  # a stop id is not text
        if track.scores:
            self._put(output.index, ContentDelta("", tuple(track.scores)))
        # A call that was left half-written must not run, whatever ended the text.
        if track.cut:
            reason = FinishReason.LENGTH
        self.finish_reasons.append(reason)
        cached = 0 if output.metrics is None else output.metrics.cached_tokens
        usage = Usage(
            prompt_tokens=len(self.prompt),
            completion_tokens=len(track.tokens),
            reasoning_tokens=track.reasoning,
            cached_tokens=cached,
        )
        self._put(output.index, Finished(reason, usage, output.stop, tuple(track.tokens)))
        if output.metrics is not None:
            self.metrics = output.metrics
            total = Usage(
                prompt_tokens=len(self.prompt),
                completion_tokens=self.completion_tokens,
                reasoning_tokens=sum(each.reasoning for each in self._tracks),
                cached_tokens=cached,
            )
            self._events.append(Completed(total, output.metrics))


def _valid(text: str) -> str:
    """Without U+FFFD, which stands for bytes that are not text."""
    return text.replace("\N{REPLACEMENT CHARACTER}", "")


def _failure(error: PeriluneError) -> ApiError:
    """What a client is told when a request fails that had been taken."""
    if isinstance(error, RequestError) and not isinstance(error, GrammarError | MediaRequestError):
        return ApiError(500, str(error), code="generation_failed")
    return api_error(error)
