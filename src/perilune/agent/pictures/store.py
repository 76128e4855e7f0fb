"""The pictures of one run: files named by their SHA-256 in `pictures/` of the run's folder.

Each picture is there once, however often it is shown. It is opened by `chat.media` before it is
kept, so what lies here is a whole PNG, JPEG, WebP or GIF within `MediaLimits`; nothing is decoded.
A file is on the disk before the event that names it is written.
"""

from __future__ import annotations

import base64
import hashlib
import os
import stat
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from perilune.agent.pictures.part import Picture, read_part
from perilune.errors import AgentError, MediaError, MediaFault
from perilune.events import Content

FOLDER = "pictures"
MOST_BYTES = 1 << 30
"""Of all pictures of a run together; one has at most what `MediaLimits` says."""
_REMEMBERED = 64 << 20  # characters of data URIs

Lost = Callable[[Picture, str], None]


class PictureLost(AgentError):
    """A picture's file is missing, or is not what was kept."""

    code = "picture_lost"


class PictureStore:
    """Keeps and reads the pictures of the run in `folder`. Safe to use from several threads."""

    def __init__(self, folder: Path, *, most_bytes: int = MOST_BYTES) -> None:
        self.folder = folder / FOLDER
        self._most = most_bytes
        self._lock = threading.Lock()
        self._urls: OrderedDict[str, str] = OrderedDict()

    def keep(self, data: bytes, name: str = "") -> Picture:
        """Keep a picture. Raises `MediaError`: no picture, beyond a limit; `OSError`: full disk."""
        picture = open_picture(data, name)
        with self._lock:
            path = self.folder / picture.file_name
            if not _is_there(path, picture):
                self._check_room(picture)
                _write(path, data)
        return picture

    def read(self, picture: Picture) -> bytes:
        """Its bytes. Raises `PictureLost`."""
        path = self.folder / picture.file_name
        try:
            handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise PictureLost(f"its file cannot be read: {error.strerror}") from None
        try:
            found = os.fstat(handle)
            if not stat.S_ISREG(found.st_mode) or found.st_size != picture.bytes:
                raise PictureLost("its file is not what was kept")
            with os.fdopen(os.dup(handle), "rb") as file:
                data = file.read(picture.bytes + 1)
        finally:
            os.close(handle)
        if hashlib.sha256(data).hexdigest() != picture.sha256:
            raise PictureLost("its file is not what was kept")
        return data

    def kept(self, content: Content, *, strict: bool = False) -> Content:
        """Content as events hold it: `image_url` data URIs become pictures by hash.

        What cannot be kept becomes a text that says why; with `strict` it raises `MediaError`.
        """
        if not isinstance(content, list):
            return content
        return [self._kept_part(part, strict) for part in content]

    def shown(
        self, messages: Sequence[Mapping[str, Any]], lost: Lost = lambda picture, why: None
    ) -> list[dict[str, Any]]:
        """Messages as models take them: pictures as `image_url` parts with data URIs.

        In place of one whose file is lost stands a text, and `lost` is told.
        """
        return [self._shown_message(message, lost) for message in messages]

    def check(self, picture: Picture) -> str:
        """Why its file cannot be the one that was kept; "" where nothing speaks against it."""
        try:
            found = (self.folder / picture.file_name).lstat()
        except OSError as error:
            return f"its file cannot be read: {error.strerror}"
        whole = stat.S_ISREG(found.st_mode) and found.st_size == picture.bytes
        return "" if whole else "its file is not what was kept"

    def _kept_part(self, part: dict[str, Any], strict: bool) -> dict[str, Any]:
        if part.get("type") not in ("image_url", "image"):
            return part
        name = part.get("name")
        try:
            return self.keep(part_bytes(part), name if isinstance(name, str) else "").part
        except MediaError as error:
            if strict:
                raise
            why = f"{error.detail}. {error.remedy}" if error.remedy else error.detail
        except OSError as error:
            if strict:
                raise
            why = f"it could not be kept: {error.strerror}"
        return {"type": "text", "text": f"[a picture was not taken: {why}]"}

    def _shown_message(self, message: Mapping[str, Any], lost: Lost) -> dict[str, Any]:
        content = message.get("content")
        if not isinstance(content, list):
            return dict(message)
        return {**message, "content": [self._shown_part(part, lost) for part in content]}

    def _shown_part(self, part: dict[str, Any], lost: Lost) -> dict[str, Any]:
        picture = read_part(part)
        if picture is None:
            return part
        try:
            return {"type": "image_url", "image_url": {"url": self._url(picture)}}
        except PictureLost as error:
            lost(picture, error.message)
            text = f"[picture {picture.id}: {picture.about}; it is lost: {error.message}]"
            return {"type": "text", "text": text}

    def _url(self, picture: Picture) -> str:
        with self._lock:
            if (url := self._urls.get(picture.sha256)) is not None:
                self._urls.move_to_end(picture.sha256)
                return url
        url = f"data:{picture.mime};base64,{base64.b64encode(self.read(picture)).decode()}"
        with self._lock:
            self._urls[picture.sha256] = url
            while len(self._urls) > 1 and sum(map(len, self._urls.values())) > _REMEMBERED:
                self._urls.popitem(last=False)
        return url

    def _check_room(self, picture: Picture) -> None:
        taken = 0
        with suppress(FileNotFoundError), os.scandir(self.folder) as files:
            taken = sum(each.stat(follow_symlinks=False).st_size for each in files)
        if taken + picture.bytes > self._most:
            raise MediaError(
                MediaFault.BYTES,
                f"the run's pictures have {taken:,} bytes, and at most {self._most:,} are kept",
                limit=self._most,
                remedy="Go on in a new run",
            )


def open_picture(data: bytes, name: str = "") -> Picture:
    """What a picture's header says of it. Raises `MediaError`."""
    from perilune.chat.media.reader import MediaReader

    opened = MediaReader().open(data, "image")
    return Picture(
        sha256=hashlib.sha256(data).hexdigest(),
        mime=f"image/{opened.format}",
        bytes=len(data),
        width=opened.size[0],
        height=opened.size[1],
        tokens=opened.tokens,
        name=name[:200],
    )


def part_bytes(part: Mapping[str, Any]) -> bytes:
    """The bytes of an `image_url` part with a data URI. Raises `MediaError`."""
    from perilune.chat.media import MediaLimits
    from perilune.chat.media.sources import read_part as read_media

    return read_media(part, "image", MediaLimits(), None)


def data_part(data: bytes, name: str = "") -> dict[str, Any]:
    """An `image_url` part of a picture's bytes. Raises `MediaError`."""
    mime = open_picture(data).mime
    url = f"data:{mime};base64,{base64.b64encode(data).decode()}"
    return {"type": "image_url", "image_url": {"url": url}, **({"name": name} if name else {})}


def _is_there(path: Path, picture: Picture) -> bool:
    """Whether the file is whole; one that was changed is written anew."""
    try:
        data = path.read_bytes() if path.lstat().st_size == picture.bytes else b""
    except OSError:
        return False
    return hashlib.sha256(data).hexdigest() == picture.sha256


def _write(path: Path, data: bytes) -> None:
    """The whole file or none, on the disk when this returns."""
    path.parent.mkdir(mode=0o700, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
