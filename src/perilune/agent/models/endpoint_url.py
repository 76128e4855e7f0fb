"""The base URL of an endpoint, from whatever was copied out of a page, a shell or another program.

Every verb that takes such a URL reads it here. What is clear is taken: a full address of a route,
a host without its scheme, a slash or spaces too many. What is not clear is refused with what to
write.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit, urlunsplit

from perilune.errors import UsageError
from perilune.text import valid_text

EXAMPLE = "Give the base URL of an OpenAI-compatible API, e.g. http://localhost:8000/v1."
# Routes below a base URL, as the pages of APIs show them. The longest that fits is cut off.
_ROUTES = re.compile(
    r"/(?:chat/completions|completions|responses|messages(?:/count_tokens)?|embeddings"
    r"|models(?:/[^/]+)?|engines|tokenize|health|metrics|docs|openapi\.json)/*$",
    re.IGNORECASE,
)
_BARE = re.compile(r"(?i)(?:api/)?(?:chat|generate|tags|show)/*$")
_SCHEME = re.compile(r"^[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_LOCAL = re.compile(
    r"^(?:localhost(?![\w.-])|127\.|0\.0\.0\.0|\[|10\.|192\.168\.|172\.(?:1[6-9]|2\d|3[01])\.)"
)


@dataclass(frozen=True, slots=True)
class EndpointUrl:
    """`base` ends without a slash and has the API's version; `query` goes with every request."""

    base: str
    query: str = ""

    def __str__(self) -> str:
        return f"{self.base}?{self.query}" if self.query else self.base

    @property
    def root(self) -> str:
        """The server itself, without `/v1`."""
        return self.base.removesuffix("/v1")

    @property
    def host(self) -> str:
        return urlsplit(self.base).hostname or ""

    def route(self, path: str) -> str:
        """The address of a route below the base, e.g. `chat/completions`."""
        return f"{self.base}/{path}" + (f"?{self.query}" if self.query else "")


def read_endpoint_url(given: str) -> EndpointUrl:
    """Raises `UsageError` with what to write instead."""
    text = valid_text(given).strip().strip("'\"<>`").strip()
    if not text or re.search(r"[\s\x00-\x1f\x7f\\]", text):
        raise UsageError(f"{given!r} is not an endpoint URL", remedy=EXAMPLE)
    if text.startswith("//"):
        text = f"https:{text}"
    if not _SCHEME.match(text):
        if re.match(r"^(?:https?:|[a-z]+:/)", text, re.IGNORECASE):
            raise UsageError(
                f"{given!r} is not an endpoint URL: two slashes must follow the scheme",
                remedy=EXAMPLE,
            )
        host = text.split("/", 1)[0]
        if not (_LOCAL.match(text) or "." in host or ":" in host or host == "localhost"):
            raise UsageError(f"{given!r} is not an endpoint URL", remedy=EXAMPLE)
        # A server of this machine or network speaks plainly; a public one does not.
        port = re.search(r":(\d+)$", host)
        plain = _LOCAL.match(text) or "." not in host or (port and port[1] != "443")
        text = f"{'http' if plain else 'https'}://{text}"
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname or "", parts.port
    except ValueError as error:
        raise UsageError(f"{given!r} is not an endpoint URL: {error}", remedy=EXAMPLE) from None
    if parts.scheme.lower() not in ("http", "https") or not _is_host(host):
        raise UsageError(f"{given!r} is not an endpoint URL", remedy=EXAMPLE)
    if parts.username is not None or parts.password is not None:
        raise UsageError(
            "the endpoint URL holds a user or a key, and URLs are written to logs",
            remedy="Put the key into an environment variable, and name it with --api-key-env.",
        )
    return EndpointUrl(_base(parts), parts.query)


def _base(parts: SplitResult) -> str:
    path = re.sub(r"/{2,}", "/", parts.path).rstrip("/")
    path = _ROUTES.sub("", f"{path}/").rstrip("/")
    if path.lower().endswith("/chat"):
        path = path[: -len("/chat")]
    local = bool(_LOCAL.match(parts.netloc))
    if path.lower() == "/api" and not local:
        path = "/api/v1"  # OpenRouter and its like
    elif _BARE.fullmatch(path.lstrip("/")) or path.lower() in ("/api", "/api/v0", "/v0"):
        path = ""  # Ollama's and LM Studio's own APIs; OpenAI's is beside them
    if path in ("", "/"):
        path = "/v1"
    return urlunsplit((parts.scheme.lower(), parts.netloc, path, "", ""))


def _is_host(host: str) -> bool:
    if not host or host.startswith((".", "-")):
        return False
    if ":" in host:
        return bool(re.fullmatch(r"[0-9a-f:.%\w]+", host))
    try:
        host.encode("idna")
    except UnicodeError:
        return False
    return ".." not in host
