"""The likeliest encoding of a text that is not UTF-8, by the characters that it would hold.

Each encoding in wide use is tried. The best is the one in which most characters beyond ASCII are
common in the language that it is for. A guess may show a wrong letter, so it says whether it is
sure.
"""

from __future__ import annotations

LOOKED_AT = 1 << 16  # bytes that a guess is made from

# Scripts as runs of code points, with the rows of the legacy sets that hold their common letters.
_CANDIDATES = ("gb18030", "big5", "cp932", "euc_jp", "cp949", "cp1251", "koi8-r", "cp1252")
_ENOUGH = 0.75  # of the characters beyond ASCII must be common in the encoding's language
_CLEAR = 0.12  # by which the best must be ahead to be sure


def guess_encoding(data: bytes) -> tuple[str, bool] | None:
    """The likeliest encoding of text that is not UTF-8, and whether it is clearly so."""
    if any(byte < 32 and byte not in b"\t\n\r\f\x0b\x1b" for byte in data[:LOOKED_AT]):
        return None
    scores = []
    for encoding in _CANDIDATES:
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError:
            continue
        scores.append((_score(text[:LOOKED_AT], encoding), encoding))
    if not scores:
        return None
    scores.sort(key=lambda each: -each[0])
    best, encoding = scores[0]
    if best < _ENOUGH:
        return None
    second = scores[1][0] if len(scores) > 1 else 0.0
    return encoding, best - second >= _CLEAR


def _score(text: str, encoding: str) -> float:
    """How much of the text beyond ASCII is common in the language of an encoding, 0 to 1."""
    foreign = [c for c in text if c > "\x7f"]
    if not foreign:
        return 0.0
    good = 0.0
    for place, char in enumerate(text):
        if char > "\x7f":
            before = text[place - 1] if place else " "
            after = text[place + 1] if place + 1 < len(text) else " "
            good += _common(char, encoding, before, after)
    return good / len(foreign)


def _common(char: str, encoding: str, before: str, after: str) -> float:
    code = ord(char)
    if 0x3000 <= code <= 0x3020 or 0xFF01 <= code <= 0xFF5E or char in "“”‘’…—·":
        return 0.9 if encoding not in ("cp1251", "koi8-r") else 0.7
    kana = 0x3041 <= code <= 0x30FE
    han = 0x4E00 <= code <= 0x9FFF
    match encoding:
        case "gb18030":
            if not han:
                return 0.0
            lead = char.encode("gb18030")[0]
            second = char.encode("gb18030")[1]
            return 1.0 if 0xB0 <= lead <= 0xD7 and second >= 0xA1 else 0.5
        case "big5":
            return (1.0 if char.encode("big5")[0] <= 0xC6 else 0.5) if han else 0.0
        case "cp932" | "euc_jp":
            if kana:
                return 1.0
            if not han:
                return 0.0
            # JIS level 1 is in rows 16 to 47.
            row = char.encode("euc_jp", "replace")[0] - 0xA0
            return 0.8 if 16 <= row <= 47 else 0.3
        case "cp949":
            return 1.0 if 0xAC00 <= code <= 0xD7A3 and len(char.encode("euc_kr", "replace")) == 2 \
                else 0.0  # fmt: skip
        case "cp1251" | "koi8-r":
            if not 0x410 <= code <= 0x451:
                return 0.0
            if any(c.isascii() and c.isalpha() for c in (before, after)):
                return 0.2
            # Capitals in the middle of a word are the other encoding's small letters.
            return 0.2 if char.isupper() and before.islower() else 1.0
        case _:
            if char.isalpha():
                beside = [c for c in (before, after) if c.isalpha()]
                latin = any(c < "\x80" for c in beside) or not beside
                return 0.95 if latin and not (char.isupper() and before.islower()) else 0.3
            return 0.8 if char in "€£§°©®«»¿¡–•™½¼²³µ\xa0" else 0.2
