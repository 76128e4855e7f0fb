"""A conversation <-> token ids: tokenizer, formats of the K2 family, parser of what they generate.

    chat = ChatFormat.from_pretrained("path/to/checkpoint")
    ids = chat.encode([{"role": "user", "content": "Hello"}])
    parser = chat.parser()
    for token_id in generated:
        for delta in parser.feed(token_id): ...
    parser.finish()

No torch, no transformers, no Jinja, and nothing of a checkpoint is executed. Public names are
imported when they are first used: who needs the deltas needs no tokenizer.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from perilune.chat.deltas import ContentDelta as ContentDelta
    from perilune.chat.deltas import ContentWasReasoning as ContentWasReasoning
    from perilune.chat.deltas import Delta as Delta
    from perilune.chat.deltas import Finished as Finished
    from perilune.chat.deltas import FinishReason as FinishReason
    from perilune.chat.deltas import ReasoningDelta as ReasoningDelta
    from perilune.chat.deltas import ReasoningEnd as ReasoningEnd
    from perilune.chat.deltas import ToolCallArguments as ToolCallArguments
    from perilune.chat.deltas import ToolCallEnd as ToolCallEnd
    from perilune.chat.deltas import ToolCallStart as ToolCallStart
    from perilune.chat.deltas import Truncated as Truncated
    from perilune.chat.format import ChatFormat as ChatFormat
    from perilune.chat.parser import Channel as Channel
    from perilune.chat.parser import ChatParser as ChatParser
    from perilune.chat.prompt import MediaPlaceholder as MediaPlaceholder
    from perilune.chat.prompt import Prompt as Prompt
    from perilune.chat.special_tokens import SpecialIds as SpecialIds
    from perilune.chat.tokenizer import StreamDecoder as StreamDecoder
    from perilune.chat.tokenizer import Tokenizer as Tokenizer
    from perilune.chat.turn import AssembledTurn as AssembledTurn
    from perilune.chat.turn import assemble as assemble

_BY_MODULE = {
    "deltas": (
        "ContentDelta",
        "ContentWasReasoning",
        "Delta",
        "FinishReason",
        "Finished",
        "ReasoningDelta",
        "ReasoningEnd",
        "ToolCallArguments",
        "ToolCallEnd",
        "ToolCallStart",
        "Truncated",
    ),
    "format": ("ChatFormat",),
    "parser": ("Channel", "ChatParser"),
    "prompt": ("MediaPlaceholder", "Prompt"),
    "special_tokens": ("SpecialIds",),
    "tokenizer": ("StreamDecoder", "Tokenizer"),
    "turn": ("AssembledTurn", "assemble"),
}
_PUBLIC = {
    name: f"perilune.chat.{module}" for module, names in _BY_MODULE.items() for name in names
}

__all__ = [*_PUBLIC]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'perilune.chat' has no attribute {name!r}")
