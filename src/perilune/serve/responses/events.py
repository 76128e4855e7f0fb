"""Deltas of an answer -> the events of OpenAI's Responses API, and the response that they lead to.

    response.created response.in_progress
    (output_item.added ... output_item.done)*      reasoning, message, function_call, in this order
    response.completed | response.incomplete | response.failed

A call that was cut gets no `done` and no place in the final output, so that nobody runs it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from perilune.chat.deltas import (
    ContentDelta,
    Delta,
    Finished,
    FinishReason,
    ReasoningDelta,
    ReasoningEnd,
    TokenLogprob,
    ToolCallArguments,
    ToolCallEnd,
    ToolCallStart,
)
from perilune.events import Usage
from perilune.serve.api_error import ApiError
from perilune.serve.request import new_id
from perilune.serve.stream import Completed
from perilune.serve.thought import carry

ApiEvent = dict[str, Any]
Scores = Callable[[Sequence[TokenLogprob]], list[dict[str, Any]]]


class ResponseEvents:
    """Translates the stream of one request. `start` first, then each delta through `feed`.

    `response` is the response as it stands, and the whole reply after the last event. `scores`
    puts log probabilities into words; None when they were not asked for. `namespaces`: the name of
    a called tool -> (namespace, name there).
    """

    def __init__(
        self,
        response: dict[str, Any],
        *,
        carry_reasoning: bool = False,
        scores: Scores | None = None,
        namespaces: Mapping[str, tuple[str, str]] | None = None,
    ) -> None:
        self.response = {**response, "status": "in_progress", "output": []}
        self._carry_reasoning = carry_reasoning
        self._scores = scores
        self._namespaces = namespaces or {}
        self._number = 0
        self._index = -1  # of the item under way
        self._item: dict[str, Any] | None = None
        self._text: list[str] = []
        self._logprobs: list[dict[str, Any]] = []

    def start(self) -> Iterator[ApiEvent]:
        """What a client learns before the first token."""
        for kind in ("response.created", "response.in_progress"):
            yield self._event(kind, response={**self.response, "output": []})

    def feed(self, event: Delta | Completed) -> Iterator[ApiEvent]:
        match event:
            case ReasoningDelta(text):
                yield from self._open_reasoning()
                yield self._delta("response.reasoning_text.delta", text, content_index=0)
            case ReasoningEnd():
                yield from self._close()
            case ContentDelta(text, scores):
                yield from self._content(text, scores)
            case ToolCallStart(_, _, name):
                yield from self._close()
                yield from self._open_call(name)
            case ToolCallArguments(_, text):
                yield self._delta("response.function_call_arguments.delta", text)
            case ToolCallEnd():
                yield from self._close()
            case Finished():
                yield from self._finish(event)
            case Completed(usage):
                self.response["usage"] = usage_json(usage)
                yield self._event(f"response.{self.response['status']}", response=self.response)

    def fail(self, error: ApiError) -> Iterator[ApiEvent]:
        """The end of a stream that breaks: an `error` event, then the failed response."""
        inner = error.openai()["error"]
        flat = {key: inner[key] for key in ("code", "message", "param")}
        yield self._event("error", **flat, error=inner)
        code = "rate_limit_exceeded" if error.status == 429 else "server_error"
        self.response["status"] = "failed"
        self.response["error"] = {"code": code, "message": error.message}
        yield self._event("response.failed", response=self.response)

    # --- items ---------------------------------------------------------------------------------

    def _open(self, item: dict[str, Any]) -> Iterator[ApiEvent]:
        self._index += 1
        self._item = {**item, "status": "in_progress"}
        self._text, self._logprobs = [], []
        yield self._event(
            "response.output_item.added", output_index=self._index, item=dict(self._item)
        )

    def _open_reasoning(self) -> Iterator[ApiEvent]:
        if self._item is not None and self._item["type"] == "reasoning":
            return
        yield from self._close()
        yield from self._open(
            {"type": "reasoning", "id": new_id("rs_"), "summary": [], "content": []}
        )
        yield self._part("response.content_part.added", _reasoning_part(""))

    def _open_call(self, name: str) -> Iterator[ApiEvent]:
        call = {"type": "function_call", "id": new_id("fc_"), "call_id": new_id("call_")}
        if name in self._namespaces:
            call["namespace"], name = self._namespaces[name]
        yield from self._open({**call, "name": name, "arguments": ""})

    def _content(self, text: str, scores: Sequence[TokenLogprob]) -> Iterator[ApiEvent]:
        if not text and not (scores and self._item is not None):
            return
        if self._item is None or self._item["type"] != "message":
            yield from self._close()
            yield from self._open(
                {"type": "message", "id": new_id("msg_"), "role": "assistant", "content": []}
            )
            yield self._part("response.content_part.added", _text_part("", []))
        logprobs = [] if self._scores is None else self._scores(scores)
        self._logprobs += logprobs
        yield self._delta("response.output_text.delta", text, content_index=0, logprobs=logprobs)

    def _close(self, *, status: str = "completed") -> Iterator[ApiEvent]:
        """The end of the item under way; `status` says whether the model ended it."""
        item, text = self._item, "".join(self._text)
        if item is None:
            return
        match item["type"]:
            case "reasoning":
                yield self._done("response.reasoning_text.done", text=text, content_index=0)
                part = _reasoning_part(text)
                yield self._part("response.content_part.done", part)
                item["content"] = [part]
                if self._carry_reasoning:
                    item["encrypted_content"] = carry(text)
            case "message":
                logprobs = self._logprobs
                yield self._done(
                    "response.output_text.done", text=text, content_index=0, logprobs=logprobs
                )
                part = _text_part(text, logprobs)
                yield self._part("response.content_part.done", part)
                item["content"] = [part]
            case "function_call":
                yield self._done(
                    "response.function_call_arguments.done", arguments=text, name=item["name"]
                )
                item["arguments"] = text
        item["status"] = status
        self._item = None
        self.response["output"].append(item)
        yield self._event("response.output_item.done", output_index=self._index, item=item)

    def _finish(self, event: Finished) -> Iterator[ApiEvent]:
        cut = event.reason is FinishReason.LENGTH
        if self._item is not None and self._item["type"] == "function_call":
            self._item = None
        yield from self._close(status="incomplete" if cut else "completed")
        if cut:
            self.response["status"] = "incomplete"
            self.response["incomplete_details"] = {"reason": "max_output_tokens"}
        else:
            self.response["status"] = "completed"
            self.response["completed_at"] = int(time.time())

    # --- events --------------------------------------------------------------------------------

    def _event(self, kind: str, **fields: Any) -> ApiEvent:
        event = {"type": kind, "sequence_number": self._number, **fields}
        self._number += 1
        return event

    def _of_item(self, kind: str, **fields: Any) -> ApiEvent:
        assert self._item is not None
        return self._event(kind, item_id=self._item["id"], output_index=self._index, **fields)

    def _delta(self, kind: str, text: str, **fields: Any) -> ApiEvent:
        self._text.append(text)
        return self._of_item(kind, delta=text, **fields)

    def _part(self, kind: str, part: dict[str, Any]) -> ApiEvent:
        return self._of_item(kind, content_index=0, part=part)

    _done = _of_item


def _reasoning_part(text: str) -> dict[str, Any]:
    return {"type": "reasoning_text", "text": text}


def _text_part(text: str, logprobs: list[dict[str, Any]]) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs}


def usage_json(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.total_tokens,
    }
