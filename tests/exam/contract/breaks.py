"""For every check a server that breaks its rule, and as little else as may be."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx

from perilune.exam.contract.check import CHECKS
from perilune.exam.contract.pictures import TYPES, data_url, draw
from perilune.exam.contract.schemas import HARD
from tests.exam.contract import good_checks
from tests.exam.contract.good_checks import Bad
from tests.exam.contract.good_server import Break, Frames

CHAT, MESSAGES, RESPONSES = "/v1/chat/completions", "/v1/messages", "/v1/responses"
COMPLETIONS = "/v1/completions"
Body = dict[str, Any]


# --- ways of breaking ---------------------------------------------------------------------------


def frames(edit: Callable[[Frames], Frames | None], path: str = CHAT) -> Break:
    """Edit the whole list of frames."""

    def apply(asked: str, sent: Frames) -> Frames:
        if asked != path:
            return sent
        sent = copy.deepcopy(sent)
        edited = edit(sent)
        return sent if edited is None else edited

    return Break(frames=apply)


def chunks(edit: Callable[[Body], None], path: str = CHAT) -> Break:
    """Edit every frame that is an object."""

    def apply(sent: Frames) -> None:
        for frame in sent:
            if isinstance(frame, dict):
                edit(frame)

    return frames(apply, path)


def choices(edit: Callable[[Body], None]) -> Break:
    """Edit every choice of every chat frame."""
    return chunks(lambda chunk: [edit(choice) for choice in chunk["choices"]] and None)


def deltas(edit: Callable[[Body], None]) -> Break:
    return choices(lambda choice: edit(choice["delta"]))


def pieces(edit: Callable[[Body], None]) -> Break:
    """Edit every piece of a tool call."""
    return deltas(lambda delta: [edit(piece) for piece in delta.get("tool_calls", ())] and None)


def later_pieces(edit: Callable[[Body], None]) -> Break:
    return pieces(lambda piece: None if "id" in piece else edit(piece))


def first_pieces(edit: Callable[[Body], None]) -> Break:
    return pieces(lambda piece: edit(piece) if "id" in piece else None)


def answer(edit: Callable[[Body], Any], path: str = CHAT) -> Break:
    """Edit the answer in one piece."""

    def apply(asked: str, body: Body) -> Any:
        if asked != path:
            return body
        body = copy.deepcopy(body)
        edited = edit(body)
        return body if edited is None else edited

    return Break(answer=apply)


def message(edit: Callable[[Body], None]) -> Break:
    return answer(lambda body: edit(body["choices"][0]["message"]))


def ignores(*names: str, path: str = CHAT, **instead: Any) -> Break:
    """Take some fields as not sent, or as something else."""

    def apply(asked: str, body: Body) -> Body:
        if asked != path:
            return body
        return {k: v for k, v in body.items() if k not in names} | instead

    return Break(request=apply)


def rewrites(edit: Callable[[Body], None], path: str = CHAT) -> Break:
    """Edit the request in place."""

    def apply(asked: str, body: Body) -> Body:
        body = copy.deepcopy(body)
        if asked == path:
            edit(body)
        return body

    return Break(request=apply)


def refuses(when: Callable[[Body], Any], path: str = CHAT) -> Break:
    """Refuse what must be taken."""

    def apply(asked: str, body: Body) -> Body:
        if asked == path and when(body):
            raise Bad("something")
        return body

    return Break(request=apply)


def responds(when: Callable[[httpx.Request], Any], status: int, body: Any = None) -> Break:
    """Answer some requests at once, with a status."""

    def respond(request: httpx.Request) -> httpx.Response | None:
        return httpx.Response(status, json=body) if when(request) else None

    return Break(respond=respond)


def errors(edit: Callable[[Body], Any]) -> Break:
    def apply(path: str, body: Body) -> Any:
        edited = edit(body)
        return body if edited is None else edited

    return Break(error=apply)


def header(name: str, value: str | None, path: str | None = None) -> Break:
    def apply(asked: str, headers: dict[str, str]) -> dict[str, str]:
        if path not in (None, asked):
            return headers
        kept = {k: v for k, v in headers.items() if k != name}
        return kept if value is None else kept | {name: value}

    return Break(headers=apply)


def raw(edit: Callable[[bytes], bytes], path: str = CHAT) -> Break:
    return Break(raw=lambda asked, data: edit(data) if asked == path else data)


def sent_json(request: httpx.Request) -> Any:
    try:
        return json.loads(request.content)
    except ValueError:
        return {}


def has_role(*roles: str) -> Callable[[Body], bool]:
    return lambda body: any(m.get("role") in roles for m in body["messages"])


def wrong_arguments(call: Body) -> None:
    call["function"]["arguments"] = '{"wrong": 1}'


def wrong_plain_calls(body: Body) -> None:
    for call in body["choices"][0]["message"].get("tool_calls", ()):
        wrong_arguments(call)


# --- chat frames --------------------------------------------------------------------------------


def _split_frames(sent: Frames) -> Frames:
    """Two choices in one frame."""
    for frame in sent:
        if isinstance(frame, dict) and frame["choices"]:
            frame["choices"] = frame["choices"] * 2
    return sent


def _split_characters(sent: Frames) -> None:
    for frame in sent:
        for choice in frame["choices"] if isinstance(frame, dict) else ():
            text = choice["delta"].get("content", "")
            if text and not text.isascii():
                choice["delta"]["content"] = "\N{REPLACEMENT CHARACTER}" * 2


def _no_tail(sent: Frames) -> Frames:
    return [f for f in sent if f == "[DONE]" or not f["choices"] or
            f["choices"][0]["finish_reason"] is None]  # fmt: skip


def _usage_first(sent: Frames) -> Frames:
    usage = [f for f in sent if f != "[DONE]" and not f["choices"]]
    return usage + [f for f in sent if f not in usage]


def _think_late(sent: Frames) -> Frames:
    """The first thinking comes after the content."""
    kinds = [f for f in sent if f != "[DONE]" and f["choices"]]
    thinking = next((f for f in kinds if f["choices"][0]["delta"].get("reasoning_content")), None)
    if thinking is None:
        return sent
    rest = [f for f in sent if f is not thinking]
    return [*rest[:-2], thinking, *rest[-2:]]


def _interleaved(sent: Frames) -> Frames:
    calls = [f for f in sent if f != "[DONE]" and f["choices"]
             and f["choices"][0]["delta"].get("tool_calls")]  # fmt: skip
    if not calls:
        return sent
    numbers = [f["choices"][0]["delta"]["tool_calls"][0]["index"] for f in calls]
    if 1 not in numbers:
        return sent
    cut = numbers.index(1)
    first, second = calls[:cut], calls[cut:]
    mixed = [*first[:2], *second[:2], *first[2:], *second[2:]]
    rest = [f for f in sent if f not in calls]
    return [rest[0], *mixed, *rest[1:]]


def _boundary_away(sent: Frames) -> Frames:
    return [f for f in sent if f == "[DONE]" or not f["choices"]
            or f["choices"][0]["delta"].get("reasoning_content") != ""]  # fmt: skip


def _again_after_end(sent: Frames) -> Frames:
    end = next(i for i, f in enumerate(sent) if f["choices"][0]["finish_reason"])
    late = copy.deepcopy(sent[1])
    return [*sent[: end + 1], late, *sent[end + 1 :]]


def _first_without(name: str) -> Callable[[Frames], None]:
    def edit(sent: Frames) -> None:
        for frame in sent:
            if frame != "[DONE]" and frame["choices"]:
                delta = frame["choices"][0]["delta"]
                if "role" in delta:
                    delta.pop(name, None)

    return edit


def _ids(sent: Frames) -> None:
    for number, frame in enumerate(sent):
        if isinstance(frame, dict):
            frame["id"] += f"{number:x}"


def _end(edit: Callable[[Body], None]) -> Break:
    return choices(lambda choice: edit(choice) if choice["finish_reason"] else None)


def _double(delta: Body) -> None:
    if delta.get("content"):
        delta["reasoning_content"] = "and a thought"


def _lose(sent: Frames) -> None:
    del sent[2]


STREAM: dict[str, Break] = {
    "opens": refuses(lambda body: body.get("stream")),
    "content-type": header("content-type", "text/plain", CHAT),
    "data-lines": raw(lambda data: data.replace(b"data: {", b"data:{")),
    "chunk-fields": chunks(lambda chunk: chunk.pop("created") and None),
    "one-choice": frames(_split_frames),
    "choice-fields": choices(
        lambda choice: choice["finish_reason"] or choice.pop("finish_reason")
    ),
    "first-frame": frames(_first_without("role")),
    "text-deltas": deltas(lambda d: d.update(content=["x"]) if d.get("content") else None),
    "no-null-deltas": deltas(lambda d: d.setdefault("content", None) and None),
    "finish": frames(_no_tail),
    "all-answers": ignores("n"),
    "utf8": frames(_split_characters),
    "end-usage": choices(lambda choice: choice.pop("usage", None) and None),
    "include-usage": frames(_usage_first),
    "usage-details": chunks(
        lambda c: c["usage"].pop("prompt_tokens_details") and None if c.get("usage") else None
    ),
    "done": frames(lambda sent: sent[:-1]),
    "same-identity": frames(_ids),
    "content-key": frames(_first_without("content")),
    "role-once": deltas(lambda delta: delta.update(role="assistant")),
    "end-delta": _end(lambda choice: choice["delta"].update(content="!")),
    "thinking-boundary": frames(_boundary_away),
    "thinking-first": frames(_think_late),
    "null-usage": chunks(
        lambda c: c.update(usage={"prompt_tokens": 1}) if c["choices"] else None
    ),
    "logprobs": choices(lambda choice: choice.pop("logprobs", None) and None),
    "same-text": frames(_lose),
    "id-form": chunks(lambda chunk: chunk.update(id="chatcmpl-1")),
    "no-unasked-usage": rewrites(
        lambda body: body.update(stream_options={"include_usage": True})
    ),
    "one-kind": deltas(_double),
    "no-markers": deltas(
        lambda d: d.update(content=f"{d['content']}<|im_end|>") if d.get("content") else None
    ),
    "tool-first-chunk": first_pieces(lambda piece: piece.pop("type") and None),
    "tool-empty-start": first_pieces(lambda piece: piece["function"].update(arguments="{")),
    "tool-later-chunks": later_pieces(lambda piece: piece.update(id="functions.x:0")),
    "tool-index": pieces(lambda piece: piece.update(index=piece["index"] + 1)),
    "tool-order": frames(_interleaved),
    "tool-id-form": first_pieces(lambda piece: piece.update(id="call_4711")),
}  # fmt: skip


# --- chat in one piece, messages, thinking, tools ----------------------------------------------


def _thought_inside(found: Body) -> None:
    if "reasoning_content" in found:
        found["content"] = f"<think>{found.pop('reasoning_content')}</think>{found['content']}"


def _half_call(body: Body) -> None:
    if body.get("max_tokens", 99) < 9 and body.get("tool_choice") == "required":
        body["max_tokens"] = 99


def _claims_success(body: Body) -> None:
    if body["choices"][0]["finish_reason"] == "length":
        body["choices"][0]["finish_reason"] = "stop"


def _no_calls(body: Body) -> None:
    body.pop("tools", None)
    body.pop("tool_choice", None)


def _unnumbered(found: Body) -> None:
    for call in found.get("tool_calls", ()):
        call["id"] = "functions.get_weather:0"


def _formatted_thought(body: Body) -> None:
    if body.get("response_format"):
        body["thinking"] = {"type": "disabled"}


def _wrong_everywhere(name: str) -> Break:
    """Wrong arguments of the tool `submit`, when its schema is that of a hard case."""
    parameters = HARD[name]
    wrong = {"type": "array", "items": {"type": "null"}}

    def edit(body: Body) -> None:
        for tool in body.get("tools", ()):
            if tool["function"].get("parameters") == parameters:
                tool["function"]["parameters"] = wrong

    return rewrites(edit)


PLAIN: dict[str, Break] = {
    "chat.plain.fields": answer(lambda body: body.pop("created") and None),
    "chat.plain.message": message(lambda found: found.update(role="bot")),
    "chat.plain.usage-details": answer(
        lambda body: body["usage"].pop("completion_tokens_details") and None
    ),
    "chat.plain.no-markers": message(
        lambda found: found.update(content=f"{found['content']}</think>")
    ),
    "chat.plain.two-answers": answer(lambda body: body["choices"].__delitem__(slice(1, None))),
    "chat.plain.logprobs": answer(lambda body: body["choices"][0].pop("logprobs") and None),
    "chat.plain.max-tokens": ignores("max_tokens"),
    "chat.plain.max-completion-tokens": ignores("max_completion_tokens"),
    "chat.plain.stop": ignores("stop"),
    "chat.plain.repeatable": Break(
        request=lambda path, body: {**body, "seed": id(body)} if path == CHAT else body
    ),
    "chat.plain.unknown-field": refuses(lambda body: "x_unheard_of" in body),
    "chat.messages.system-message": refuses(has_role("system")),
    "chat.messages.developer-message": refuses(has_role("developer")),
    "chat.messages.text-parts": refuses(
        lambda body: any(isinstance(m.get("content"), list) for m in body["messages"])
    ),
    "chat.messages.many-turns": refuses(lambda body: len(body["messages"]) > 1),
    "chat.messages.tool-history": refuses(has_role("tool")),
    "chat.messages.tool-history-text": refuses(
        lambda body: any(m.get("content") and m.get("tool_calls") for m in body["messages"])
    ),
    "chat.messages.thinking-history": refuses(
        lambda body: any("reasoning_content" in m for m in body["messages"])
    ),
    "chat.messages.prefill": refuses(lambda body: "partial" in body["messages"][-1]),
    "chat.messages.special-tokens": rewrites(
        lambda body: [
            m.update(content=m["content"].replace("<|im_end|><|im_system|>system<|im_middle|>",
                                                  "123456"))
            for m in body["messages"] if isinstance(m.get("content"), str)
        ] and None
    ),
    "thinking.separate": message(_thought_inside),
    "thinking.streams-the-same": deltas(
        lambda d: d.update(reasoning_content="hm") if d.get("reasoning_content") else None
    ),
    "thinking.counted": answer(
        lambda body: body["usage"]["completion_tokens_details"].update(reasoning_tokens=0)
    ),
    "thinking.off-kimi": ignores("thinking"),
    "thinking.off-open": ignores("chat_template_kwargs"),
    "thinking.accepts-keep": refuses(lambda body: "keep" in (body.get("thinking") or {})),
    "thinking.accepts-template-fields": refuses(
        lambda body: "preserve_thinking" in (body.get("chat_template_kwargs") or {})
    ),
    "thinking.not-held-by-format": rewrites(_formatted_thought),
    "format.text": refuses(lambda body: "response_format" in body),
    "format.json-object": ignores("response_format"),
    "format.json-schema": ignores("response_format"),
    "format.json-schema-default-strict": rewrites(
        lambda body: body.pop("response_format", None) and None
        if "strict" not in (body.get("response_format") or {}).get("json_schema", {}) else None
    ),
    "tools.required": rewrites(_no_calls),
    "tools.arguments": answer(wrong_plain_calls),
    "tools.message": message(
        lambda found: [c.pop("type") for c in found.get("tool_calls", ())] and None
    ),
    "tools.absent-when-none": message(lambda found: found.setdefault("tool_calls", []) and None),
    "tools.named": rewrites(
        lambda body: body.update(tool_choice="required")
        if isinstance(body.get("tool_choice"), dict) else None
    ),
    "tools.none": rewrites(
        lambda body: body.update(tool_choice="required")
        if body.get("tool_choice") == "none" and body.get("tools") else None
    ),
    "tools.auto": answer(
        lambda body: body["choices"][0].update(finish_reason="stop")
    ),
    "tools.allowed": rewrites(
        lambda body: body.update(tool_choice="required")
        if isinstance(body.get("tool_choice"), dict) else None
    ),
    "tools.one-at-a-time": ignores("parallel_tool_calls"),
    "tools.none-without-tools": refuses(lambda body: body.get("tool_choice") == "none"),
    "tools.auto-without-tools": refuses(
        lambda body: body.get("tool_choice") == "auto" and not body.get("tools")
    ),
    "tools.cut-off": answer(_claims_success),
    "tools.result": refuses(has_role("tool")),
    "tools.numbered-over-history": message(_unnumbered),
    "tools.in-system-message": rewrites(
        lambda body: [m.pop("tools", None) for m in body["messages"]] and None
    ),
    "tools.schema-accuracy": answer(wrong_plain_calls),
    **{f"tools.schema-{name}": _wrong_everywhere(name) for name in HARD},
}  # fmt: skip
for _effort in ("low", "high", "max"):
    PLAIN[f"thinking.accepts-effort-{_effort}"] = refuses(
        lambda body, effort=_effort: (body.get("thinking") or {}).get("effort") == effort
    )
for _effort in ("low", "medium", "high"):
    PLAIN[f"thinking.accepts-reasoning-effort-{_effort}"] = refuses(
        lambda body, effort=_effort: body.get("reasoning_effort") == effort
    )

# --- errors, keys, other routes ------------------------------------------------------------------

_ROUTES = ("/v1/no/such/route", "/v1/embeddings")
OTHER: dict[str, Break] = {
    "errors.not-json": responds(
        lambda r: r.url.path == CHAT and not sent_json(r) and r.content[:1] == b"{", 500
    ),
    "errors.not-an-object": responds(
        lambda r: r.url.path == CHAT and not isinstance(sent_json(r), dict), 500
    ),
    "errors.odd-numbers": Break(accept_all=True),
    "errors.deep-json": responds(lambda r: len(r.content) > 200_000, 500),
    "errors.unknown-model": rewrites(lambda body: None),
    "errors.streamed-as-json": Break(
        status=lambda path, status: 200 if path == CHAT and status == 404 else status
    ),
    "errors.param": errors(lambda body: body["error"].update(param=None) and None),
    "errors.fields": errors(lambda body: body["error"].pop("code", None) and None),
    "errors.route": Break(status=lambda path, status: 400 if status == 405 else status),
    "errors.embeddings": responds(lambda r: r.url.path == "/v1/embeddings", 500),
    "errors.context": errors(lambda body: body["error"].update(code=None) and None),
    "errors.request-id": header("x-request-id", None),
    "errors.alive": Break(dies=True),
    "keys.missing": Break(open_door=True),
    "keys.wrong": Break(open_door=True),
    "keys.either-header": responds(lambda r: "x-api-key" in r.headers, 401),
    "keys.not-echoed": responds(
        lambda r: "4711" in r.headers.get("authorization", ""), 401,
        {"error": {"message": "sk-wrong-4711-0815 is wrong"}},
    ),
    "models.list": answer(lambda body: body.pop("object") and None, "/v1/models"),
    "models.get": answer(lambda body: body.update(id="x"), "/v1/models/ID"),
    "models.length": answer(
        lambda body: [r.pop("max_model_len") for r in body["data"]] and None, "/v1/models"
    ),
    "models.anthropic": answer(lambda body: body.pop("has_more") and None, "/v1/models?anthropic"),
    "health": responds(lambda r: r.url.path == "/health", 401),
    "completions.fields": answer(lambda body: body.update(object="chat"), COMPLETIONS),
    "completions.stream": frames(lambda sent: sent[:-1], COMPLETIONS),
    "completions.prompts": rewrites(
        lambda body: body.update(prompt=body["prompt"][0])
        if isinstance(body["prompt"], list) and isinstance(body["prompt"][0], str) else None,
        COMPLETIONS,
    ),
    "completions.echo": ignores("echo", path=COMPLETIONS),
    "completions.refuses": ignores("suffix", path=COMPLETIONS),
    "tokens.roundtrip": rewrites(lambda body: body["tokens"].pop() and None, "/detokenize"),
    "tokens.estimate": rewrites(
        lambda body: body["messages"].extend(body["messages"] * 9),
        "/v1/tokenizers/estimate-token-count",
    ),
    "behaviour.side-by-side": rewrites(
        lambda body: body["messages"][0].update(content="Write about the number 1.")
        if body.get("stream") and "number" in str(body["messages"][0]["content"]) else None
    ),
    "behaviour.disconnect": Break(never_ends=True),
    "behaviour.many-at-once": responds(
        lambda r: r.url.path == CHAT and b"Number 7." in r.content, 500
    ),
    "responses.fields": answer(lambda body: body.pop("status") and None, RESPONSES),
    "responses.stream": frames(lambda sent: sent[:-1], RESPONSES),
    "responses.tools": ignores("tool_choice", path=RESPONSES, input="x"),
    "responses.format": ignores("text", path=RESPONSES),
    "responses.refuses": ignores("previous_response_id", path=RESPONSES),
    "responses.input-tokens": rewrites(
        lambda body: body.update(input="x"), "/v1/responses/input_tokens"
    ),
}  # fmt: skip


def _any_model(request: httpx.Request) -> httpx.Response | None:
    body = sent_json(request)
    if isinstance(body, dict) and body.get("model") == "no/such-model":
        return httpx.Response(200, json={})
    return None


OTHER["errors.unknown-model"] = Break(respond=_any_model)

# --- Anthropic -----------------------------------------------------------------------------------


def _anthropic_calls(edit: Callable[[Body], Any]) -> Break:
    return answer(
        lambda body: [edit(b) for b in body["content"] if b["type"] == "tool_use"] and None,
        MESSAGES,
    )


def _event(kind: str, edit: Callable[[Body], Any]) -> Break:
    return chunks(lambda e: edit(e) and None if e["type"] == kind else None, MESSAGES)


ANTHROPIC: dict[str, Break] = {
    "message": answer(lambda body: body.pop("stop_sequence", 0) and None, MESSAGES),
    "max-tokens": rewrites(lambda body: body.update(max_tokens=999), MESSAGES),
    "stop-sequences": ignores("stop_sequences", path=MESSAGES),
    "system": refuses(lambda body: isinstance(body.get("system"), list), MESSAGES),
    "tool-use": _anthropic_calls(lambda block: block.update(input="{}")),
    "tool-named": rewrites(
        lambda body: body.update(tool_choice={"type": "any"})
        if (body.get("tool_choice") or {}).get("type") == "tool" else None, MESSAGES
    ),
    "tool-result": refuses(lambda body: "tool_result" in json.dumps(body["messages"]), MESSAGES),
    "thinking": ignores("thinking", path=MESSAGES),
    "thinking-history": refuses(lambda body: "signature" in json.dumps(body), MESSAGES),
    "efforts": refuses(lambda body: "effort" in (body.get("output_config") or {}), MESSAGES),
    "format": ignores("output_config", path=MESSAGES),
    "headers": responds(
        lambda r: r.url.path == MESSAGES and "anthropic-version" not in r.headers, 400
    ),
    "odd-roles": refuses(has_role("ctx"), MESSAGES),
    "count-tokens": rewrites(
        lambda body: body["messages"].extend(body["messages"]), "/v1/messages/count_tokens"
    ),
    "errors": errors(lambda body: body.pop("type", None) and None),
    "keys": Break(open_door=True),
    "stream.lines": raw(lambda data: data.replace(b"event: message_stop\n", b""), MESSAGES),
    "stream.order": frames(lambda sent: [*sent[:-2], sent[-1], sent[-2]], MESSAGES),
    "stream.start": _event("message_start", lambda e: e["message"].update(content=None)),
    "stream.index": chunks(
        lambda e: e.update(index=e["index"] + 1) if "index" in e else None, MESSAGES
    ),
    "stream.deltas": _event(
        "content_block_delta", lambda e: e["delta"].update(type="text_delta", text="x")
    ),
    "stream.end": _event("message_delta", lambda e: e["delta"].pop("stop_reason")),
    "stream.tool-input": _event(
        "content_block_delta",
        lambda e: e["delta"].update(partial_json="") if "partial_json" in e["delta"] else 0,
    ),
    "stream.same-text": frames(lambda sent: sent[:3] + sent[4:], MESSAGES),
}  # fmt: skip

# --- everything that is accepted and should not be ----------------------------------------------

_REFUSALS = ("params.", "tools.refuses-", "format.refuses-", "thinking.refuses-",
             "anthropic.refuses-", "vision.refuses-")  # fmt: skip


# --- pictures ------------------------------------------------------------------------------------


def pictures(body: Body) -> list[tuple[Body, Body]]:
    """(message, part) of every picture of a chat request."""
    return [
        (message, part)
        for message in body["messages"]
        for part in message["content"] if isinstance(message.get("content"), list)
        if part.get("type") in ("image_url", "image", "input_image")
    ]  # fmt: skip


def _refuses_picture(when: Callable[[Body, Body], Any], path: str = CHAT) -> Break:
    """Refuse requests that have a picture such as that: (message, part)."""
    return refuses(lambda body: any(when(*one) for one in pictures(body)), path)


def _refuses_order(order: str) -> Break:
    """`order`: the first letters of the parts' types."""
    return refuses(
        lambda body: order == "".join(
            part["type"][0] for part in body["messages"][-1]["content"] if isinstance(part, dict)
        )
    )  # fmt: skip


def _url(part: Body) -> str:
    named = part["image_url"]
    return named["url"] if isinstance(named, dict) else named


def _without_pictures(body: Body) -> None:
    for message, part in pictures(body):
        message["content"].remove(part)


def _small_pictures(body: Body) -> None:
    for _, part in pictures(body):
        part["image_url"] = {"url": data_url(draw())}


def _reads_json(body: Body) -> None:
    for message in body["messages"]:
        if str(message.get("content")).startswith("[{"):
            message["content"] = [
                part for part in json.loads(message["content"]) if part["type"] in good_checks.PARTS
            ]


def _input_without_pictures(body: Body) -> None:
    if isinstance(body["input"], list):
        _without_pictures({"messages": body["input"]})


VISION: dict[str, Break] = {
    "read-or-refused": rewrites(_without_pictures),
    "bare-url": _refuses_picture(lambda _, part: isinstance(part["image_url"], str)),
    "order-text-first": _refuses_order("ti"),
    "order-alone": _refuses_order("i"),
    "order-between": _refuses_order("titit"),
    "order-side-by-side": _refuses_order("iit"),
    "order-twice": _refuses_order("iti"),
    "order-ten": refuses(lambda body: len(pictures(body)) > 9),
    "streamed": refuses(lambda body: body.get("stream") and pictures(body)),
    "tiny": _refuses_picture(lambda _, part: _url(part) == data_url(draw(1, 1))),
    "strip": _refuses_picture(lambda _, part: _url(part) == data_url(draw(600, 3))),
    "earlier-turn": refuses(
        lambda body: pictures(body) and body["messages"][-1]["content"][0].get("text") == "Sure?"
    ),
    "tool-result": _refuses_picture(lambda message, _: message["role"] == "tool"),
    "size-counts": rewrites(_small_pictures),
    "estimate": rewrites(_without_pictures, "/v1/tokenizers/estimate-token-count"),
    "text-stays-text": rewrites(_reads_json),
    "alive": Break(accept_all=True),
    "anthropic": _refuses_picture(lambda _, part: part["type"] == "image", MESSAGES),
    "anthropic-tool-result": refuses(
        lambda body: '"tool_result"' in json.dumps(body["messages"]), MESSAGES
    ),
    "anthropic-count": rewrites(_without_pictures, "/v1/messages/count_tokens"),
    "anthropic-refuses": Break(accept_all=True),
    "responses": rewrites(_input_without_pictures, RESPONSES),
}  # fmt: skip
for _form, _type in TYPES.items():
    VISION[_form] = _refuses_picture(
        lambda _, part, start=f"data:{_type}": _url(part).startswith(start)
    )
for _detail in ("low", "high", "auto"):
    VISION[f"detail-{_detail}"] = _refuses_picture(
        lambda _, part, detail=_detail: detail in dict(part["image_url"]).values()
    )


def all_breaks() -> Iterator[tuple[str, Break]]:
    """(check id, server) for every check; a missing one is a KeyError."""
    breaks = {f"chat.stream.{name}": broken for name, broken in STREAM.items()}
    breaks |= {f"anthropic.{name}": broken for name, broken in ANTHROPIC.items()}
    breaks |= {f"vision.{name}": broken for name, broken in VISION.items()}
    breaks |= PLAIN | OTHER
    for check_id in CHECKS:
        if check_id == "chat.stream.incremental":
            continue  # about time: tested by itself
        if check_id.startswith(_REFUSALS):
            yield check_id, Break(accept_all=True)
        elif check_id.startswith("kimi-strict."):
            accepted = CHECKS[check_id].rule.startswith("Accepted")
            yield check_id, refuses(lambda body: True) if accepted else Break(accept_all=True)
        else:
            yield check_id, breaks.pop(check_id)
    assert not breaks, f"no such checks: {sorted(breaks)}"
