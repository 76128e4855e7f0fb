"""Whether a quotation stands in a text, word for word.

White space and typography (quotation marks, dashes, ligatures, soft hyphens, Markdown's marks) are
evened out on both sides. Nothing else is: case, spelling, order, omissions and numbers all count,
and a quotation begins and ends at the border of a word or number.
"""

from __future__ import annotations

import re
import unicodedata

_SAME = {
    **dict.fromkeys("‘’‚‛′‹›`´", "'"),
    **dict.fromkeys("“”„‟″«»「」", '"'),
    **dict.fromkeys("‐‑‒–—―−﹣－", "-"),
    "…": "...",
    "ﬀ": "ff",
    "ﬁ": "fi",
    "ﬂ": "fl",
    "ﬃ": "ffi",
    "ﬄ": "ffl",
    # Invisible: soft hyphen, zero width space and joiners, byte order mark.
    **dict.fromkeys("\u00ad\u200b\u200c\u200d\u2060\ufeff", ""),
}
_TABLE = str.maketrans(_SAME)
_LINK = re.compile(r"!?\[([^\[\]]*)\]\([^()\s]*(?:\s+\"[^\"]*\")?\)")
_EMPHASIS = re.compile(r"(?<![\w*_])(\*{1,3}|_{1,3}|~~)(?=\S)(.+?)(?<=\S)\1(?![\w*_])", re.S)
_LINE_MARK = re.compile(r"(?m)^[ \t]*(?:#{1,6}[ \t]+|>[ \t]?|[-*+][ \t]+|\|[ \t]*)")
_ESCAPE = re.compile(r"\\([!-/:-@\[-`{-~])")


def even(text: str) -> str:
    """White space and typography evened out."""
    text = unicodedata.normalize("NFC", text).translate(_TABLE)
    text = re.sub(r"-{2,3}", "-", text)
    text = re.sub(r"(?<=\w) - (?=\w)", "-", text)
    return " ".join(text.split())


def without_marks(text: str) -> str:
    """Markdown as it is read: no emphasis, link targets, headings or bullets."""
    text = _LINE_MARK.sub("", _LINK.sub(r"\1", text))
    for _ in range(2):
        text = _EMPHASIS.sub(r"\2", text)
    return _ESCAPE.sub(r"\1", text)


def stands_in(quote: str, text: str) -> bool:
    """Whether the quotation stands in the text, word for word."""
    wanted = {even(quote), even(without_marks(quote))} - {""}
    # A comma or full stop before the closing mark belongs to the sentence around it.
    wanted |= {
        each[:-1].rstrip() for each in wanted if each[-1] in ".," and not each.endswith("..")
    }
    return any(
        _found(each, place) for place in (even(text), even(without_marks(text))) for each in wanted
    )


def _found(quote: str, text: str) -> bool:
    if not re.search(r"\w", quote):
        return False
    at = text.find(quote)
    while at >= 0:
        if _whole(text, at, at + len(quote)):
            return True
        at = text.find(quote, at + 1)
    return False


def _whole(text: str, start: int, end: int) -> bool:
    """The piece begins and ends at the border of a word, and not within a number."""
    before, after = text[max(0, start - 2) : start], text[end : end + 2]
    if text[start].isalnum():
        if before[-1:].isalnum() or before[-1:] == "_":
            return False
        # "-5" is no 5, but 1995 stands in "1990-1995".
        if text[start].isdigit() and re.fullmatch(r"\d[.,]|[^\w]?-", before):
            return False
    if text[end - 1].isalnum():
        if after[:1].isalnum() or after[:1] == "_":
            return False
        if text[end - 1].isdigit() and re.match(r"[.,]\d|\s?[%‰]", after):
            return False
    return True
