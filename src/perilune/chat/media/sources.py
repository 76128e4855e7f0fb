"""A part of a message -> its bytes. No network here.

Taken are data URIs and, from callers in the same process, bytes. Everything else that a part may
name (an address, a file, an id of an upload) goes to the caller's `resolve`; without one it is
refused. `LocalFiles` is a `resolve` for files below one folder.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from perilune.chat.media.items import MediaKind
from perilune.chat.media.limits import MediaLimits
from perilune.errors import MediaError, MediaFault

Resolve = Callable[[str, MediaKind, int], bytes]
"""(address, kind, most bytes) -> bytes; raises MediaError."""

_KEYS: Mapping[MediaKind, tuple[str, ...]] = {
    "image": ("image_url", "image", "url", "path"),
    "video": ("video_url", "video", "url", "path"),
}
_DATA = re.compile(r"(?i)data:([\w.+-]+/[\w.+-]+)?((?:;[\w.+-]+=[\w.+-]*)*)(;base64)?\Z")
_LONGEST_HEAD = 200
_ANY_TYPE = ("", "application/octet-stream", "binary/octet-stream")


def read_part(
    part: Mapping[str, Any], kind: MediaKind, limits: MediaLimits, resolve: Resolve | None
) -> bytes:
    """The bytes of an image or video part. Raises MediaError."""
    named = next((part[key] for key in _KEYS[kind] if part.get(key) is not None), None)
    if isinstance(named, Mapping):
        named = named.get("url")
    if isinstance(named, bytes | bytearray | memoryview):
        limits.check_bytes(memoryview(named).nbytes, kind)
        data = bytes(named)
    elif not isinstance(named, str):
        raise MediaError(
            MediaFault.SOURCE,
            f"the {kind} part names no {kind}",
            remedy=f'Send {{"url": "data:{kind}/...;base64,..."}} as its {kind}_url',
        )
    elif named[:5].lower() == "data:":
        data = _decode(named, kind, limits)
    elif resolve is not None:
        most = limits.image_bytes if kind == "image" else limits.video_bytes
        data = resolve(named, kind, most)
    else:
        raise MediaError(
            MediaFault.SOURCE,
            f"{_shown(named)} is not a data URI, and nothing else is accepted here",
            remedy=f"Send the {kind} itself, as data:{kind}/...;base64,...",
        )
    limits.check_bytes(len(data), kind)
    return data


def _decode(uri: str, kind: MediaKind, limits: MediaLimits) -> bytes:
    comma = uri.find(",", 0, _LONGEST_HEAD)
    head = _DATA.match(uri[: max(comma, 0)])
    if head is None or not head[3]:
        raise MediaError(
            MediaFault.ENCODING,
            "the data URI does not begin with data:TYPE;base64,",
            remedy="Encode the bytes as base64",
        )
    declared = (head[1] or "").lower()
    if declared not in _ANY_TYPE and not declared.startswith(f"{kind}/"):
        raise MediaError(
            MediaFault.WRONG_TYPE,
            f"the data URI is of type {declared[:60]}, and the part is of type {kind}",
            remedy="Send text as a text part, and a picture or a clip with its own type",
        )
    # Four characters hold three bytes; what is certainly too long is never decoded.
    limits.check_bytes((len(uri) - comma - 1) // 4 * 3 - 2, kind)
    text = uri[comma + 1 :]
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        pass
    try:  # some write lines, as in mail
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        raise MediaError(
            MediaFault.ENCODING, "the data URI is not base64", remedy="Encode the bytes as base64"
        ) from None


def _shown(address: str) -> str:
    """An address for an error: its scheme and host, never a secret in a query."""
    try:
        parts = urlsplit(address[:300])
        name = f"{parts.scheme}://{parts.hostname or '...'}" if parts.scheme else "it"
    except ValueError:
        name = "it"
    return name if name.isprintable() else "it"


class LocalFiles:
    """A `resolve` for files below `root`, named by path or file URL.

    Only for callers whose user may read the folder anyway. A name that leaves the folder, by `..`
    or by a link, is refused, and so is what is not a plain file; nothing is waited for.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root).resolve()

    def __call__(self, address: str, kind: MediaKind, most: int) -> bytes:
        """Raises MediaError: `source` for a name that is not allowed, `bytes` for too many."""
        path = self._path(address)
        try:
            # O_NONBLOCK: a pipe without a writer must not stop us before we see what it is.
            handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise self._refused(f"cannot be read: {error.strerror}") from None
        try:
            found = os.fstat(handle)
            if not stat.S_ISREG(found.st_mode):
                raise self._refused("is not a plain file")
            if found.st_size > most:
                raise self._too_large(kind, most)
            with os.fdopen(os.dup(handle), "rb") as file:
                data = file.read(most + 1)
        finally:
            os.close(handle)
        if len(data) > most:  # it grew
            raise self._too_large(kind, most)
        return data

    def _too_large(self, kind: MediaKind, most: int) -> MediaError:
        return MediaError(
            MediaFault.BYTES,
            f"the {kind} file has more than {most:,} bytes",
            limit=most,
            remedy="Make it smaller or compress it more",
        )

    def _path(self, address: str) -> Path:
        name = address
        if "://" in address[:40] or address[:5].lower() == "file:":
            try:
                parts = urlsplit(address)
            except ValueError:
                raise self._refused("is not a path") from None
            if parts.scheme.lower() != "file" or parts.netloc not in ("", "localhost"):
                raise self._refused("is an address, and only files are read")
            name = unquote(parts.path)
        if not name or "\0" in name:
            raise self._refused("is not a path")
        try:
            path = (self.root / name).resolve()
        except (OSError, RuntimeError, ValueError):
            raise self._refused("is not a path") from None
        if not path.is_relative_to(self.root):
            raise self._refused("is outside of the folder that may be read")
        return path

    def _refused(self, why: str) -> MediaError:
        return MediaError(
            MediaFault.SOURCE, f"the file {why}", remedy=f"Name a file below {self.root.name}/"
        )
