"""`kimi-strict.*`: Moonshot's published vendor rules, what must be taken and what must be refused.

Sources: the Kimi Vendor Verifier's suites of parameters, tool choice, thinking effort, response
formats and tools in system messages; Moonshot's API reference. A server that claims the rules
keeps all of them at once: values that one suite sends must not be refused for another's sake.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from jsonschema import Draft202012Validator

from perilune.exam.contract.chat_plain import first_choice
from perilune.exam.contract.check import Level, Skip, check, expect
from perilune.exam.contract.refusals import refused
from perilune.exam.contract.scenarios import WEATHER
from perilune.exam.contract.target import Exchange, Target

Fields = dict[str, Any]
WHY = "Programs tested here would fail there, or the reverse."
ON: Fields = {"thinking": {"type": "enabled"}}
OFF: Fields = {"thinking": {"type": "disabled"}}
OPEN_ON: Fields = {"chat_template_kwargs": {"thinking": True}}
OPEN_OFF: Fields = {"chat_template_kwargs": {"thinking": False}}
MODES = (("thinking", ON), ("instant", OFF))
NAMED: Fields = {"type": "function", "function": {"name": "get_weather"}}
TOOLS: Fields = {"tools": [WEATHER]}


def _ask(target: Target, fields: Fields, *, stream: bool = False) -> Exchange:
    if not target.settings.kimi_strict:
        raise Skip("for servers that claim Moonshot's own limits: --kimi-strict")
    body = target.chat_body(**{"max_tokens": 8, **fields})
    for switch in ("thinking", "chat_template_kwargs"):
        if switch not in fields:
            body.pop(switch, None)
    body.pop("temperature", None)
    body |= {"temperature": fields["temperature"]} if "temperature" in fields else {}
    return target.post("/v1/chat/completions", {**body, "stream": True} if stream else body)


def _rule(id: str, what: str) -> Callable[[Callable[[Target], None]], Any]:  # noqa: A002
    return check(f"kimi-strict.{id}", what, why=WHY, level=Level.KIMI)


def _accepted(id: str, what: str, *all_fields: Fields) -> None:  # noqa: A002
    @_rule(id, f"Accepted, as by Moonshot's own API: {what}.")
    def accepted(target: Target) -> None:
        for fields in all_fields:
            first_choice(_ask(target, fields))


def _refused(id: str, what: str, *all_fields: Fields) -> None:  # noqa: A002
    @_rule(id, f"Refused with 400, as by Moonshot's own API: {what}.")
    def is_refused(target: Target) -> None:
        for fields in all_fields:
            refused(_ask(target, fields))
            refused(_ask(target, fields, stream=True))


# --- parameters: (name, values that are taken, values that are not), in both modes ----------------

PINNED: tuple[tuple[str, tuple[float, ...], tuple[float, ...]], ...] = (
    ("temperature", (0, 0.6, 1.0), (0.5, 0.3, 0.7, 0.99, -0.1, 1.1, 2)),
    ("top_p", (0.95,), (0.8, 1.0, 0.5)),
    ("presence_penalty", (0,), (0.5, -0.5)),
    ("frequency_penalty", (0,), (0.5, -0.5)),
    ("n", (1,), (2,)),
)
for _mode, _switch in MODES:
    _accepted(f"defaults-{_mode}", f"none of the fixed parameters, {_mode}", _switch)
    for _name, _taken, _wrong in PINNED:
        for _value in _taken:
            _accepted(
                f"{_name}-{_value:g}-{_mode}", f"{_name} {_value:g}, {_mode}",
                {**_switch, _name: _value},
            )  # fmt: skip
        for _value in _wrong:
            _refused(
                f"{_name}-not-{_value:g}-{_mode}", f"{_name} {_value:g}, {_mode}",
                {**_switch, _name: _value},
            )  # fmt: skip
_accepted(
    "open-spelling", "thinking switched by chat_template_kwargs, with that mode's temperature",
    {**OPEN_ON, "temperature": 1.0}, {**OPEN_OFF, "temperature": 0.6},
)  # fmt: skip

# --- tool choice ----------------------------------------------------------------------------------


def _forced(id: str, what: str, fields: Fields, *, stream: bool) -> None:  # noqa: A002
    @_rule(id, f"Accepted, as by Moonshot's own API: {what}; the arguments fit the schema.")
    def forced(target: Target) -> None:
        exchange = _ask(
            target, {**TOOLS, "max_tokens": target.settings.call_tokens, **fields}, stream=stream
        )
        exchange.ok()
        if stream:
            calls, finish = _streamed_calls(exchange)
        else:
            choice = first_choice(exchange)
            calls = [
                (c["function"]["name"], c["function"]["arguments"])
                for c in choice["message"].get("tool_calls") or ()
            ]
            finish = choice["finish_reason"]
        if finish == "length":
            return  # taken, and cut before its end
        expect(finish == "tool_calls" and calls, f"it ends by {finish!r} with {len(calls)} calls")
        for name, arguments in calls:
            expect(name == "get_weather", f"it calls {name!r}")
            Draft202012Validator(WEATHER["function"]["parameters"]).validate(json.loads(arguments))


def _streamed_calls(exchange: Exchange) -> tuple[list[tuple[str, str]], str | None]:
    calls: dict[int, list[str]] = {}
    finish = None
    for event in exchange.events:
        if event.data == "[DONE]":
            continue
        for choice in json.loads(event.data)["choices"]:
            finish = choice["finish_reason"] or finish
            for piece in choice["delta"].get("tool_calls") or ():
                call = calls.setdefault(piece["index"], ["", ""])
                call[0] += piece["function"].get("name") or ""
                call[1] += piece["function"].get("arguments") or ""
    return [(name, arguments) for name, arguments in calls.values()], finish


for _mode, _switch in MODES:
    for _stream in (False, True):
        _way = "-streamed" if _stream else ""
        _forced(
            f"tool_choice-required-{_mode}{_way}",
            f"tool_choice required, {_mode}{', streamed' if _stream else ''}",
            {**_switch, "tool_choice": "required"}, stream=_stream,
        )  # fmt: skip
    _accepted(
        f"tool_choice-auto-none-{_mode}", f"tool_choice auto and none, with tools, {_mode}",
        {**TOOLS, **_switch, "tool_choice": "auto"}, {**TOOLS, **_switch, "tool_choice": "none"},
    )  # fmt: skip
    _accepted(
        f"tool_choice-no-tools-{_mode}", f"tool_choice auto and none without tools, {_mode}",
        {**_switch, "tool_choice": "auto"}, {**_switch, "tool_choice": "none"},
    )  # fmt: skip
    _refused(
        f"tool_choice-required-no-tools-{_mode}",
        f"tool_choice required without tools and with an empty list, {_mode}",
        {**_switch, "tool_choice": "required"},
        {**_switch, "tool_choice": "required", "tools": []},
    )
    _refused(
        f"tool_choice-unknown-{_mode}", f"an unknown tool_choice, {_mode}",
        {**TOOLS, **_switch, "tool_choice": "invalid"},
    )  # fmt: skip
_accepted("tool_choice-named-instant", "a named tool, instant",
          {**TOOLS, **OFF, "tool_choice": NAMED})  # fmt: skip
_refused("tool_choice-named-thinking", "a named tool, thinking",
         {**TOOLS, **ON, "tool_choice": NAMED})  # fmt: skip

# --- thinking -------------------------------------------------------------------------------------

for _effort in ("low", "high", "max"):
    _accepted(
        f"thinking-effort-{_effort}", f"thinking.effort {_effort}, in both spellings",
        {"thinking": {"type": "enabled", "keep": "all", "effort": _effort}},
        {"chat_template_kwargs": {"thinking": True, "preserve_thinking": True,
                                  "thinking_effort": _effort}},
    )  # fmt: skip
_refused(
    "thinking-effort-unknown", "thinking.effort beyond low, high and max",
    *({"thinking": {"type": "enabled", "effort": e}} for e in ("medium", "minimal", "x", "", 1)),
)  # fmt: skip
NO_THINKING: tuple[Any, ...] = (
    True, "enabled", [], {"type": "auto"}, {"type": "enabled", "keep": "some"},
    {"type": "enabled", "budget_tokens": 9}, {"type": "enabled", "other": 1},
)  # fmt: skip
_refused(
    "thinking-fields", "thinking that is not an object, of another type, or with other fields",
    *({"thinking": value} for value in NO_THINKING),
)  # fmt: skip
_accepted("thinking-keep", "thinking.keep all and null",
          {"thinking": {"type": "enabled", "keep": "all"}},
          {"thinking": {"type": "enabled", "keep": None}})  # fmt: skip

# --- the form of the answer, tools in system messages, limits -------------------------------------

_OBJECT: Fields = {"type": "object", "properties": {"a": {"type": "integer"}}}


def _format(**parts: Any) -> Fields:
    return {**OFF, "response_format": {"type": "json_schema", "json_schema": parts}}


_accepted(
    "response_format", "text, json_object, and json_schema with strict true, false and absent",
    {**OFF, "response_format": {"type": "text"}},
    {**OFF, "response_format": {"type": "json_object"}},
    *(_format(name="a", schema=_OBJECT, strict=strict) for strict in (True, False)),
    _format(name="a", schema=_OBJECT),
)  # fmt: skip
for _id, _what, _fields in (
    ("no-json-schema", "json_schema is missing", {"response_format": {"type": "json_schema"}}),
    ("no-name", "json_schema without a name", _format(schema=_OBJECT)),
    ("no-schema", "json_schema without a schema", _format(name="a")),
    ("strict", "strict that is not a boolean", _format(name="a", schema=_OBJECT, strict="true")),
    ("list", "a schema that is a list", _format(name="a", schema=[_OBJECT])),
    ("text", "a schema that is a text", _format(name="a", schema="object")),
    ("type", "an unknown type", {"response_format": {"type": "xml"}}),
    ("no-type", "no type", {"response_format": {}}),
    ("no-object", "a format that is not an object", {"response_format": "json_object"}),
):
    _refused(f"response_format-{_id}", f"response_format: {_what}", {**OFF, **_fields})


def _messages(role: str, tools: Any) -> Fields:
    user = {"role": "user", "content": "Say hello."}
    declared = {"role": role, "content": "Help.", "tools": tools}
    return {**OFF, "messages": [declared, user] if role != "assistant" else [user, declared, user]}


_accepted("system-tools", "tools in a system message", _messages("system", [WEATHER]))
for _role in ("user", "assistant"):
    _refused(f"system-tools-{_role}", f"tools in a message of the {_role}",
             _messages(_role, [WEATHER]))  # fmt: skip
_refused("system-tools-malformed", "tools of a system message that are not a list",
         _messages("system", {"a": 1}), _messages("system", "get_weather"))  # fmt: skip
_accepted("stop-5", "five stop texts of 32 bytes", {**OFF, "stop": [f"{i:032}" for i in range(5)]})
_refused("stop-count", "six stop texts", {**OFF, "stop": list("abcdef")})
_refused("stop-bytes", "a stop text of 33 bytes", {**OFF, "stop": "x" * 33},
         {**OFF, "stop": ["\N{EURO SIGN}" * 11]})  # fmt: skip


def _tools(count: int) -> Fields:
    function = {**WEATHER["function"], "parameters": {"type": "object"}}
    return {
        **OFF,
        "tool_choice": "none",
        "tools": [
            {"type": "function", "function": {**function, "name": f"tool_{i}"}}
            for i in range(count)
        ],
    }


_accepted("tools-128", "128 tools", _tools(128))
_refused("tools-129", "129 tools", _tools(129))
