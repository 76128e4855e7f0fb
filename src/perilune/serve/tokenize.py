"""`/tokenize`, `/detokenize` and Moonshot's token count: what a text or a conversation costs."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from perilune.serve.api_error import invalid
from perilune.serve.chat_request import read_chat
from perilune.serve.chat_schema import ChatCompletionBody, Object, TemplateArguments
from perilune.serve.fields import check_model
from perilune.serve.http import HttpRequest, Reply, Route, parse
from perilune.serve.request import new_id
from perilune.serve.service import Service

MAX_IDS = 2**22


class TokenizeBody(BaseModel):
    """`POST /tokenize`: a `prompt`, or `messages` with what a chat request may bring."""

    model_config = ConfigDict(extra="allow")

    model: Annotated[str, Field(max_length=512)] | None = None
    prompt: str | None = None
    messages: Annotated[list[Object], Field(min_length=1, max_length=100_000)] | None = None
    tools: Annotated[list[Object], Field(max_length=1024)] | None = None
    chat_template_kwargs: TemplateArguments | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    return_token_strs: bool | None = None


class DetokenizeBody(BaseModel):
    """`POST /detokenize`."""

    model_config = ConfigDict(extra="allow")

    model: Annotated[str, Field(max_length=512)] | None = None
    tokens: Annotated[list[Annotated[int, Field(ge=0, lt=2**31)]], Field(max_length=MAX_IDS)]


async def tokenize(service: Service, request: HttpRequest) -> Reply:
    """Token ids of a text or of a conversation's prompt."""
    body = request.read(TokenizeBody)
    check_model(service, body.model)
    tokenizer = service.format.tokenizer
    if (body.prompt is None) == (body.messages is None):
        raise invalid("give either prompt or messages", "prompt")
    if body.prompt is not None:
        ids = await asyncio.to_thread(tokenizer.encode, body.prompt)
    else:
        names = ("model", "messages", "tools", "chat_template_kwargs", "add_generation_prompt",
                 "continue_final_message")  # fmt: skip
        raw = request.json()
        ids = await _prompt(service, request, {n: raw[n] for n in names if n in raw})
    reply: dict[str, Any] = {
        "count": len(ids),
        "max_model_len": service.max_context,
        "tokens": ids,
        "token_strs": [tokenizer.decode([i]) for i in ids] if body.return_token_strs else None,
    }
    return Reply(reply)


async def detokenize(service: Service, request: HttpRequest) -> Reply:
    """The text of token ids."""
    body = request.read(DetokenizeBody)
    check_model(service, body.model)
    size = service.format.tokenizer.vocab_size
    if body.tokens and max(body.tokens) >= size:
        raise invalid(f"tokens: {max(body.tokens)} is outside the vocabulary of {size}", "tokens")
    return Reply({"prompt": await asyncio.to_thread(service.format.decode, body.tokens)})


async def estimate(service: Service, request: HttpRequest) -> Reply:
    """Moonshot's count of a conversation's tokens."""
    body = request.read(ChatCompletionBody)
    check_model(service, body.model)
    asked = read_chat(body, service, request.caller, new_id("count-"))
    total = await service.count(asked)
    return Reply({"code": 0, "data": {"total_tokens": total}, "scode": "0x0", "status": True})


async def _prompt(service: Service, request: HttpRequest, raw: dict[str, Any]) -> list[int]:
    body = parse(ChatCompletionBody, raw)
    asked = read_chat(body, service, request.caller, new_id("count-"))
    return (await service.render(asked)).ids


ROUTES = [
    Route("POST", "/tokenize", tokenize, "Token ids of a text or conversation.", TokenizeBody),
    Route("POST", "/detokenize", detokenize, "The text of token ids.", DetokenizeBody),
    Route("POST", "/v1/tokenizers/estimate-token-count", estimate,
          "Count the tokens of a conversation (Moonshot's).", ChatCompletionBody),
]  # fmt: skip
