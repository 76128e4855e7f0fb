"""A conversation <-> token ids: tokenizer, formats of the K2 family, parser of what they generate.

    chat = ChatFormat.from_pretrained("path/to/checkpoint")
    ids = chat.encode([{"role": "user", "content": "Hello"}])
    parser = chat.parser()
    for token_id in generated:
        for delta in parser.feed(token_id): ...
    parser.finish()

No torch, no transformers, no Jinja, and nothing of a checkpoint is executed.
"""

from perilune.chat.deltas import (
    ContentDelta,
    Delta,
    Finished,
    ReasoningDelta,
    ToolCallArguments,
    ToolCallEnd,
    ToolCallStart,
    Truncated,
    assemble,
)
from perilune.chat.format import ChatFormat
from perilune.chat.parser import Channel, ChatParser
from perilune.chat.prompt import MediaPlaceholder, Prompt
from perilune.chat.special_tokens import SpecialIds
from perilune.chat.tokenizer import StreamDecoder, Tokenizer

__all__ = [
    "Channel",
    "ChatFormat",
    "ChatParser",
    "ContentDelta",
    "Delta",
    "Finished",
    "MediaPlaceholder",
    "Prompt",
    "ReasoningDelta",
    "SpecialIds",
    "StreamDecoder",
    "Tokenizer",
    "ToolCallArguments",
    "ToolCallEnd",
    "ToolCallStart",
    "Truncated",
    "assemble",
]
