"""What the good server says: deterministic words, values that fit a schema, cut at max_tokens."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from typing import Any

WORDS = (
    "the", "moon", "turns", "slowly", "and", "its", "far", "side", "keeps", "no", "water", "under",
    "basalt",
)  # fmt: skip
THOUGHT = ["Let", " me", " think", " about", " it", "."]


@dataclass
class Output:
    """One answer, token by token."""

    reasoning: list[str] = field(default_factory=list)
    content: list[str] = field(default_factory=list)
    calls: list[dict[str, Any]] = field(default_factory=list)  # id, name, pieces, whole
    finish: str = "stop"
    stop: str | None = None

    @property
    def tokens(self) -> int:
        calls = sum(1 + len(call["pieces"]) for call in self.calls)
        return len(self.reasoning) + len(self.content) + calls


def answer(
    question: str,
    *,
    variant: str = "",
    limit: int | None = None,
    stop: list[str] = [],  # noqa: B006
    thinking: bool = False,
    calls: list[tuple[str, dict[str, Any]]] = [],  # noqa: B006  (name, schema)
    first_call: int = 0,
    shape: dict[str, Any] | None = None,  # schema of the answer
) -> Output:
    out = Output(reasoning=list(THOUGHT) if thinking else [])
    if calls:
        for number, (name, schema) in enumerate(calls):
            text = json.dumps(value_of(schema, schema), ensure_ascii=False)
            pieces = [text[i : i + 5] for i in range(0, len(text), 5)]
            out.calls.append(
                {"id": f"functions.{name}:{first_call + number}", "name": name, "pieces": pieces,
                 "whole": True}
            )  # fmt: skip
        out.finish = "tool_calls"
    elif shape is not None:
        text = json.dumps(value_of(shape, shape), ensure_ascii=False)
        out.content = [text[i : i + 4] for i in range(0, len(text), 4)]
    elif question.startswith("Repeat exactly: "):
        out.content = list(question.removeprefix("Repeat exactly: "))
    else:
        digest = hashlib.sha256(f"{question}/{variant}".encode()).digest()
        count = 200 if "without stopping" in question or "Count" in question else 20
        out.content = [
            f"{' ' if i else ''}{WORDS[digest[i % 32] % len(WORDS)]}" for i in range(count)
        ]
    _stop(out, stop)
    if limit is not None:
        _cut(out, limit)
    return out


def _stop(out: Output, stops: list[str]) -> None:
    text = "".join(out.content)
    places = [(text.index(stop), stop) for stop in stops if stop in text]
    if not places:
        return
    place, out.stop = min(places)
    kept, left = [], place
    for token in out.content:
        if left <= 0:
            break
        kept.append(token[:left])
        left -= len(token)
    out.content = kept


def _cut(out: Output, limit: int) -> None:
    if out.tokens <= limit:
        return
    out.finish, out.stop = "length", None
    out.reasoning = out.reasoning[:limit]
    limit -= len(out.reasoning)
    out.content = out.content[:limit]
    limit -= len(out.content)
    kept = []
    for call in out.calls:
        if limit <= 0:
            break
        pieces = call["pieces"][: limit - 1]
        kept.append({**call, "pieces": pieces, "whole": len(pieces) == len(call["pieces"])})
        limit -= 1 + len(pieces)
    out.calls = kept


def value_of(schema: dict[str, Any], root: dict[str, Any]) -> Any:
    """A value that fits; the shortest, more or less."""
    if "$ref" in schema:
        target: Any = root
        for part in schema["$ref"].removeprefix("#").split("/")[1:]:
            target = target[part]
        return value_of(target, root)
    if "enum" in schema:
        return schema["enum"][0]
    if "anyOf" in schema:
        return value_of(schema["anyOf"][0], root)
    kind = schema.get("type", "object")
    if isinstance(kind, list):
        kind = kind[0]
    match kind:
        case "string":
            return "ab-123" if "pattern" in schema else "x" * schema.get("minLength", 0)
        case "integer" | "number":
            return schema.get("minimum", 0)
        case "boolean":
            return True
        case "null":
            return None
        case "array":
            return [value_of(schema["items"], root) for _ in range(schema.get("minItems", 0))]
    properties = schema.get("properties", {})
    return {name: value_of(properties[name], root) for name in schema.get("required", [])}


def tokens_of(text: str) -> list[str]:
    """The good server's tokenizer: two characters per token."""
    return re.findall(r"(?s).{1,2}", text)
