"""Pictures that a person names: `--image FILE`, and paths in a line of `chat`.

In a line a picture is `@file`, or a path as terminals write a file that is dropped on them: bare
with backslashes, in quotes, or as a file URL. What is no picture stays text.
"""

from __future__ import annotations

import os
import re
import shlex
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from perilune.errors import MediaError, UsageError

if TYPE_CHECKING:
    from perilune.events import Content

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif")
_WORD = re.compile(
    r"""(?<!\S)(?P<at>@?)(?:
        (?P<quoted>(?:'[^']*'(?:\\')?)+ | "(?:[^"\\]|\\.)*")
      | (?P<bare>(?:[^\s\\'"]|\\.|(?<=\w)')+)
    )(?=[\s,.;:!?)]|$)""",
    re.VERBOSE,
)
_MARKS = ",.;:!?)"


def with_pictures(text: str, parts: Sequence[dict[str, Any]]) -> Content:
    """A task with pictures, which are named below it in their order."""
    if not parts:
        return text
    lines = [f"{n}. {part['name']}" for n, part in enumerate(parts, 1)]
    return [{"type": "text", "text": f"{text}\n\nPictures:\n" + "\n".join(lines)}, *parts]


def read_line(line: str) -> Content:
    """A line of a chat, with the pictures that it names. Raises `UsageError` for one that is named
    with `@` and cannot be taken."""
    found = named_pictures(line)
    if not found:
        return line
    return [{"type": "text", "text": line}, *(read_picture(file) for file in found)]


def named_pictures(line: str) -> list[Path]:
    """The pictures that a line names, each once, in order."""
    whole = _file(line.strip(), line.strip())
    if whole is not None:  # a name with spaces, as some terminals write it
        return [whole]
    found: dict[Path, None] = {}
    for match in _WORD.finditer(line):
        raw = match["quoted"] or match["bare"]
        path = _file(raw, _unescaped(raw))
        if path is None and not match["quoted"]:
            path = _file(raw, _unescaped(raw.rstrip(_MARKS)))
        if path is not None:
            found[path] = None
        elif match["at"] and _unescaped(raw).rstrip(_MARKS).lower().endswith(SUFFIXES):
            raise UsageError(
                f"there is no picture {_unescaped(raw)}",
                remedy="Give the path from this folder, or an absolute one; quote spaces.",
            )
    return list(found)


def read_picture(file: Path) -> dict[str, Any]:
    """A picture's part. Raises `UsageError` with the remedy."""
    from perilune.agent.pictures.store import data_part
    from perilune.chat.media import MediaLimits

    most = MediaLimits().image_bytes
    try:
        handle = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(handle, "rb") as opened:
            if not stat.S_ISREG(os.fstat(opened.fileno()).st_mode):
                raise UsageError(f"{file} is not a plain file")
            data = opened.read(most + 1)
        return data_part(data, file.name)
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}") from None
    except MediaError as error:
        raise UsageError(f"{file}: {error.message}", remedy=error.remedy) from None


def _unescaped(raw: str) -> str:
    if raw[:1] == '"':
        return re.sub(r'\\(["\\$`])', r"\1", raw[1:-1])
    try:
        words = shlex.split(raw) if raw[:1] == "'" else [re.sub(r"\\(.)", r"\1", raw)]
    except ValueError:
        return raw
    return words[0] if len(words) == 1 else raw


def _file(raw: str, name: str) -> Path | None:
    """The picture of this name, if there is one; its bytes decide, where its name does not."""
    if name[:5].lower() == "file:":
        try:
            parts = urlsplit(name)
        except ValueError:
            return None
        if parts.netloc not in ("", "localhost"):
            return None
        name = unquote(parts.path)
    if not name or "\0" in name or len(name) > 4096:
        return None
    try:
        path = Path(name).expanduser()
        if not path.is_file():
            return None
        return path if path.suffix.lower() in SUFFIXES or _begins_as_one(path) else None
    except (OSError, RuntimeError, ValueError):
        return None


def _begins_as_one(path: Path) -> bool:
    from perilune.chat.media.headers import sniff

    with path.open("rb") as file:
        return sniff(file.read(16)) is not None
