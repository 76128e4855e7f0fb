"""A route without a framework: a request of plain values in, a reply of plain values out."""

from __future__ import annotations

import json
import math
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from pydantic import BaseModel, ValidationError

from perilune.serve.api_error import ApiError, invalid
from perilune.serve.request import Caller
from perilune.text import valid_json

if TYPE_CHECKING:
    from perilune.serve.service import Service

MAX_JSON_DEPTH = 120
_HALF = re.compile(rb"\\u[dD][89a-fA-F]|\xed[\xa0-\xbf]")
Body = TypeVar("Body", bound=BaseModel)
_TYPE = re.compile(r"[\[\]]|^(constrained-)?(str|int|float|bool|dict|list)$")


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """What a handler may know. Header names are lower-case."""

    method: str
    path: str
    headers: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)
    path_params: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    caller: Caller = field(default_factory=Caller)
    id: str = ""  # x-request-id

    def json(self) -> Any:
        """The body as JSON: no NaN, no infinity, no bottomless nesting. Raises ApiError."""
        if not self.body:
            raise invalid("the request has no body", code="invalid_json")
        try:
            value = _decode(self.body)
        except (ValueError, RecursionError) as error:  # msgspec's are ValueErrors
            raise invalid(f"the body is not JSON: {error}", code="invalid_json") from None
        if _deeper_than(value, MAX_JSON_DEPTH):
            raise invalid(f"the body is nested deeper than {MAX_JSON_DEPTH}", code="invalid_json")
        return value

    def read(self, model: type[Body]) -> Body:
        """The body as a model. Raises ApiError (400) that names the field."""
        return parse(model, self.json())


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole reply. `json` is encoded; `text` goes as it is."""

    json: Any = None
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    text: str | None = None
    media_type: str = "application/json"

    def encoded(self) -> bytes:
        if self.text is not None:
            return self.text.encode("utf-8", "replace")
        return b"" if self.json is None else encode(self.json)


@dataclass(frozen=True, slots=True)
class StreamReply:
    """Server-sent events. Closing `frames` ends what they come from.

    The frames are whole events, `\\n\\n` included; a failure inside is theirs to put into words.
    broken: what it was, once they have ended; None when all went well.
    """

    frames: AsyncGenerator[bytes, None]
    broken: Callable[[], ApiError | None] = lambda: None
    headers: Mapping[str, str] = field(default_factory=dict)
    ping: bytes = b": ping\n\n"  # what a silent stream sends


Handler = Callable[["Service", HttpRequest], Awaitable[Reply | StreamReply]]


@dataclass(frozen=True, slots=True)
class Route:
    """A row of the server's table of routes. `public`: no key is asked for."""

    method: str
    path: str
    handler: Handler
    summary: str
    body: type[BaseModel] | None = None
    public: bool = False
    in_schema: bool = True


def parse(model: type[Body], value: Any) -> Body:
    """Raises ApiError (400) with the first field at fault in `param`."""
    try:
        return model.model_validate(value, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        # A union names the type it tried; clients know fields only.
        param = ".".join(str(part) for part in first["loc"] if not _TYPE.search(str(part))) or None
        missing = first["type"] == "missing"
        raise invalid(
            f"{param or 'the body'}: {first['msg']}",
            param,
            "missing_required_parameter" if missing else "invalid_type",
        ) from None
    except RecursionError:
        raise invalid("the body is nested too deeply", code="invalid_json") from None


def encode(value: Any) -> bytes:
    """JSON in UTF-8. A lone surrogate, which UTF-8 cannot hold, becomes U+FFFD."""
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:
        return msgspec.json.encode(valid_json(msgspec.to_builtins(value)))


def sse(data: Any, *, event: str | None = None) -> bytes:
    """One server-sent event with JSON data."""
    head = b"" if event is None else b"event: " + event.encode() + b"\n"
    return head + b"data: " + encode(data) + b"\n\n"


def finite(value: float) -> float | None:
    """A number that JSON can hold."""
    return value if math.isfinite(value) else None


def _decode(body: bytes) -> Any:
    """JSON -> values whose texts are valid Unicode: half a character becomes U+FFFD.

    Clients cut texts inside a pair of surrogates (JavaScript's `slice` does), and write the half
    as an escape or as bytes. Raises ValueError or RecursionError.
    """
    try:
        return msgspec.json.decode(body)
    except ValueError:
        if not _HALF.search(body):
            raise

    def constant(name: str) -> Any:
        raise ValueError(f"{name} is not JSON")

    return valid_json(json.loads(body.decode("utf-8", "surrogatepass"), parse_constant=constant))


def _deeper_than(value: Any, depth: int) -> bool:
    level = [value]
    for _ in range(depth):
        level = [
            item
            for container in level
            if isinstance(container, dict | list)
            for item in (container.values() if isinstance(container, dict) else container)
            if isinstance(item, dict | list)
        ]
        if not level:
            return False
    return True


__all__ = [
    "ApiError", "Handler", "HttpRequest", "Reply", "Route", "StreamReply", "encode", "finite",
    "parse", "sse",
]  # fmt: skip
