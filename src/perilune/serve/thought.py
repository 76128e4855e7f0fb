"""Thinking on its way through a client and back.

Two APIs have a field for what a client must return untouched and need not read: the `signature` of
Anthropic's thinking blocks, the `encrypted_content` of OpenAI's reasoning items. Ours holds the
text itself where the client gets no other copy of it, so that no state is kept between requests.
It is an encoding, not a secret: who runs this server may read the thinking of his own model.
"""

from __future__ import annotations

import base64
import binascii
import hashlib

_TEXT = "perilune-text-"
_MARK = "perilune-mark-"


def carry(text: str) -> str:
    """A token that holds `text`."""
    data = text.encode("utf-8", "surrogatepass")
    return _TEXT + base64.urlsafe_b64encode(data).decode()


def mark(text: str) -> str:
    """A short token for a text that travels beside it."""
    return _MARK + hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def carried(token: str) -> str | None:
    """The text of a `carry` token; None for every other, of this server or a foreign one."""
    if not token.startswith(_TEXT):
        return None
    try:
        data = base64.b64decode(token.removeprefix(_TEXT), altchars=b"-_", validate=True)
        return data.decode("utf-8", "surrogatepass")
    except (binascii.Error, ValueError):
        return None
