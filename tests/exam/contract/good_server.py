"""A small server that keeps every rule of the contract, and can be told to break one.

It is a function from request to response over a mock transport: real bytes, no sockets. `Break`
says what is done wrong; `breaks.py` has one for every check.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.exam.contract.good_answers import Output, answer, tokens_of
from tests.exam.contract.good_checks import (
    Bad,
    check_format,
    check_messages,
    check_numbers,
    check_picture,
    check_strict,
    check_thinking,
    check_tools,
    need,
    picture_tokens,
)

MODEL = "good-model"
CONTEXT = 4096
CREATED = 1_700_000_000
SINGLE = "disable_parallel_tool_use"
NEEDS_A_TOOL = ("weather", "umbrella", "stock", "room")
Frames = list[Any]


@dataclass
class Break:
    """What a broken server does differently. All of them default to nothing."""

    request: Callable[[str, dict[str, Any]], dict[str, Any]] = lambda path, body: body
    frames: Callable[[str, Frames], Frames] = lambda path, frames: frames
    answer: Callable[[str, dict[str, Any]], Any] = lambda path, body: body
    status: Callable[[str, int], int] = lambda path, status: status
    headers: Callable[[str, dict[str, str]], dict[str, str]] = lambda path, headers: headers
    error: Callable[[str, dict[str, Any]], Any] = lambda path, body: body
    raw: Callable[[str, bytes], bytes] = lambda path, data: data
    accept_all: bool = False  # refuses nothing
    open_door: bool = False  # asks for no key
    strict: bool = False  # pins parameters as Moonshot does
    never_ends: bool = False  # goes on after the client left
    dies: bool = False  # answers 500 once it has seen malformed JSON
    respond: Callable[[httpx.Request], httpx.Response | None] = lambda request: None


class Stream(httpx.SyncByteStream):
    """Pieces of a body; closing it early is a client that left."""

    def __init__(self, pieces: list[bytes], close: Callable[[], None]) -> None:
        self.pieces, self._close = pieces, close

    def __iter__(self) -> Iterator[bytes]:
        yield from self.pieces

    def close(self) -> None:
        self._close()


@dataclass
class GoodServer:
    broken: Break = field(default_factory=Break)
    key: str | None = None
    running: int = 0
    dead: bool = False
    numbers: int = 0
    lock: Any = field(default_factory=threading.Lock)

    @property
    def transport(self) -> httpx.MockTransport:
        return httpx.MockTransport(self.handle)

    # --- routes ----------------------------------------------------------------------------------

    def handle(self, request: httpx.Request) -> httpx.Response:
        early = self.broken.respond(request)
        if early is not None:
            return early
        path = request.url.path
        anthropic = path.startswith("/v1/messages") or (
            path == "/v1/models" and "anthropic-version" in request.headers
        )
        try:
            return self._route(request, path, anthropic)
        except Bad as bad:
            return self._error(path, bad.status, str(bad), bad.param, bad.code, anthropic)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            return self._error(path, 500, f"crashed: {error!r}", "", None, anthropic)

    def _route(self, request: httpx.Request, path: str, anthropic: bool) -> httpx.Response:
        method = request.method
        if path == "/health":
            return self._reply(path, "", status=200)
        if self.key and not self.broken.open_door:
            given = request.headers.get("authorization", "")
            sent = (
                given.removeprefix("Bearer ")
                if given.startswith("Bearer ")
                else request.headers.get("x-api-key", "")
            )
            if sent != self.key:
                raise Bad("the key", 401, "invalid_api_key")
        if self.dead:
            raise Bad("the server", 500)
        gets: dict[str, Callable[[], Any]] = {
            "/v1/models": lambda: self._models(anthropic),
            "/metrics": lambda: f"perilune:num_requests_running {self.running}.0\n",
        }
        posts: dict[str, Callable[[dict[str, Any]], Any]] = {
            "/v1/chat/completions": self._chat,
            "/v1/completions": self._completions,
            "/v1/responses": self._responses,
            "/v1/responses/input_tokens": lambda b: {"input_tokens": self._input_tokens(b)},
            "/v1/messages": self._messages,
            "/v1/messages/count_tokens": lambda b: {"input_tokens": self._anthropic_tokens(b)},
            "/tokenize": self._tokenize,
            "/detokenize": lambda b: {"prompt": "".join(map(chr, b["tokens"]))},
            "/v1/tokenizers/estimate-token-count": lambda b: {
                "data": {"total_tokens": self._prompt_tokens(b["messages"])}
            },
        }
        if path.startswith("/v1/models/"):
            if path != f"/v1/models/{MODEL}":
                raise Bad("model", 404, "model_not_found")
            return self._reply(path, self.broken.answer("/v1/models/ID", self._row()))
        if path not in gets and path not in posts:
            raise Bad("route", 404)
        if method != ("GET" if path in gets else "POST"):
            raise Bad("method", 405)
        if path in gets:
            return self._reply(path, gets[path]())
        body = self._body(request.content)
        if "model" in body and body["model"] != MODEL:
            raise Bad("model", 404, "model_not_found")
        if self.broken.accept_all:
            body = {"model": MODEL, "messages": [{"role": "user", "content": "x"}],
                    "stream": body.get("stream") is True}  # fmt: skip
        body = self.broken.request(path, body)
        result = posts[path](body)
        if body.get("ignore_eos") and not body.get("stream"):
            self.running += self.broken.never_ends
            raise httpx.ReadTimeout("the client left")
        if isinstance(result, list):
            return self._stream(path, result, endless=bool(body.get("ignore_eos")))
        return self._reply(path, self.broken.answer(path, result))

    def _body(self, content: bytes) -> dict[str, Any]:
        def constant(name: str) -> Any:
            raise ValueError(name)

        try:
            body = json.loads(content, parse_constant=constant)
        except (ValueError, RecursionError):
            if self.broken.accept_all:
                return {"model": MODEL}
            self.dead = self.broken.dies
            raise Bad("the body") from None
        if not isinstance(body, dict):
            if self.broken.accept_all:
                return {"model": MODEL}
            raise Bad("the body")
        if not self.broken.accept_all and any(v == float("inf") for v in body.values()):
            raise Bad("temperature")
        return body

    # --- chat ------------------------------------------------------------------------------------

    def _chat(self, body: dict[str, Any]) -> Any:
        tools = body.get("tools")
        if not self.broken.accept_all:
            check_messages(body.get("messages"))
            check_numbers(body)
            check_format(body.get("response_format"))
            check_thinking(body)
            for message in body["messages"]:
                if message["role"] == "system" and message.get("tools"):
                    tools = [*(tools or ()), *message["tools"]]
            check_tools(body, tools)
        thinking = _thinking(body)
        if self.broken.strict and not self.broken.accept_all:
            check_strict(body, thinking)
        prompt = self._prompt_tokens(body["messages"])
        if prompt > CONTEXT:
            raise Bad("messages", 400, "context_length_exceeded")
        outputs = [self._answer(body, tools, thinking, i) for i in range(body.get("n") or 1)]
        head = {"id": f"chatcmpl-{self._number():024x}", "created": CREATED, "model": MODEL}
        usages = [_usage(prompt, [output]) for output in outputs]
        if not body.get("stream"):
            choices = [_choice(i, o, body) for i, o in enumerate(outputs)]
            return {"object": "chat.completion", **head, "choices": choices,
                    "usage": _usage(prompt, outputs)}  # fmt: skip
        head["object"] = "chat.completion.chunk"
        asked = bool((body.get("stream_options") or {}).get("include_usage"))
        empty = {"usage": None} if asked else {}
        frames: Frames = []
        for index, output in enumerate(outputs):
            for choice in _stream_choices(index, output, body, usages[index]):
                frames.append({**head, "choices": [choice], **empty})
        if asked:
            frames.append({**head, "choices": [], "usage": _usage(prompt, outputs)})
        return self.broken.frames("/v1/chat/completions", [*frames, "[DONE]"])

    def _answer(self, body: dict[str, Any], tools: Any, thinking: bool, index: int) -> Output:
        question = _last_text(body["messages"])
        form = body.get("response_format") or {"type": "text"}
        shape = None
        if form["type"] == "json_object":
            shape = {"type": "object"}
        elif form["type"] == "json_schema":
            shape = form["json_schema"]["schema"]
        calls = _chosen(tools or [], body.get("tool_choice", "auto"), question)
        if body.get("parallel_tool_calls") is False:
            calls = calls[:1]
        stop = body.get("stop") or []
        return answer(
            question,
            variant=f"{index}/{body.get('temperature') and body.get('seed', 1)}",
            limit=body.get("max_completion_tokens") or body.get("max_tokens"),
            stop=[stop] if isinstance(stop, str) else stop,
            thinking=thinking,
            calls=calls,
            first_call=sum(len(m.get("tool_calls") or ()) for m in body["messages"]),
            shape=shape,
        )

    def _prompt_tokens(self, messages: Any) -> int:
        return sum(
            4 + len(tokens_of(_text(m.get("content")))) + sum(map(picture_tokens, _urls(m)))
            for m in messages
        )

    # --- the other routes ------------------------------------------------------------------------

    def _row(self) -> dict[str, Any]:
        return {"id": MODEL, "object": "model", "created": CREATED, "owned_by": "us",
                "max_model_len": CONTEXT, "supports_image_in": True}  # fmt: skip

    def _models(self, anthropic: bool) -> Any:
        if not anthropic:
            return self.broken.answer("/v1/models", {"object": "list", "data": [self._row()]})
        row = {"type": "model", "id": MODEL, "display_name": "Good", "created_at": "2026-01-01"}
        body = {"data": [row], "has_more": False, "first_id": MODEL, "last_id": MODEL}
        return self.broken.answer("/v1/models?anthropic", body)

    def _completions(self, body: dict[str, Any]) -> Any:
        need("suffix" not in body, "suffix")
        need(body.get("best_of", 1) == 1, "best_of")
        need(0 <= (body.get("logprobs") or 0) <= 5, "logprobs")
        check_numbers({k: v for k, v in body.items() if k != "logprobs"})
        prompts = body["prompt"]
        need(isinstance(prompts, str | list), "prompt")
        if isinstance(prompts, str) or (prompts and isinstance(prompts[0], int | float)):
            prompts = [prompts]
        choices = []
        for index, prompt in enumerate(prompts):
            if not isinstance(prompt, str):
                need(all(isinstance(t, int) and 0 <= t < 5000 for t in prompt), "prompt")
                prompt = "".join(map(chr, prompt))
            output = answer(prompt, limit=body.get("max_tokens", 16))
            text = "".join(output.content)
            pieces = list(output.content)
            if body.get("echo"):
                text, pieces = prompt + text, [*tokens_of(prompt), *pieces]
            logprobs = None
            if body.get("logprobs"):
                logprobs = {
                    "tokens": pieces,
                    "token_logprobs": [None, *[-0.5] * (len(pieces) - 1)],
                    "top_logprobs": [None, *[{"x": -0.5}] * (len(pieces) - 1)],
                    "text_offset": [0] * len(pieces),
                }
            choices.append({"index": index, "text": text, "finish_reason": output.finish,
                            "logprobs": logprobs})  # fmt: skip
        head = {"id": "cmpl-1", "object": "text_completion", "created": CREATED, "model": MODEL}
        if body.get("stream"):
            frames = [{**head, "choices": [{**choices[0], "text": char}]}
                      for char in choices[0]["text"]]  # fmt: skip
            return self.broken.frames("/v1/completions", [*frames, "[DONE]"])
        return {**head, "choices": choices, "usage": _usage(3, [output])}

    def _tokenize(self, body: dict[str, Any]) -> Any:
        tokens = list(map(ord, body["prompt"]))
        return {"count": len(tokens), "max_model_len": CONTEXT, "tokens": tokens}

    # --- Anthropic -------------------------------------------------------------------------------

    def _anthropic_tokens(self, body: dict[str, Any]) -> int:
        return 3 + self._prompt_tokens(body["messages"])

    def _messages(self, body: dict[str, Any]) -> Any:
        tools = body.get("tools") or []
        choice = body.get("tool_choice") or {"type": "auto"}
        thinking = body.get("thinking") or {"type": "disabled"}
        if not self.broken.accept_all:
            need(body.get("max_tokens"), "max_tokens")
            check_numbers(body)
            messages = body.get("messages")
            need(isinstance(messages, list) and messages, "messages")
            for message in messages:
                need(isinstance(message.get("content"), str | list), "messages")
                for block in message["content"] if isinstance(message["content"], list) else ():
                    kinds = ("text", "thinking", "tool_use", "tool_result", "image")
                    need(block.get("type") in kinds, "messages")
                for url in _urls(message):
                    check_picture(url)
            for tool in tools:
                need(tool.get("name"), "tools")
            need(choice["type"] in ("auto", "any", "tool", "none"), "tool_choice")
            need(choice["type"] not in ("any", "tool") or tools, "tool_choice")
            need(thinking["type"] in ("enabled", "disabled", "adaptive"), "thinking")
            need(isinstance(body.get("stop_sequences", []), list), "stop_sequences")
        openai = [{"function": {"name": t["name"], "parameters": t["input_schema"]}}
                  for t in tools]  # fmt: skip
        wanted: Any = {"any": "required", "tool": None}.get(choice["type"], choice["type"])
        if wanted is None:
            wanted = {"function": {"name": choice["name"]}}
        question = _last_text(body["messages"])
        calls = _chosen(openai, wanted, question)[: 1 if choice.get(SINGLE) else None]
        form = ((body.get("output_config") or {}).get("format") or {}).get("schema")
        output = answer(
            question, limit=body.get("max_tokens"), stop=body.get("stop_sequences") or [],
            thinking=thinking["type"] == "enabled", calls=calls, shape=form,
        )  # fmt: skip
        blocks: list[dict[str, Any]] = []
        if output.reasoning:
            blocks.append({"type": "thinking", "thinking": "".join(output.reasoning),
                           "signature": ""})  # fmt: skip
        if output.content:
            blocks.append({"type": "text", "text": "".join(output.content)})
        for call in output.calls:
            if call["whole"]:
                blocks.append({"type": "tool_use", "id": call["id"], "name": call["name"],
                               "input": json.loads("".join(call["pieces"]))})  # fmt: skip
        reason = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}
        ended = "stop_sequence" if output.stop else reason[output.finish]
        usage = {"input_tokens": self._anthropic_tokens(body), "output_tokens": output.tokens}
        head = {"id": "msg_1", "type": "message", "role": "assistant", "model": MODEL}
        if not body.get("stream"):
            return {**head, "content": blocks, "stop_reason": ended, "stop_sequence": output.stop,
                    "usage": usage}  # fmt: skip
        start = {**head, "content": [], "stop_reason": None, "stop_sequence": None,
                 "usage": {**usage, "output_tokens": 0}}  # fmt: skip
        frames: Frames = [{"type": "message_start", "message": start}, {"type": "ping"}]
        for index, block in enumerate(blocks):
            frames += _anthropic_block(index, block)
        frames.append({"type": "message_delta", "delta": {"stop_reason": ended, "stop_sequence":
                       output.stop}, "usage": usage})  # fmt: skip
        frames.append({"type": "message_stop"})
        return self.broken.frames("/v1/messages", frames)

    # --- Responses -------------------------------------------------------------------------------

    def _input_tokens(self, body: dict[str, Any]) -> int:
        given = body["input"]
        if isinstance(given, str):
            given = [{"content": given}]
        return 5 + self._prompt_tokens([i for i in given if "content" in i])

    def _responses(self, body: dict[str, Any]) -> Any:
        if self.broken.accept_all:
            body = {"input": "x"}
        need(isinstance(body.get("input"), str | list), "input")
        need("previous_response_id" not in body, "previous_response_id")
        check_numbers(body)
        tools = [{"function": t} for t in body.get("tools") or ()]
        choice = body.get("tool_choice", "auto")
        need(choice in ("auto", "none", "required"), "tool_choice")
        given = body["input"]
        question = given if isinstance(given, str) else "What now?"
        form = ((body.get("text") or {}).get("format") or {}).get("schema")
        output = answer(question, limit=body.get("max_output_tokens"),
                        calls=_chosen(tools, choice, question), shape=form)  # fmt: skip
        items: list[dict[str, Any]] = []
        for call in output.calls:
            items.append({"type": "function_call", "id": f"fc_{call['id']}",
                          "call_id": call["id"], "name": call["name"],
                          "arguments": "".join(call["pieces"]), "status": "completed"})  # fmt: skip
        text = "".join(output.content)
        if text:
            items.append({"type": "message", "id": "msg_1", "role": "assistant", "content":
                          [{"type": "output_text", "text": text, "annotations": []}]})  # fmt: skip
        cut = output.finish == "length"
        count = self._input_tokens(body)
        response = {
            "id": "resp_1", "object": "response", "created_at": CREATED, "model": MODEL,
            "status": "incomplete" if cut else "completed", "output": items,
            "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
            "usage": {"input_tokens": count, "output_tokens": output.tokens,
                      "total_tokens": count + output.tokens},
        }  # fmt: skip
        if not body.get("stream"):
            return response
        frames: Frames = [{"type": "response.created", "response": {**response, "output": []}}]
        for index, item in enumerate(items):
            place = {"output_index": index}
            frames.append({"type": "response.output_item.added", "item": item, **place})
            if item["type"] == "message":
                frames += [{"type": "response.output_text.delta", "delta": token, **place}
                           for token in output.content]  # fmt: skip
            frames.append({"type": "response.output_item.done", "item": item, **place})
        end = "response.incomplete" if cut else "response.completed"
        frames.append({"type": end, "response": response})
        numbered = [{**frame, "sequence_number": i} for i, frame in enumerate(frames)]
        return self.broken.frames("/v1/responses", numbered)

    # --- bytes -----------------------------------------------------------------------------------

    def _number(self) -> int:
        with self.lock:
            self.numbers += 1
            return self.numbers

    def _reply(self, path: str, body: Any, status: int = 200) -> httpx.Response:
        plain = isinstance(body, str)
        data = body.encode() if plain else json.dumps(body).encode()
        headers = {"content-type": "text/plain" if plain else "application/json",
                   "x-request-id": "req-1"}  # fmt: skip
        return httpx.Response(
            self.broken.status(path, status),
            headers=self.broken.headers(path, headers),
            content=self.broken.raw(path, data),
        )

    def _error(
        self, path: str, status: int, message: str, param: str, code: str | None, anthropic: bool
    ) -> httpx.Response:
        if anthropic:
            kinds = {400: "invalid_request_error", 401: "authentication_error",
                     404: "not_found_error"}  # fmt: skip
            body = {"type": "error", "error": {"type": kinds.get(status, "api_error"),
                    "message": message}}  # fmt: skip
        else:
            body = {"error": {"message": message, "type": "invalid_request_error",
                              "param": param, "code": code}}  # fmt: skip
        return self._reply(path, self.broken.error(path, body), status)

    def _stream(self, path: str, frames: Frames, *, endless: bool) -> httpx.Response:
        named = path in ("/v1/messages", "/v1/responses")
        pieces = []
        for frame in frames:
            if isinstance(frame, bytes):
                pieces.append(frame)
                continue
            data = frame if isinstance(frame, str) else json.dumps(frame, ensure_ascii=False)
            name = f"event: {frame['type']}\n" if named and isinstance(frame, dict) else ""
            pieces.append(f"{name}data: {data}\n\n".encode("utf-8", "surrogatepass"))
        with self.lock:
            self.running += endless

        def left() -> None:
            with self.lock:
                self.running -= endless and not self.broken.never_ends

        headers = {"content-type": "text/event-stream", "x-request-id": "req-1"}
        data = [self.broken.raw(path, b"".join(pieces))]
        return httpx.Response(
            200, headers=self.broken.headers(path, headers), stream=Stream(data, left)
        )


def _thinking(body: dict[str, Any]) -> bool:
    kind = (body.get("thinking") or {}).get("type")
    if kind is not None:
        return bool(kind == "enabled")
    return bool((body.get("chat_template_kwargs") or {}).get("thinking", True))


def _text(content: Any) -> str:
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content)
    return content or ""


def _urls(message: dict[str, Any]) -> Iterator[str]:
    """The pictures of a message, in the form of any API."""
    content = message.get("content")
    for part in content if isinstance(content, list) else ():
        match part.get("type"):
            case "image_url" | "input_image":
                named = part["image_url"]
                yield named["url"] if isinstance(named, dict) else named
            case "image":
                source = part["source"]
                yield f"data:{source['media_type']};base64,{source['data']}"
            case "tool_result":
                yield from _urls(part)


def _last_text(messages: Any) -> str:
    return _text(messages[-1].get("content"))


def _chosen(tools: Any, choice: Any, question: str) -> list[tuple[str, dict[str, Any]]]:
    by_name = {t["function"]["name"]: t["function"].get("parameters") or {} for t in tools}
    if isinstance(choice, dict):
        if choice.get("type") == "allowed_tools":
            name = choice["allowed_tools"]["tools"][0]["function"]["name"]
        else:
            name = choice["function"]["name"]
        return [(name, by_name[name])]
    if choice == "none" or not tools:
        return []
    if choice == "required" or any(word in question for word in NEEDS_A_TOOL):
        return list(by_name.items())
    return []


def _usage(prompt: int, outputs: list[Output]) -> dict[str, Any]:
    count = sum(output.tokens for output in outputs)
    return {
        "prompt_tokens": prompt, "completion_tokens": count, "total_tokens": prompt + count,
        "completion_tokens_details": {"reasoning_tokens": sum(len(o.reasoning) for o in outputs)},
        "prompt_tokens_details": {"cached_tokens": 0},
    }  # fmt: skip


def _logprobs(tokens: list[str], top: int) -> dict[str, Any]:
    def row(token: str) -> dict[str, Any]:
        return {"token": token, "logprob": -0.25, "bytes": list(token.encode())}

    return {"content": [{**row(t), "top_logprobs": [row(t)] * top} for t in tokens]}


def _choice(index: int, output: Output, body: dict[str, Any]) -> dict[str, Any]:
    calls = [
        {"id": c["id"], "type": "function",
         "function": {"name": c["name"], "arguments": "".join(c["pieces"])}}
        for c in output.calls if c["whole"]
    ]  # fmt: skip
    text = "".join(output.content)
    message: dict[str, Any] = {"role": "assistant", "content": text or (None if calls else "")}
    if output.reasoning:
        message["reasoning_content"] = "".join(output.reasoning)
    if calls:
        message["tool_calls"] = calls
    logprobs = _logprobs(output.content, body["top_logprobs"]) if body.get("logprobs") else None
    return {"index": index, "message": message, "finish_reason": output.finish,
            "logprobs": logprobs}  # fmt: skip


def _stream_choices(
    index: int, output: Output, body: dict[str, Any], usage: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    def choice(delta: dict[str, Any], **more: Any) -> dict[str, Any]:
        return {"index": index, "delta": delta, "finish_reason": None, **more}

    yield choice({"role": "assistant", "content": ""})
    for token in output.reasoning:
        yield choice({"reasoning_content": token})
    if output.reasoning:
        yield choice({"reasoning_content": ""})
    for token in output.content:
        more = {}
        if body.get("logprobs"):
            more["logprobs"] = _logprobs([token], body["top_logprobs"])
        yield choice({"content": token}, **more)
    for number, call in enumerate(output.calls):
        function = {"name": call["name"], "arguments": ""}
        first = {"index": number, "id": call["id"], "type": "function", "function": function}
        yield choice({"tool_calls": [first]})
        for piece in call["pieces"]:
            yield choice({"tool_calls": [{"index": number, "function": {"arguments": piece}}]})
    yield {**choice({}, usage=usage), "finish_reason": output.finish}


def _anthropic_block(index: int, block: dict[str, Any]) -> Frames:
    kind = block["type"]
    if kind == "text":
        start, deltas = {"text": ""}, [{"type": "text_delta", "text": t} for t in block["text"]]
    elif kind == "thinking":
        start = {"thinking": "", "signature": ""}
        deltas = [{"type": "thinking_delta", "thinking": t} for t in block["thinking"]]
    else:
        start = {"id": block["id"], "name": block["name"], "input": {}}  # type: ignore[dict-item]
        text = json.dumps(block["input"])
        deltas = [{"type": "input_json_delta", "partial_json": t} for t in text]
    return [
        {"type": "content_block_start", "index": index, "content_block": {"type": kind, **start}},
        *({"type": "content_block_delta", "index": index, "delta": d} for d in deltas),
        {"type": "content_block_stop", "index": index},
    ]
