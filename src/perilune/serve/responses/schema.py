"""The body of `/v1/responses`: names and bounds of its fields. Items are read in `request.py`."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from perilune.serve.chat_schema import MAX_TOKENS, Effort, Finite, Object, Text


class ReasoningOptions(BaseModel):
    model_config = ConfigDict(extra="allow")

    effort: Effort | None = None
    summary: Text | None = None


class TextOptions(BaseModel):
    model_config = ConfigDict(extra="allow")

    format: Object | None = None
    verbosity: Text | None = None


class ResponsesBody(BaseModel):
    """`POST /v1/responses`."""

    model_config = ConfigDict(extra="allow")

    model: Text | None = None
    input: str | list[Any]
    instructions: str | None = None
    stream: bool | None = None
    max_output_tokens: Annotated[int, Field(ge=1, le=MAX_TOKENS)] | None = None
    temperature: Annotated[Finite, Field(ge=0, le=2)] | None = None
    top_p: Annotated[Finite, Field(gt=0, le=1)] | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    tools: Annotated[list[Object], Field(max_length=1024)] | None = None
    tool_choice: Text | Object | None = None
    parallel_tool_calls: bool | None = None
    reasoning: ReasoningOptions | None = None
    text: TextOptions | None = None
    include: Annotated[list[Text], Field(max_length=32)] | None = None
    metadata: (
        Annotated[dict[Annotated[str, Field(max_length=64)], Text], Field(max_length=16)] | None
    ) = None
    prompt_cache_key: Text | None = None
    user: Text | None = None
    truncation: Text | None = None
    previous_response_id: Text | None = None
    conversation: Text | Object | None = None
    background: bool | None = None
    store: bool | None = None
    prompt: Object | None = None
    max_tool_calls: Annotated[int, Field(ge=0, le=MAX_TOKENS)] | None = None
