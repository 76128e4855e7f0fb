"""What a client is told when something is wrong, before it has the shape of one API.

Sources: OpenAI's error object and the types its SDK knows; Anthropic's error types.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from perilune.errors import (
    ChatError,
    ContextLengthError,
    EngineDeadError,
    EngineError,
    MediaError,
    MediaFault,
    MediaRequestError,
    PeriluneError,
    RequestError,
)
from perilune.serve.media_faults import code_of

OPENAI_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "invalid_request_error",
    409: "invalid_request_error",
    413: "invalid_request_error",
    415: "invalid_request_error",
    429: "rate_limit_error",
    431: "invalid_request_error",
}
ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "invalid_request_error",
    413: "request_too_large",
    415: "invalid_request_error",
    429: "rate_limit_error",
    503: "overloaded_error",
    529: "overloaded_error",
}


@dataclass(eq=False)
class ApiError(Exception):
    """A refusal or a failure. `param` names the field at fault, `code` is one word for programs.

    `retry_after` is in seconds: the client may try again then. `detail` is for the log alone, and
    must hold nothing of a request but what is safe to write down.
    """

    status: int
    message: str
    param: str | None = None
    code: str | None = None
    retry_after: float | None = None
    headers: dict[str, str] = field(default_factory=dict)
    detail: str = ""

    def __str__(self) -> str:
        return self.message

    def openai(self) -> dict[str, Any]:
        """OpenAI's shape."""
        kind = OPENAI_TYPES.get(self.status, "server_error")
        return {
            "error": {
                "message": self.message,
                "type": kind,
                "param": self.param,
                "code": self.code,
            }
        }

    def anthropic(self, request_id: str = "") -> dict[str, Any]:
        """Anthropic's shape. `param` has no place there, so it joins the text."""
        kind = ANTHROPIC_TYPES.get(self.status, "api_error")
        named = self.param is None or self.param in self.message
        message = self.message if named else f"{self.param}: {self.message}"
        error: dict[str, Any] = {"type": kind, "message": message}
        if self.code is not None:
            error["details"] = {"error_code": self.code}
        return {"type": "error", "error": error, "request_id": request_id}


def invalid(message: str, param: str | None = None, code: str = "invalid_value") -> ApiError:
    """400: the request itself is at fault."""
    return ApiError(400, message, param=param, code=code)


def unsupported(param: str, why: str = "") -> ApiError:
    """400: a parameter that is refused rather than ignored, because ignoring it would mislead."""
    message = f"{param} is not supported by this server"
    return invalid(f"{message}: {why}" if why else message, param, "unsupported_parameter")


def api_error(error: PeriluneError) -> ApiError:
    """One of our own errors as what a client is told."""
    match error:
        case EngineDeadError():
            return ApiError(503, str(error), code=EngineDeadError.code, retry_after=5)
        case MediaError():
            return invalid(str(error), error.place or "messages", code_of(error.kind))
        case ChatError():
            return invalid(str(error), error.param or "messages")
        case MediaRequestError():
            return invalid(str(error), error.param, code_of(MediaFault.DAMAGED))
        case ContextLengthError():
            return invalid(str(error), "messages", error.code)
        case RequestError():
            return invalid(str(error), error.param)
        case EngineError():
            return ApiError(503, str(error), code="engine_unavailable", retry_after=5)
    return ApiError(500, str(error), code="internal_error")
