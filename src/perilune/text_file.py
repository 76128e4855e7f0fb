"""A text file as it is stored: its encoding, its mark, its line ends, and edits that keep them.

The encoding is what the file says (a mark, Python's coding line, an XML declaration, an HTML meta),
else UTF-8, else the likeliest of those in wide use, by the characters that it would hold. A guess
may show a wrong letter, so it is named, and text beyond ASCII is only written into a file whose
encoding is sure. Nothing is written unless all bytes outside the edit come out as they were.

A line ends with LF, CRLF or CR, as for Python and for editors, in every tool alike; not with a form
feed or U+2028, where `str.splitlines` ends one too.

Sources: Unicode 3.10 (marks); PEP 263; XML 1.0 F; the Encoding Standard (labels).
"""

from __future__ import annotations

import codecs
import difflib
import re
from collections import Counter
from dataclasses import dataclass, replace
from functools import cached_property

from perilune.encoding_guess import guess_encoding
from perilune.errors import ToolError

BINARY_HEAD = 8192  # bytes in which a zero byte means that a file is not text
DECLARED_HEAD = 1024
MOST_COMPARED = 2000  # lines of an edit that are compared one by one

_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
# Without a state, and supersets of ASCII: so an edit changes no byte outside it.
_KNOWN = frozenset(
    {"utf-8", "ascii", "gb18030", "gbk", "gb2312", "big5", "big5hkscs", "cp950", "cp932",
     "shift_jis", "euc_jp", "euc_kr", "cp949", "koi8-r", "koi8-u", "mac-roman", "tis-620", "cp874",
     *(f"iso8859-{n}" for n in (*range(1, 12), 13, 14, 15, 16)),
     *(f"cp125{n}" for n in range(9)), "cp437", "cp850", "cp852", "cp866"}
)  # fmt: skip
_WIDER = {"gbk": "gb18030", "gb2312": "gb18030", "shift_jis": "cp932", "iso8859-1": "cp1252"}
"""What files that name the first are in: the second holds all of it, and more."""
_NAMES = {"utf-8": "UTF-8", "utf-16-le": "UTF-16 LE", "utf-16-be": "UTF-16 BE",
          "utf-32-le": "UTF-32 LE", "utf-32-be": "UTF-32 BE", "gb18030": "GB18030 (GBK)",
          "cp932": "Shift-JIS", "big5": "Big5", "cp950": "Big5", "euc_jp": "EUC-JP",
          "cp949": "EUC-KR", "cp1252": "Windows-1252 (Latin-1)", "cp1251": "Windows-1251",
          "koi8-r": "KOI8-R"}  # fmt: skip
_DECLARED = re.compile(
    rb"""\A\s*<\?xml[^>]{0,200}?\bencoding\s*=\s*["']([\w.:-]+)"""
    rb"""|<meta[^>]{0,200}?\bcharset\s*=\s*["']?\s*([\w.:-]+)""",
    re.IGNORECASE,
)
_CODING = re.compile(rb"^[ \t\f]*#.*?coding[:=][ \t]*([-\w.]+)")  # PEP 263
_LINE_END = re.compile(r"\r\n|\r|\n")
_FRAGMENT = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")


class BinaryFileError(ToolError):
    """A file holds no text."""

    code = "binary_file"


class UnknownEncodingError(ToolError):
    """A file looks like text, and no encoding that is known or named in it fits."""

    code = "unknown_encoding"


class EncodingLostError(ToolError):
    """A text cannot be written in the encoding of its file; `cause` says why."""

    code = "encoding_lost"

    def __init__(self, cause: str, *, remedy: str) -> None:
        self.cause = cause
        super().__init__(f"{cause}; nothing was changed", remedy=remedy)


@dataclass(frozen=True)
class TextFile:
    """A decoded file. `sure`: the encoding is not a guess; `exact`: it can be written back."""

    text: str
    encoding: str = "utf-8"
    mark: bytes = b""
    sure: bool = True
    exact: bool = True

    @property
    def name(self) -> str:
        """The encoding as people call it."""
        name = _NAMES.get(self.encoding, self.encoding)
        return f"{name} with a mark (BOM)" if self.mark else name

    @cached_property
    def line_ends(self) -> Counter[str]:
        return Counter(_LINE_END.findall(self.text))

    @property
    def described(self) -> str:
        """What is not usual about the file, "" for UTF-8 with LF."""
        parts = []
        if self.encoding != "utf-8" or self.mark:
            parts.append(f"encoding {'' if self.sure else 'perhaps '}{self.name}")
        kinds = {"\n": "LF", "\r\n": "CRLF", "\r": "CR"}
        if len(self.line_ends) > 1:
            counts = (f"{self.line_ends[end]} {kinds[end]}" for end in kinds if self.line_ends[end])
            parts.append(f"mixed line ends: {', '.join(counts)}")
        elif "\n" not in self.line_ends and self.line_ends:
            parts.append(f"line ends {kinds[next(iter(self.line_ends))]}")
        return "; ".join(parts)

    def with_text(self, text: str, path: str) -> TextFile:
        """The same file with another text. Raises `EncodingLostError` when it cannot hold it."""
        if not self.exact:
            raise EncodingLostError(
                f"{path} is in {self.name}, and some of its bytes would not come out as they were",
                remedy="Change it with a program that works on bytes, or convert it first.",
            )
        try:
            text.encode(self.encoding)
        except UnicodeEncodeError as error:
            raise EncodingLostError(
                f"{path} is in {self.name}, which has no {text[error.start]!r}",
                remedy="Write it with characters that the encoding has, or convert the file to "
                "UTF-8 first.",
            ) from None
        if not self.sure and not {c for c in text if c > "\x7f"} <= set(self.text):
            raise EncodingLostError(
                f"the encoding of {path} is not sure (perhaps {self.name}), so text beyond ASCII "
                "cannot be written into it",
                remedy="Write ASCII only, or convert the file to UTF-8 first.",
            )
        return replace(self, text=text)

    def encode(self) -> bytes:
        return self.mark + self.text.encode(self.encoding)


def decode(data: bytes, path: str) -> TextFile:
    """A file's bytes as text. Raises `ToolError` for binary data and what no encoding fits."""
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            try:
                return _read(data[len(mark) :], encoding, mark)
            except UnicodeDecodeError as error:
                raise _unreadable(path, f"begins as {_NAMES[encoding]} and is not", error) from None
    if b"\0" in data[:BINARY_HEAD]:
        raise BinaryFileError(f"{path} is a binary file ({len(data)} bytes)")
    declared = declared_encoding(data, path)
    if declared not in (None, "utf-8", "ascii"):
        try:
            return _read(data, declared)
        except UnicodeDecodeError as error:
            if not _is_utf8(data):
                why = f"says that it is {declared} and is not"
                raise _unreadable(path, why, error) from None
    try:
        return _read(data, "utf-8")
    except UnicodeDecodeError as error:
        if b"\0" in data:
            raise BinaryFileError(f"{path} is a binary file ({len(data)} bytes)") from None
        guess = guess_encoding(data)
        if guess is None:
            raise _unreadable(
                path, "is not UTF-8 text, and no other encoding fits", error
            ) from None
        return replace(_read(data, guess[0]), sure=guess[1])


def declared_encoding(data: bytes, path: str) -> str | None:
    """The known encoding that a file names in its first lines, as Python calls it."""
    head = data[:DECLARED_HEAD]
    found = None
    if path.lower().endswith((".py", ".pyi", ".pyw")):
        for line in re.split(rb"\r\n|\r|\n", head)[:2]:
            found = found or _CODING.match(line)
    elif match := _DECLARED.search(head):
        found = match
    if found is None:
        return None
    label = next(group for group in found.groups() if group).decode("ascii")
    try:
        name = codecs.lookup(label).name
    except LookupError:
        return None
    name = "utf-8" if name == "utf-8-sig" else name
    return _WIDER.get(name, name) if name in _KNOWN else None


def lines_of(text: str) -> list[str]:
    """The lines of a text, without their ends; none for an empty one."""
    lines = _LINE_END.split(text)
    if lines[-1] == "":
        lines.pop()
    return lines


def line_of(text: str, at: int) -> int:
    """The number, from 1, of the line that holds a place."""
    return sum(1 for _ in _LINE_END.finditer(text, 0, at)) + 1 - (
        at > 0 and text[at - 1 : at + 1] == "\r\n"
    )  # fmt: skip


def places_of(text: str, old: str) -> list[tuple[int, int]]:
    """Where `old` stands in a text, whatever the line ends of either, without overlaps."""
    if "\r" in old or "\r" not in text:
        exact = _find_all(text, old)
        if exact or "\r" not in old:
            return [(at, at + len(old)) for at in exact]
    plain, starts = _plain(text)
    wanted = _LINE_END.sub("\n", old)
    return [(starts[at], starts[at + len(wanted)]) for at in _find_all(plain, wanted)]


def replaced(text: str, places: list[tuple[int, int]], new: str) -> str:
    """The text with `new` at all places; its lines end as those of the place do.

    A `new` that itself holds carriage returns is written as it is.
    """
    parts, done = [], 0
    for start, end in places:
        parts += [text[done:start], new if "\r" in new else _ended(text, start, end, new)]
        done = end
    return "".join([*parts, text[done:]])


def without_surrogates(text: str) -> str:
    """Halves of characters, which no file can hold, become U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _ended(text: str, start: int, end: int, new: str) -> str:
    """`new` with the line ends of what it replaces, line by line, or of what is beside it."""
    if "\n" not in new:
        return new
    old = text[start:end]
    beside = _beside(text, start, end)
    old_lines = _FRAGMENT.findall(old)
    ends = [end_[0] if (end_ := _LINE_END.findall(line)) else "" for line in old_lines]
    contents = [line[: len(line) - len(e)] for line, e in zip(old_lines, ends, strict=True)]
    *new_lines, last = new.split("\n")
    chosen: list[str] = []
    known = [each for each in ends if each]
    near = known[-1] if known else beside
    if len(new_lines) + len(contents) > MOST_COMPARED:
        chosen = [ends[i] if i < len(ends) and ends[i] else near for i in range(len(new_lines))]
    else:
        matcher = difflib.SequenceMatcher(None, contents, [*new_lines, last], autojunk=False)
        for _, i1, i2, j1, j2 in matcher.get_opcodes():
            for j in range(j1, min(j2, len(new_lines))):
                i = min(i1 + j - j1, max(i1, i2 - 1))
                around = (ends[n] for n in (i, i - 1) if 0 <= n < len(ends) and ends[n])
                chosen.append(next(around, near))
    # A CR before an LF would be one end and no longer two: then all ends are alike.
    for ends in (chosen, *([each] * len(new_lines) for each in (near, "\r", "\n", "\r\n"))):
        made = "".join(line + e for line, e in zip(new_lines, ends, strict=True)) + last
        if _stays_apart(text[start - 1 : start] if start else "", made, text[end : end + 1], new):
            break
    return made


def _stays_apart(before: str, made: str, after: str, new: str) -> bool:
    """Whether `made` between its neighbours has as many lines as `new`."""
    if (before == "\r" and made[:1] == "\n") or (made[-1:] == "\r" and after == "\n"):
        return False
    return len(_LINE_END.findall(made)) == new.count("\n")


def _beside(text: str, start: int, end: int) -> str:
    """The line end after a place, else the one before it, else LF."""
    after = _LINE_END.search(text, end)
    if after is not None:
        return after[0]
    before = re.search(r"(\r\n|\r|\n)[^\r\n]*\Z", text[max(0, start - 100_000) : start])
    return before[1] if before else "\n"


def _plain(text: str) -> tuple[str, list[int]]:
    """A text with LF only, and where each of its characters began; the last: the text's end."""
    starts: list[int] = []
    done = 0
    for match in _LINE_END.finditer(text):
        starts += range(done, match.start() + 1)
        done = match.end()
    starts += range(done, len(text) + 1)
    return _LINE_END.sub("\n", text), starts


def _find_all(text: str, wanted: str) -> list[int]:
    found: list[int] = []
    at = text.find(wanted) if wanted else -1
    while at >= 0:
        found.append(at)
        at = text.find(wanted, at + len(wanted))
    return found


def _read(data: bytes, encoding: str, mark: bytes = b"") -> TextFile:
    text = data.decode(encoding)
    if encoding == "utf-8":  # one way only to write it
        return TextFile(text, encoding, mark)
    try:
        exact = text.encode(encoding) == data
    except UnicodeEncodeError:
        exact = False
    return TextFile(text, encoding, mark, exact=exact)


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _unreadable(path: str, why: str, error: UnicodeDecodeError) -> UnknownEncodingError:
    return UnknownEncodingError(
        f"{path} {why} (byte {error.start})",
        remedy="Convert it to UTF-8 first, if its encoding is known.",
    )
