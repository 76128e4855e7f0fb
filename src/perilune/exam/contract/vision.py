"""`vision.*`: pictures in a conversation, by Moonshot's rules and what clients of all APIs send.

Sources: Moonshot's guide of the vision models (formats, base64, parts as an array, token counts);
OpenAI's and Anthropic's references. Nothing depends on what a model sees: pictures are counted.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from perilune.exam.contract.check import Level, Skip, Violation, check, expect
from perilune.exam.contract.pictures import BROKEN, PRIVATE, TYPES, data_url, draw, part, text
from perilune.exam.contract.refusals import refused
from perilune.exam.contract.target import ANTHROPIC, Exchange, Target

Parts = Sequence[dict[str, Any]]
Ask = Callable[[Target], Exchange]
QUESTION = text("What is this?")
CALL = {"id": "functions.look:0", "type": "function",
        "function": {"name": "look", "arguments": "{}"}}  # fmt: skip
CLIENTS = "Clients send it so."
PRICE = "Clients cut their conversations by these numbers."
SILENT = "The model would answer about a picture that it never saw."


def picture(**options: Any) -> dict[str, Any]:
    form = options.get("form", "png")
    return part(data_url(draw(**options), TYPES[form]))


def _ask(target: Target, *parts: dict[str, Any], **fields: Any) -> Exchange:
    messages = [{"role": "user", "content": list(parts)}]
    return target.chat(**{"messages": messages, "max_tokens": 4, **fields})


def _plain(target: Target) -> Exchange:
    return target.once("vision/plain", lambda: _ask(target, picture(), QUESTION))


def says_it_sees(target: Target) -> bool | None:
    """What the model list says; None: nothing."""
    try:
        rows = target.get("/v1/models").json["data"]
        says = next(row for row in rows if row["id"] == target.model).get("supports_image_in")
    except (Violation, KeyError, TypeError, AttributeError, StopIteration):
        return None
    return says if isinstance(says, bool) else None


def need_eyes(target: Target) -> None:
    """Raises Skip for a server that reads text only: by its model list, else by what it does."""
    says = says_it_sees(target)
    if says is False:
        raise Skip("text only: the model list says supports_image_in false")
    if says is None and 400 <= (exchange := _plain(target)).status < 500:
        raise Skip(f"text only: a small PNG is refused with status {exchange.status}")


def _prompt_tokens(exchange: Exchange) -> int:
    count = exchange.ok().json["usage"]["prompt_tokens"]
    expect(isinstance(count, int), f"usage.prompt_tokens is {count!r}", exchange)
    return int(count)


@check(
    "vision.read-or-refused",
    "A picture is read, and counted in usage, or refused with 400; it never vanishes.",
    why=SILENT,
)
def read_or_refused(target: Target) -> None:
    exchange = _plain(target)
    if exchange.status != 200:
        refused(exchange)
        expect(not says_it_sees(target), "a PNG is refused, and the list says it sees", exchange)
        return
    without = _prompt_tokens(_ask(target, QUESTION))
    expect(_prompt_tokens(exchange) > without, "the picture is not counted", exchange)


# --- what must be taken --------------------------------------------------------------------------


def _taken(
    id: str,  # noqa: A002
    what: str,
    ask: Ask,
    *,
    why: str = CLIENTS,
    level: Level = Level.RECOMMENDED,
    api: str = "openai",
) -> None:
    """Register: a request with a picture is answered with 200."""

    def run(target: Target) -> None:
        need_eyes(target)
        exchange = ask(target)
        if exchange.status in (404, 405, 501) and api == "anthropic":
            raise Skip("this server has no /v1/messages")
        exchange.ok()

    check(f"vision.{id}", f"Taken: {what}.", why=why, level=level, api=api)(run)


def _user(*parts: dict[str, Any] | str) -> dict[str, Any]:
    return {"role": "user", "content": list(parts)}


for _form in TYPES:
    _taken(
        _form,
        f"a {_form.upper()} as base64",
        lambda t, f=_form: _ask(t, picture(form=f), QUESTION),  # type: ignore[misc]
        level=Level.REQUIRED if _form in ("png", "jpeg") else Level.KIMI,
    )
_taken(
    "bare-url",
    "an image_url that is the URL itself",
    lambda t: _ask(t, {"type": "image_url", "image_url": data_url(draw())}, QUESTION),
    level=Level.KIMI,
)
ORDERS: dict[str, Callable[[], Parts]] = {
    "text-first": lambda: (QUESTION, picture()),
    "alone": lambda: (picture(),),
    "between": lambda: (text("First:"), picture(), text("second:"), picture(seed=2), QUESTION),
    "side-by-side": lambda: (picture(), picture(seed=2), QUESTION),
    "twice": lambda: (picture(), QUESTION, picture()),
    "ten": lambda: (*(picture(seed=n) for n in range(10)), QUESTION),
}
for _name, _parts in ORDERS.items():
    _taken(f"order-{_name}", f"parts in the order {_name}", lambda t, p=_parts: _ask(t, *p()))  # type: ignore[misc]
for _detail in ("low", "high", "auto"):
    _taken(
        f"detail-{_detail}",
        f"detail {_detail}",
        lambda t, d=_detail: _ask(  # type: ignore[misc]
            t, part(data_url(draw()), detail=d), QUESTION
        ),
    )
_taken(
    "streamed",
    "a picture in a streamed request",
    lambda t: _ask(t, picture(), QUESTION, stream=True),
    level=Level.REQUIRED,
)
_taken("tiny", "a picture of one pixel", lambda t: _ask(t, picture(width=1, height=1)))
_taken("strip", "a picture of 600 by 3 pixels", lambda t: _ask(t, picture(width=600, height=3)))


def _earlier() -> list[dict[str, Any]]:
    answer = {"role": "assistant", "content": "A moon."}
    return [_user(picture(), QUESTION), answer, _user(text("Sure?"))]


def _looked() -> list[dict[str, Any]]:
    call = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    result = {"role": "tool", "tool_call_id": CALL["id"], "content": [text("Here:"), picture()]}
    return [_user(QUESTION), call, result]


_taken(
    "earlier-turn",
    "a picture in an earlier turn",
    lambda t: t.chat(messages=_earlier(), max_tokens=4),
)
_taken(
    "tool-result",
    "a picture in the result of a tool",
    lambda t: t.chat(messages=_looked(), max_tokens=4),
    level=Level.KIMI,
    why="Kimi Code sends screenshots so.",
)


# --- what it costs -------------------------------------------------------------------------------


@check(
    "vision.size-counts",
    "A larger picture costs more tokens of the prompt.",
    why=PRICE,
    level=Level.KIMI,
)
def size_counts(target: Target) -> None:
    need_eyes(target)
    small = _prompt_tokens(_ask(target, picture(), QUESTION))
    large = _prompt_tokens(_ask(target, picture(width=448, height=448), QUESTION))
    expect(large > small, f"448 x 448 pixels cost {large}, 56 x 56 cost {small}")


@check(
    "vision.estimate",
    "estimate-token-count counts pictures as usage does.",
    why=PRICE,
    level=Level.KIMI,
)
def estimate(target: Target) -> None:
    need_eyes(target)
    messages = [_user(picture(width=448, height=448), QUESTION)]
    exchange = target.post(
        "/v1/tokenizers/estimate-token-count", {"model": target.model, "messages": messages}
    )
    if exchange.status in (404, 405, 501):
        raise Skip("this server has no /v1/tokenizers/estimate-token-count")
    total = exchange.ok().json["data"]["total_tokens"]
    used = _prompt_tokens(target.chat(messages=messages, max_tokens=4))
    expect(abs(total - used) <= 8, f"estimated {total}, used {used}")


@check(
    "vision.text-stays-text",
    "A string that spells parts is text: content with pictures is an array.",
    why="Whoever pastes JSON would send pictures, and pay for them, unasked.",
    level=Level.KIMI,
)
def text_stays_text(target: Target) -> None:
    need_eyes(target)
    spelled = json.dumps([picture(), QUESTION])
    counts = []
    for content in (spelled, f"Text: {spelled}"):
        exchange = target.chat(messages=[{"role": "user", "content": content}], max_tokens=4)
        counts.append(_prompt_tokens(exchange))
    # The second is no JSON, and a word longer; the bytes of a picture as text are hundreds.
    expect(abs(counts[0] - counts[1]) <= 16, f"{counts[0]} tokens, and {counts[1]} as mere text")


# --- what must be refused ------------------------------------------------------------------------


def _refused(
    id: str,  # noqa: A002
    what: str,
    url: Callable[[], Any],
    *,
    why: str = SILENT,
    level: Level = Level.RECOMMENDED,
    statuses: tuple[int, ...] = (400,),
) -> None:
    """Register: a picture is refused, streamed and not."""

    def run(target: Target) -> None:
        need_eyes(target)
        for stream in (False, True):
            bad = {"type": "image_url", "image_url": url()}
            refused(_ask(target, bad, QUESTION, stream=stream), statuses)

    check(f"vision.refuses-{id}", f"Refused: {what}.", why=why, level=level)(run)


for _id, (_what, _url) in BROKEN.items():
    _refused(_id, _what, lambda u=_url: {"url": u()}, statuses=(400, 413))  # type: ignore[misc]
_refused("no-url", "an image_url without a URL", dict)
_refused("number", "a URL that is no text", lambda: {"url": 7})
_refused(
    "unknown-upload",
    "the id of an upload that there is not",
    lambda: {"url": "ms://no-such-file"},
    level=Level.KIMI,
    statuses=(400, 404),
)
for _id, _address in PRIVATE.items():
    _refused(
        f"url-{_id}",
        f"an address of the server's own machine or network ({_id})",
        lambda a=_address: {"url": a},  # type: ignore[misc]
        why="A request would read what only the server can reach.",
        level=Level.REQUIRED,
        statuses=(400, 403, 422),
    )


@check(
    "vision.alive",
    "After every broken picture at once the server still answers.",
    why="One bad picture would end the work of everybody.",
)
def alive(target: Target) -> None:
    need_eyes(target)
    parts = [part(url()) for _, url in BROKEN.values()]
    exchange = _ask(target, *parts, QUESTION)
    expect(400 <= exchange.status < 500, f"status {exchange.status}, 400 was due", exchange)
    expect(target.alive(), "it does not answer any more", exchange)


# --- the other APIs ------------------------------------------------------------------------------


def _source(data: bytes) -> dict[str, Any]:
    encoded = data_url(data).partition(",")[2]
    return {"type": "image",
            "source": {"type": "base64", "media_type": "image/png", "data": encoded}}  # fmt: skip


def _message(target: Target, *blocks: dict[str, Any], path: str = "/v1/messages") -> Exchange:
    body = target.message_body(messages=[_user(*blocks)], max_tokens=4)
    exchange = target.post(path, body, headers=ANTHROPIC)
    if exchange.status in (404, 405, 501):
        raise Skip(f"this server has no {path}")
    return exchange


def _tool_turns() -> list[dict[str, Any]]:
    call = {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {}}
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": [_source(draw())]}
    return [_user(QUESTION), {"role": "assistant", "content": [call]}, _user(result)]


_taken("anthropic", "an image block of Anthropic's", lambda t: _message(t, _source(draw()),
       QUESTION), level=Level.REQUIRED, api="anthropic")  # fmt: skip
_taken(
    "anthropic-tool-result", "an image block in a tool_result", lambda t: t.post(
        "/v1/messages", t.message_body(messages=_tool_turns(), max_tokens=4), headers=ANTHROPIC),
    why="Claude Code reads pictures so.", api="anthropic",
)  # fmt: skip


@check(
    "vision.anthropic-count",
    "count_tokens counts pictures as usage does.",
    why=PRICE,
    level=Level.RECOMMENDED,
    api="anthropic",
)
def anthropic_count(target: Target) -> None:
    need_eyes(target)
    blocks = (_source(draw(448, 448)), QUESTION)
    counted = _message(target, *blocks, path="/v1/messages/count_tokens").ok().json["input_tokens"]
    usage = _message(target, *blocks).ok().json["usage"]
    used = usage["input_tokens"] + (usage.get("cache_read_input_tokens") or 0)
    expect(abs(counted - used) <= 8, f"counted {counted}, used {used}")


@check(
    "vision.anthropic-refuses",
    "A broken image block is refused with 400, invalid_request_error.",
    why=SILENT,
    level=Level.RECOMMENDED,
    api="anthropic",
)
def anthropic_refuses(target: Target) -> None:
    need_eyes(target)
    exchange = _message(target, _source(b"just words, no picture at all"), QUESTION)
    expect(exchange.status == 400, f"status {exchange.status}, 400 was due", exchange)
    kind = exchange.json["error"]["type"]
    expect(kind == "invalid_request_error", f"error.type is {kind!r}", exchange)


@check(
    "vision.responses",
    "An input_image of the Responses API is read and counted.",
    why=CLIENTS,
    level=Level.RECOMMENDED,
)
def responses(target: Target) -> None:
    need_eyes(target)
    counts = []
    for parts in ([], [{"type": "input_image", "image_url": data_url(draw()), "detail": "auto"}]):
        content = [*parts, {"type": "input_text", "text": "What is this?"}]
        body = {"model": target.model, "input": [{"role": "user", "content": content}],
                "max_output_tokens": 16}  # fmt: skip
        exchange = target.post("/v1/responses", body)
        if exchange.status in (404, 405, 501):
            raise Skip("this server has no /v1/responses")
        counts.append(exchange.ok().json["usage"]["input_tokens"])
    expect(counts[1] > counts[0], "the picture is not counted", exchange)
