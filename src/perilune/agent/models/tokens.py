"""How many tokens a prompt has: by the model's own tokenizer, else a calibrated estimate.

Messages never change once they are in the history, so each is counted once.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from math import ceil
from typing import TYPE_CHECKING, Any

from perilune.agent.pictures.part import pictures_of, read_part, with_words

if TYPE_CHECKING:
    from perilune.agent.models.chat_model import ChatModel, Message
    from perilune.events import Content

IMAGE_TOKENS = 1500
"""An image of usual size, where its own is not known: one token per 28 x 28 pixels."""
MESSAGE_OVERHEAD = 6


class TokenCounter:
    """Counts prompts for one model and learns from what the endpoint reports."""

    def __init__(self, model: ChatModel) -> None:
        self._model = model
        self._counts: dict[int, tuple[Message, int]] = {}
        self._scale = 1.0
        self.exact = model.count_tokens([{"role": "user", "content": "a"}], []) is not None

    def prompt(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]]) -> int:
        """Tokens of a whole prompt."""
        tool_text = json.dumps(list(tools), ensure_ascii=False) if tools else ""
        total = sum(self.message(each) for each in messages)
        return int(self._scale * (total + estimate_text(tool_text)))

    def message(self, message: Message) -> int:
        """Tokens of one message, before calibration."""
        known = self._counts.get(id(message))
        if known is not None and known[0] is message:
            return known[1]
        counted = self._exact(message) if self.exact else None
        count = estimate(message) if counted is None else counted
        self._counts[id(message)] = (message, count)
        return count

    def _exact(self, message: Message) -> int | None:
        """By the model's tokenizer; pictures by their header."""
        pictures = pictures_of(message.get("content"))
        if not pictures:
            return self._model.count_tokens([message], [])
        bare = {**message, "content": with_words(message["content"], lambda picture: "")}
        counted = self._model.count_tokens([bare], [])
        return None if counted is None else counted + sum(p.prompt_tokens for p in pictures)

    def calibrate(self, counted: int, reported: int) -> None:
        """The endpoint says that a prompt which we counted as `counted` had `reported` tokens."""
        if self.exact or counted < 200 or reported <= 0:
            return
        # Bounded, so that one odd report (cached tokens only, say) cannot blind the counter.
        self._scale = min(3.0, max(0.5, self._scale * reported / counted))

    def rescale(self, counted: int, at_least: int) -> int:
        """A prompt that we counted as `counted` has `at_least` tokens; what we count it as now."""
        before = self._scale
        self.calibrate(counted, at_least)
        return int(counted * self._scale / before)

    def forget_except(self, messages: Sequence[Message]) -> None:
        """Drop the counts of messages that are not among these."""
        kept = {id(each) for each in messages}
        self._counts = {key: value for key, value in self._counts.items() if key in kept}


def estimate(message: Message) -> int:
    """Tokens of a message when no tokenizer is at hand."""
    total = MESSAGE_OVERHEAD + estimate_content(message.get("content") or "")
    total += estimate_text(message.get("reasoning_content") or "")
    for call in message.get("tool_calls") or ():
        total += 8 + estimate_text(call["function"]["name"])
        total += estimate_text(call["function"]["arguments"])
    return total


def estimate_content(content: Content) -> int:
    if isinstance(content, str):
        return estimate_text(content)
    return sum(map(_estimate_part, content))


def _estimate_part(part: dict[str, Any]) -> int:
    if part.get("type") == "text":
        return estimate_text(part["text"])
    picture = read_part(part)
    return IMAGE_TOKENS if picture is None else picture.prompt_tokens


def estimate_text(text: str) -> int:
    """Estimated tokens of a text, rounded up."""
    return ceil(weigh(text))


def weigh(text: str) -> float:
    """About four ASCII characters per token, about one of any other script."""
    if text.isascii():
        return len(text) / 4
    ascii_characters = len(text.encode("ascii", "ignore"))
    return ascii_characters / 4 + len(text) - ascii_characters
