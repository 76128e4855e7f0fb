"""A conversation as a request of the engine: its prompt, its tools, how the model cards sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from perilune.chat.format import ChatFormat
from perilune.chat.prompt import no_vision
from perilune.config import Family
from perilune.engine.media import RequestMedia, request_media
from perilune.engine.request import ToolChoice, Tools
from perilune.engine.sampling_params import SamplingParams
from perilune.errors import RequestError

if TYPE_CHECKING:
    from perilune.chat.media.reader import MediaReader


@dataclass(frozen=True, slots=True)
class Conversation:
    """What `Engine.add_request` needs of a chat."""

    prompt: list[int]
    tools: Tools | None
    thinking: bool
    media: RequestMedia | None = None


def encode_conversation(
    chat: ChatFormat,
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]] | None = None,
    *,
    tool_choice: str | Mapping[str, Any] = "auto",
    parallel_tool_calls: bool = True,
    thinking: bool = True,
    preserve_thinking: bool = False,
    media: MediaReader | None = None,
) -> Conversation:
    """OpenAI-shaped messages, tools and tool_choice -> a conversation.

    `media` opens pictures and clips; None: the model reads text only. They are opened and counted
    here, not decoded; that may take a while all the same (base64, SHA-256), so it is nothing for an
    event loop.

    Raises ChatError (messages, tools), MediaError (pictures and clips; `no_vision` before one is
    opened) and RequestError (tool_choice).
    """
    prompt = chat.render(
        messages,
        tools,
        thinking=thinking,
        preserve_thinking=preserve_thinking,
        media=None if media is None else media.request(),
    )
    for placeholder in prompt.media:
        part = placeholder.media
        raise no_vision(part.kind, "this model, loaded without a vision tower,", part.place)
    choice, name = read_tool_choice(tool_choice)
    declared = None
    if tools or choice in (ToolChoice.REQUIRED, ToolChoice.NAMED):
        declared = Tools(
            tuple(tools or ()), choice, name, parallel_tool_calls, next_call_index(chat, prompt.ids)
        )
    return Conversation(prompt.ids, declared, thinking, request_media(prompt))


def read_tool_choice(value: str | Mapping[str, Any]) -> tuple[ToolChoice, str | None]:
    """OpenAI's `tool_choice` -> (choice, tool name). Raises RequestError."""
    if isinstance(value, Mapping):
        function = value.get("function")
        name = function.get("name") if isinstance(function, Mapping) else None
        if value.get("type") == "function" and isinstance(name, str):
            return ToolChoice.NAMED, name
    elif value in ("none", "auto", "required"):
        return ToolChoice(value), None
    raise RequestError(
        f"tool_choice {value!r} must be none, auto, required or "
        '{"type": "function", "function": {"name": ...}}',
        param="tool_choice",
    )


def next_call_index(chat: ChatFormat, prompt: Sequence[int]) -> int:
    """The index of the next call: one more than the largest that the prompt's calls have."""
    ids = chat.special_ids
    largest = -1
    begin: int | None = None
    for position, token in enumerate(prompt):
        if token == ids.tool_call_begin:
            begin = position + 1
        elif token == ids.tool_call_argument_begin and begin is not None:
            index = chat.decode(prompt[begin:position]).rpartition(":")[2]
            if index.isdecimal():
                largest = max(largest, int(index))
            begin = None
    return largest + 1


def recommended_sampling(family: Family, *, thinking: bool = True) -> SamplingParams:
    """The sampling that the model cards give for conversations."""
    if family is Family.K2:
        return SamplingParams(temperature=0.6)
    if family is Family.K2_THINKING:
        return SamplingParams(temperature=1.0)
    return SamplingParams(temperature=1.0 if thinking else 0.6, top_p=0.95)
