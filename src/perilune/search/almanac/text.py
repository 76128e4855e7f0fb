"""How names and words are compared: one key for all spellings of a name, and edit distance."""

from __future__ import annotations

import re
import unicodedata

# Letters that have no decomposition into a base letter and a mark.
_LETTERS = str.maketrans(
    {"ø": "o", "ł": "l", "đ": "d", "ð": "d", "þ": "th", "æ": "ae", "œ": "oe", "ı": "i", "ŋ": "ng"}
)
_POSSESSIVE = re.compile(r"[’'ʼ`]s\b")
_SILENT = re.compile(r"[’'ʼ`ʻ‘]|(?<!\d)\.|\.(?!\d)")  # N'Djamena, U.S., but not 26.5
_OTHER = re.compile(r"[^\w.]+|_+")


def key(text: str) -> str:
    """Lower-case words without accents and punctuation, single spaces: "Côte d'Ivoire" is
    "cote divoire". Keys are equal where a reader would call the names the same."""
    text = unicodedata.normalize("NFKD", text.casefold().translate(_LETTERS))
    text = "".join(letter for letter in text if not unicodedata.combining(letter))
    return " ".join(_OTHER.sub(" ", _SILENT.sub("", _POSSESSIVE.sub("", text))).split())


def slug(text: str) -> str:
    """The key of a name as it stands in an address: with hyphens."""
    return key(text).replace(" ", "-")


def edit_distance(left: str, right: str, limit: int) -> int:
    """Insertions, deletions, changes and swaps of neighbours between two words; `limit` + 1 stands
    for everything above the limit. Source: optimal string alignment, Boytsov 2011."""
    if abs(len(left) - len(right)) > limit:
        return limit + 1
    before: list[int] = []
    row = list(range(len(right) + 1))
    for i, a in enumerate(left, 1):
        new = [i]
        for j, b in enumerate(right, 1):
            cost = min(row[j] + 1, new[j - 1] + 1, row[j - 1] + (a != b))
            if i > 1 and j > 1 and a == right[j - 2] and left[i - 2] == b:
                cost = min(cost, before[j - 2] + 1)
            new.append(cost)
        if min(new) > limit:
            return limit + 1
        before, row = row, new
    return min(row[-1], limit + 1)


def may_be_near(left: str, right: str, limit: int) -> bool:
    """A cheap test that words within the distance pass; most others do not."""
    return abs(len(left) - len(right)) <= limit and len(set(left) ^ set(right)) <= 2 * limit


def tolerance(word: str) -> int:
    """How many slips of the pen a word may have and still be read."""
    if len(word) < 4:
        return 0
    return 1 if len(word) < 8 else 2
