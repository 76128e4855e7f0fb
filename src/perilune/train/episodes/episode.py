"""A recorded episode: a conversation with its tools, as JSON lines on disk and as a tape."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from perilune.agent.models.chat_model import Message
from perilune.agent.models.scripted import Call, Reply
from perilune.errors import UsageError


class Episode(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One verified run of an oracle.

    `messages` are OpenAI-shaped, the system prompt first and the answer last; `tools` are the
    declarations. `mistakes` names the planted ones by the index of their message: they are there
    for what follows them, and are not learned. `ids` and `loss` are the conversation as a model
    sees it (`render.py`), where a tokenizer was given: a sequence a chain, `loss` 1 where the model
    writes.
    """

    family: str
    variant: str
    split: str
    seed: int
    generator_version: int
    style: str
    together: bool = False
    width: int = 1
    messages: list[Message]
    tools: list[dict[str, Any]]
    mistakes: dict[int, str] = {}
    ids: list[list[int]] = []
    loss: list[list[int]] = []

    @property
    def answer(self) -> str:
        return str(self.messages[-1]["content"])

    @property
    def steps(self) -> int:
        """Turns of the model."""
        return sum(message["role"] == "assistant" for message in self.messages)

    def tape(self) -> list[Reply]:
        """The model's turns, for `ScriptedModel`."""
        return [_reply(each) for each in self.messages if each["role"] == "assistant"]


def _reply(message: Message) -> Reply:
    calls = [
        Call(call["function"]["name"], json.loads(call["function"]["arguments"]), call["id"])
        for call in message.get("tool_calls", ())
    ]
    return Reply(
        content=message["content"], calls=calls, reasoning=message.get("reasoning_content", "")
    )


def encode_episode(episode: Episode) -> bytes:
    """One line of JSON, without its end."""
    return msgspec.json.encode(episode)


def read_episodes(path: Path) -> Iterator[Episode]:
    """The episodes of a file, one by one. Raises UsageError with the line that is none."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                yield msgspec.json.decode(line, type=Episode)
            except msgspec.DecodeError as error:
                raise UsageError(f"{path}, line {number} is no episode: {error}") from None
