"""The bodies of `/v1/messages` and `/v1/messages/count_tokens`: names and bounds of their fields.

Content blocks are read in `request.py`, where an error can say which one it is.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from perilune.serve.chat_schema import MAX_TOKENS, Effort, Finite, Object, Text

Content = str | list[Any]  # blocks; an error in one is said by request.py, with its place


class Message(BaseModel):
    """`role` beyond user and assistant: see `request.py`."""

    model_config = ConfigDict(extra="allow")

    role: Annotated[str, Field(max_length=64)]
    content: Content


class ThinkingConfig(BaseModel):
    model_config = ConfigDict(extra="allow")

    type: Literal["enabled", "adaptive", "disabled", "between_tools"]
    budget_tokens: Annotated[int, Field(ge=1, le=MAX_TOKENS)] | None = None
    display: Text | None = None  # "omitted" is; betas have more words for being shown


class OutputConfig(BaseModel):
    model_config = ConfigDict(extra="allow")

    effort: Effort | None = None
    format: Object | None = None


class ToolChoiceBody(BaseModel):
    model_config = ConfigDict(extra="allow")

    type: Literal["auto", "any", "tool", "none"]
    name: Text | None = None
    disable_parallel_tool_use: bool | None = None


class CountTokensBody(BaseModel):
    """`POST /v1/messages/count_tokens`."""

    model_config = ConfigDict(extra="allow")

    model: Text
    messages: Annotated[list[Message], Field(min_length=1, max_length=100_000)]
    system: Content | None = None
    tools: Annotated[list[Object], Field(max_length=1024)] | None = None
    tool_choice: ToolChoiceBody | None = None
    thinking: ThinkingConfig | None = None
    output_config: OutputConfig | None = None


class MessagesBody(CountTokensBody):
    """`POST /v1/messages`."""

    max_tokens: Annotated[int, Field(ge=0, le=MAX_TOKENS)]
    stream: bool | None = None
    stop_sequences: (
        Annotated[list[Annotated[str, Field(max_length=1024)]], Field(max_length=16)] | None
    ) = None
    temperature: Annotated[Finite, Field(ge=0, le=2)] | None = None
    top_p: Annotated[Finite, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0, le=2**20)] | None = None
    metadata: dict[str, Any] | None = None
    output_format: Object | None = None  # the older name of output_config.format
