"""Which pages of other origins may call: exact origins, no cookies, what they may send and read.

A listed origin is trusted by whoever runs the server, so a page of it may send any header that the
server reads for itself; those by which proxies speak to servers are never allowed. Sources: the
Fetch standard (CORS protocol), the Private Network Access draft, and the headers that the browser
builds of the OpenAI and Anthropic SDKs send.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from urllib.parse import urlsplit

from perilune.errors import UsageError

METHODS = "GET, POST"
MAX_AGE = 600  # seconds that a browser may remember a preflight's answer
# What a page may read of an answer: request ids, when to come again, which length, which key form.
EXPOSED = (
    "x-request-id, request-id, retry-after, retry-after-ms, www-authenticate, allow, "
    "content-length, x-perilune-not-enforced"
)
# Where a preflight names no headers, and to show which there are.
DEFAULT_HEADERS = (
    "authorization, content-type, x-api-key, anthropic-version, anthropic-beta, "
    "anthropic-dangerous-direct-browser-access, openai-organization, openai-project, "
    "idempotency-key, x-request-id"
)
MOST_HEADERS, LONGEST_HEADER = 64, 100
_TOKEN = re.compile(rf"[a-z0-9!#$%&'*+.^_`|~-]{{1,{LONGEST_HEADER}}}")
# Headers by which a proxy, or a browser itself, tells a server who asks and for what.
_NEVER = re.compile(
    r"cookie2?|host|origin|referer|forwarded|via|te|trailer|transfer-encoding|upgrade|connection|"
    r"keep-alive|content-length|content-encoding|expect|x-real-ip|x-client-ip|x-remote-.*|"
    r"x-forwarded(?:-.*)?|x-original-.*|x-rewrite-url|x-http-method(?:-override)?|"
    r"x-method-override|x-auth-request-.*|true-client-ip|cf-.*|proxy-.*|sec-.*|access-control-.*"
)
_VARY_PREFLIGHT = (
    "Origin, Access-Control-Request-Method, Access-Control-Request-Headers, "
    "Access-Control-Request-Private-Network"
)


def check_origin(origin: str) -> str:
    """An origin as a browser writes it. Raises UsageError for what can never match, and for `*`."""
    given = origin.strip().rstrip("/")
    parts = urlsplit(given)
    whole = bool(parts.scheme and parts.netloc) and not (parts.path or parts.query)
    if not whole or "@" in parts.netloc or "*" in given or not given.isascii():
        raise UsageError(
            f"{origin!r:.200} is not the origin of a web page",
            remedy="Give scheme, host and port as the browser shows them, such as "
            "--cors-origin https://app.example or http://localhost:3000",
        )
    return f"{parts.scheme}://{parts.netloc}".lower()


class Cors:
    """The rules for a list of origins; without any, there is no CORS at all."""

    def __init__(self, origins: Iterable[str]) -> None:
        self._origins = frozenset(map(check_origin, origins))

    def allows(self, origin: str | None) -> bool:
        return origin is not None and origin in self._origins

    def is_preflight(self, method: str, headers: Mapping[str, str]) -> bool:
        return method == "OPTIONS" and self.allows(headers.get("origin"))

    def headers(self, headers: Mapping[str, str]) -> dict[str, str]:
        """What goes on every answer, errors too: without it a page cannot read why it failed.

        `vary` also where the origin is not let in, so that no cache gives one's answer to another.
        """
        if not self._origins:
            return {}
        origin = headers.get("origin")
        if origin is None or origin not in self._origins:
            return {"vary": "Origin"}
        return {
            "access-control-allow-origin": origin,
            "access-control-expose-headers": EXPOSED,
            "vary": "Origin",
        }

    def preflight(self, headers: Mapping[str, str]) -> dict[str, str]:
        """What a browser is told that asks before it asks."""
        asked = headers.get("access-control-request-headers", "")
        answer = {
            "access-control-allow-methods": METHODS,
            "access-control-allow-headers": allowed_headers(asked) or DEFAULT_HEADERS,
            "access-control-max-age": str(MAX_AGE),
            "vary": _VARY_PREFLIGHT,
        }
        for network in ("private", "local"):  # a page of the internet that calls this machine
            if headers.get(f"access-control-request-{network}-network") == "true":
                answer[f"access-control-allow-{network}-network"] = "true"
        return answer


def allowed_headers(asked: str) -> str:
    """Of the header names that a preflight asks for, those that a page may send."""
    names = [name.strip().lower() for name in asked.split(",")]
    good = [n for n in names if _TOKEN.fullmatch(n) and not _NEVER.fullmatch(n)]
    return ", ".join(dict.fromkeys(good[:MOST_HEADERS]))
