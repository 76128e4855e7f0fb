"""What comes back from a sequence."""

from __future__ import annotations

from dataclasses import dataclass

from perilune.chat.deltas import Delta, FinishReason, TokenLogprob
from perilune.engine.request import RequestMetrics


@dataclass(frozen=True, slots=True)
class SequenceOutput:
    """What one step brought one sequence. The last of a sequence has a finish_reason."""

    request_id: str
    index: int
    tokens: tuple[int, ...] = ()
    deltas: tuple[Delta, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    prompt_logprobs: tuple[TokenLogprob, ...] = ()  # from the second token; with the first output
    finish_reason: FinishReason | None = None
    stop: int | str | None = None  # the stop id or string that ended it
    error: str | None = None
    error_code: str = ""  # of the RequestError that `error` is the text of
    error_param: str = ""
    metrics: RequestMetrics | None = None  # with the last output of the request
