"""Images and videos of a request: `data:` only, small enough, of a known kind; nothing is fetched.

No engine reads them yet, so a good one is refused too, in its own words. The checks come first, so
that an address in a request is never touched (SSRF: CVE-2025-6242, CVE-2026-24779).
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any

from perilune.serve.api_error import invalid

MAX_MEDIA_BYTES = 10 * 2**20
_MAGIC = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a", b"RIFF")
_KINDS = ("image_url", "image", "video_url", "video", "input_image")


def check_media(message: Mapping[str, Any], where: str) -> None:
    """Raises ApiError (400) for a message part whose medium cannot be taken."""
    content = message.get("content")
    if not isinstance(content, list):
        return
    for n, part in enumerate(content):
        if isinstance(part, Mapping) and part.get("type") in _KINDS:
            _check_part(part, f"{where}.content[{n}]")


def _check_part(part: Mapping[str, Any], where: str) -> None:
    kind = part["type"]
    value = part.get(kind)
    url = value.get("url") if isinstance(value, Mapping) else value
    if not isinstance(url, str):
        raise invalid(f"{where}.{kind}: needs a url", "messages", "invalid_image_url")
    if not url[:5].lower() == "data:":
        raise invalid(
            f"{where}.{kind}: only data: URLs are taken; this server fetches nothing",
            "messages",
            "invalid_image_url",
        )
    head, comma, data = url.partition(",")
    if not comma or not head.lower().endswith(";base64"):
        raise invalid(f"{where}.{kind}: must be base64", "messages", "invalid_image_url")
    if len(data) > MAX_MEDIA_BYTES * 4 // 3 + 4:
        raise invalid(
            f"{where}.{kind}: larger than {MAX_MEDIA_BYTES >> 20} MiB", "messages",
            "image_too_large",
        )  # fmt: skip
    try:
        start = base64.b64decode(data[:64], validate=True)
    except (binascii.Error, ValueError):
        raise invalid(f"{where}.{kind}: is not base64", "messages", "invalid_image_url") from None
    if not kind.startswith("video") and not start.startswith(_MAGIC):
        raise invalid(
            f"{where}.{kind}: is not PNG, JPEG, GIF or WebP", "messages", "invalid_image_url"
        )
