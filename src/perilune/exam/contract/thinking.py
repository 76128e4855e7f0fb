"""Thinking: on, off, measured, kept apart from the answer."""

from __future__ import annotations

import json
from typing import Any

from perilune.exam.contract.chat_plain import first_choice
from perilune.exam.contract.check import Level, Skip, check, expect, expect_int
from perilune.exam.contract.scenarios import plain, reasoning, streamed
from perilune.exam.contract.target import Target

ON = {"thinking": {"type": "enabled"}, "chat_template_kwargs": {"thinking": True}}


@check(
    "thinking.separate",
    "Thinking comes as reasoning_content, not inside the content.",
    why="Users read the model's notes as its answer.",
    level=Level.KIMI,
)
def separate(target: Target) -> None:
    found = first_choice(plain(target, "thinking"))["message"]
    expect(reasoning(found), "thinking is on and reasoning_content is empty")
    expect("reasoning_content" in found, "thinking comes under another name")
    expect("</think>" not in (found.get("content") or ""), "the content holds </think>")


@check(
    "thinking.streams-the-same",
    "A stream carries the thinking of the plain answer, at temperature 0.",
    why="One of the two loses thinking or mixes it into the answer.",
    level=Level.KIMI,
)
def streams_the_same(target: Target) -> None:
    whole = first_choice(plain(target, "thinking"))["message"]
    stream = streamed(target, "thinking")
    stream.exchange.ok()
    text = "".join(reasoning(delta) for delta in stream.deltas())
    expect(text == reasoning(whole), f"streamed {text[:60]!r}, plain {reasoning(whole)[:60]!r}")


@check(
    "thinking.counted",
    "usage.completion_tokens_details.reasoning_tokens counts the thinking, 0 without.",
    why="Thinking costs; without the count nobody sees how much.",
    level=Level.RECOMMENDED,
)
def counted(target: Target) -> None:
    for name in ("thinking", "text"):
        exchange = plain(target, name)
        found = first_choice(exchange)["message"]
        usage = exchange.json["usage"]
        count = expect_int(
            (usage.get("completion_tokens_details") or {}).get("reasoning_tokens"),
            "reasoning_tokens",
        )
        expect(
            (count > 0) == bool(reasoning(found)),
            f"reasoning_tokens is {count}, thinking is {reasoning(found)[:30]!r}",
        )
        expect(count <= usage["completion_tokens"], "more thinking than answer in all")


def _off(name: str, form: dict[str, Any], level: Level) -> None:
    @check(
        f"thinking.off-{name}",
        f"{next(iter(form))} switches thinking off.",
        why="Short answers cost a long thought.",
        level=level,
    )
    def off(target: Target) -> None:
        body = target.chat_body(**form)
        for other in target.thinking_off:
            if other not in form:
                del body[other]
        found = first_choice(target.post("/v1/chat/completions", body))["message"]
        expect(not reasoning(found), f"it thinks: {reasoning(found)[:60]!r}")


_off("kimi", {"thinking": {"type": "disabled"}}, Level.KIMI)
_off("open", {"chat_template_kwargs": {"thinking": False}}, Level.KIMI)


def _accepts(name: str, fields: dict[str, Any], level: Level) -> None:
    @check(
        f"thinking.accepts-{name}",
        f"It takes {fields}.",
        why="Clients of Kimi models send it.",
        level=level,
    )
    def accepts(target: Target) -> None:
        body = target.chat_body(max_tokens=8, **fields)
        if "thinking" not in fields:
            body.pop("thinking", None)
        if "chat_template_kwargs" not in fields:
            body.pop("chat_template_kwargs", None)
        first_choice(target.post("/v1/chat/completions", body))


for _effort in ("low", "high", "max"):
    _accepts(f"effort-{_effort}", {"thinking": {"type": "enabled", "effort": _effort}}, Level.KIMI)
_accepts("keep", {"thinking": {"type": "enabled", "keep": "all"}}, Level.KIMI)
for _effort in ("low", "medium", "high"):
    _accepts(f"reasoning-effort-{_effort}", {"reasoning_effort": _effort}, Level.RECOMMENDED)
_accepts(
    "template-fields",
    {"chat_template_kwargs": {"thinking": True, "preserve_thinking": True}},
    Level.KIMI,
)


@check(
    "thinking.not-held-by-format",
    "With thinking on and a json_schema the thinking is free and the answer follows the schema.",
    why="A grammar that begins too early makes the model think in JSON, or not at all.",
    level=Level.KIMI,
)
def not_held_by_format(target: Target) -> None:
    schema = {"type": "object", "properties": {"a": {"enum": [1]}}, "required": ["a"],
              "additionalProperties": False}  # fmt: skip
    exchange = target.chat(
        "What is 2 - 1?",
        **(ON if target.thinking_off else {}),
        thinking_token_budget=16,
        max_tokens=512,
        response_format={"type": "json_schema", "json_schema": {"name": "a", "schema": schema}},
    )
    choice = first_choice(exchange)
    found = choice["message"]
    expect(reasoning(found), "thinking is on, but the answer has none")
    if choice["finish_reason"] == "length":
        raise Skip("the answer was cut off while thinking")
    try:  # JSON may have any white space between its parts
        content = json.dumps(json.loads(found.get("content") or ""))
    except ValueError:
        content = ""
    expect(content == '{"a": 1}', f"the content is {found.get('content')!r}")
