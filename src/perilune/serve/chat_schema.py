"""The body of `/v1/chat/completions`: names and bounds of its fields.

Sources: OpenAI's API reference; vLLM's and Moonshot's extensions. What the conversation itself may
hold is checked by the chat package, which renders it.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

MAX_TOKENS = 2**24
MOST_MODEL_NAME = 512  # characters
Finite = Annotated[float, Field(allow_inf_nan=False)]
Text = Annotated[str, Field(max_length=512)]
Object = dict[str, Any]
Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]


class StreamOptions(BaseModel):
    model_config = ConfigDict(extra="allow")

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class ThinkingSwitch(BaseModel):
    """Moonshot's `thinking`."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["enabled", "disabled"] = "enabled"
    keep: Literal["all"] | None = None
    effort: Literal["low", "medium", "high", "max"] | None = None
    budget_tokens: Annotated[int, Field(ge=0, le=MAX_TOKENS)] | None = None


class TemplateArguments(BaseModel):
    """`chat_template_kwargs`: the names of thinking are known, nothing else reaches a template."""

    model_config = ConfigDict(extra="forbid")

    thinking: bool | None = None
    enable_thinking: bool | None = None  # the same, as templates of other families call it
    preserve_thinking: bool | None = None
    thinking_effort: Effort | None = None
    reasoning_effort: Effort | None = None


class ReasoningOptions(BaseModel):
    """OpenRouter's `reasoning`."""

    model_config = ConfigDict(extra="allow")

    enabled: bool | None = None
    effort: Effort | None = None
    max_tokens: Annotated[int, Field(ge=0, le=MAX_TOKENS)] | None = None
    exclude: bool | None = None


class SamplingFields(BaseModel):
    """What chat and plain completions share."""

    model_config = ConfigDict(extra="allow")

    model: Annotated[str, Field(max_length=512)] | None = None
    temperature: Annotated[Finite, Field(ge=0, le=2)] | None = None
    top_p: Annotated[Finite, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, le=2**20)] | None = None
    min_p: Annotated[Finite, Field(ge=0, le=1)] | None = None
    presence_penalty: Annotated[Finite, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[Finite, Field(ge=-2, le=2)] | None = None
    repetition_penalty: Annotated[Finite, Field(ge=0.01, le=10)] | None = None
    logit_bias: Annotated[dict[str, Finite], Field(max_length=1024)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    n: Annotated[int, Field(ge=1, le=128)] | None = None
    stop: (
        Annotated[str, Field(max_length=1024)]
        | Annotated[list[Annotated[str, Field(max_length=1024)]], Field(max_length=16)]
        | None
    ) = None
    stop_token_ids: (
        Annotated[list[Annotated[int, Field(ge=0, lt=2**31)]], Field(max_length=128)] | None
    ) = None
    max_tokens: Annotated[int, Field(ge=0, le=MAX_TOKENS)] | None = None
    min_tokens: Annotated[int, Field(ge=0, le=MAX_TOKENS)] | None = None
    ignore_eos: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: Text | None = None
    metadata: (
        Annotated[dict[Annotated[str, Field(max_length=64)], Text], Field(max_length=16)] | None
    ) = None
    cache_salt: Annotated[str, Field(max_length=256)] | None = None
    prompt_cache_key: Text | None = None
    priority: Annotated[int, Field(ge=0, le=1000)] | None = None  # nobody goes before others
    return_token_ids: bool | None = None


class ChatCompletionBody(SamplingFields):
    """`POST /v1/chat/completions`."""

    messages: Annotated[list[Object], Field(min_length=1, max_length=100_000)]
    max_completion_tokens: Annotated[int, Field(ge=1, le=MAX_TOKENS)] | None = None
    max_tokens: Annotated[int, Field(ge=1, le=MAX_TOKENS)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    tools: Annotated[list[Object], Field(max_length=1024)] | None = None
    tool_choice: Text | Object | None = None
    parallel_tool_calls: bool | None = None
    response_format: Object | None = None
    reasoning_effort: Effort | None = None
    thinking: ThinkingSwitch | None = None
    thinking_token_budget: Annotated[int, Field(ge=0, le=MAX_TOKENS)] | None = None
    chat_template_kwargs: TemplateArguments | None = None
    enable_thinking: bool | None = None
    reasoning: ReasoningOptions | None = None
    include_reasoning: bool | None = None
    continue_final_message: bool | None = None
    add_generation_prompt: bool | None = None
