"""A line of the log for each request: what was asked, what became of it, never any content.

The path of a known route is its pattern; of an unknown one a short, escaped piece is shown, because
who runs the server must see which address a client has wrong. Probes that find all well are silent.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass

from perilune.serve.api_error import ApiError

log = logging.getLogger("perilune.serve")
PROBES = frozenset({"/health", "/ping", "/metrics"})
METHODS = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"})
LONGEST_PATH, LONGEST_SEGMENT, LONGEST_WORD = 120, 40, 60
_UNSAFE_IN_PATH = re.compile(r"[^A-Za-z0-9_./~-]+")
_UNSAFE_IN_WORD = re.compile(r"[^A-Za-z0-9_.:/\[\]-]+")
_KEY = re.compile(r"(?:sk|pk|key|token|bearer)[-_][A-Za-z0-9_-]{6,}", re.IGNORECASE)
LEFT = 499  # the client went away (nginx's word)


@dataclass(frozen=True, slots=True)
class Handled:
    """A request that is over.

    sent: the status that went out, 0 for none. error: the refusal, or what broke the answer after
    `sent`. left: the client went before the end.
    """

    method: str
    path: str
    route: str | None  # the pattern; None: no such route
    sent: int
    error: ApiError | None = None
    left: bool = False
    seconds: float = 0.0
    request_id: str = ""
    caller: str | None = None

    @property
    def status(self) -> int:
        """What became of the request, which is not always what was sent at its beginning."""
        if self.left or not (self.sent or self.error):
            return LEFT
        return self.sent if self.error is None else self.error.status

    @property
    def cut(self) -> bool:
        """Whether the answer had begun when it broke off."""
        return self.status != self.sent and self.sent != 0

    @property
    def shown_path(self) -> str:
        return shown_path(self.path) if self.route is None else self.route

    @property
    def shown_method(self) -> str:
        if self.method in METHODS or not self.method:
            return self.method
        return f"other({shown_word(self.method)[:20]})"


def write(handled: Handled) -> None:
    """The line."""
    if handled.path in PROBES and handled.error is None:
        return
    error = handled.error
    what = f"{handled.shown_method} {handled.shown_path}" if handled.method else "(no request)"
    words = [f"{what} -> {handled.status}"]
    if handled.left or handled.status == LEFT:
        words.append("left by the client")
    elif error is not None:
        words.append(reason(error))
    if handled.cut:
        words.append(f"(cut off after {handled.sent} was sent)")
    extra = {
        "request_id": handled.request_id,
        "caller": handled.caller,
        "method": handled.shown_method,
        "path": handled.shown_path,
        "status": handled.status,
        "seconds": round(handled.seconds, 4),
    }
    if error is not None:
        extra["code"] = shown_word(error.code or "")
    if handled.cut:
        extra["sent"] = handled.sent
    level = logging.WARNING if handled.status >= 500 or handled.cut else logging.INFO
    log.log(level, "%s in %.0f ms", " ".join(words), handled.seconds * 1000, extra=extra)


def reason(error: ApiError) -> str:
    """Why, without the message, which may quote the request."""
    code = shown_word(error.code or "refused")
    if error.detail:
        return f"{code} ({error.detail})"
    return f"{code} ({shown_word(error.param)})" if error.param else code


def shown_path(path: str) -> str:
    """A path of a stranger's making: safe characters only, and not all of it."""
    safe = _UNSAFE_IN_PATH.sub("?", path[: 4 * LONGEST_PATH])
    segments = [
        "***" if _KEY.fullmatch(part) else part[:LONGEST_SEGMENT] for part in safe.split("/")
    ]
    shown = "/".join(segments)
    cut = len(shown) > LONGEST_PATH or len(path) > 4 * LONGEST_PATH
    return shown[:LONGEST_PATH] + "..." if cut else shown


def shown_word(text: str) -> str:
    """A name out of a request or a header."""
    return _UNSAFE_IN_WORD.sub("?", text[:LONGEST_WORD])
