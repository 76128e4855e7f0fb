"""Words as FTS5 reads them, so that no text of a user is taken for a query's grammar.

An index without positions (`detail=column`) refuses phrases, and a quoted word is a phrase as soon
as FTS5's tokenizer finds more than one token in it: "3.5", "b-12", a letter that this SQLite does
not know yet. So words are split by that very tokenizer first. Source: sqlite.org/fts5.html, 3.1
(strings and barewords), 4.3.1 (unicode61), 4.6 (detail), 6 (fts5vocab).
"""

from __future__ import annotations

import re
import sqlite3
import threading
from collections.abc import Iterable
from functools import lru_cache

LONGEST_WORD = 256
"""Characters of a word that are looked for; no index has longer ones that a person would type."""
_NUMBER = re.compile(r"\d+(?:[.,:/-]\d+)+|\w+")


class _Tokenizer:
    """FTS5's `unicode61`, asked through an index in memory. Stemming is left to the query."""

    def __init__(self) -> None:
        self._connection = sqlite3.connect(":memory:", check_same_thread=False)
        self._connection.executescript(
            "create virtual table texts using fts5(text, tokenize='unicode61 remove_diacritics 2');"
            "create virtual table terms using fts5vocab(texts, instance);"
        )
        self._lock = threading.Lock()

    def terms(self, text: str) -> list[str]:
        with self._lock, self._connection as connection:
            connection.execute("insert into texts (rowid, text) values (1, ?)", (text,))
            rows = connection.execute("select term from terms order by offset").fetchall()
            connection.execute("delete from texts")
        return [str(row[0]) for row in rows]


@lru_cache(maxsize=1)
def _tokenizer() -> _Tokenizer:
    return _Tokenizer()


def tokens(word: str) -> list[str]:
    """The tokens that FTS5 finds in a word: ["3", "5"] for "3.5", none for "--"."""
    word = word[:LONGEST_WORD]
    if word.isascii() and word.isalnum():
        return [word.lower()]
    # Half of a surrogate pair cannot be given to SQLite, and a zero byte ends its strings.
    plain = word.encode("utf-8", "replace").decode().replace("\0", " ")
    return _tokenizer().terms(plain)


def every_token(word: str) -> str:
    """A query for what has all tokens of a word, for an index without positions; "" for none."""
    parts = [f'"{token}"' for token in dict.fromkeys(tokens(word))]
    return parts[0] if len(parts) == 1 else f"({' AND '.join(parts)})" if parts else ""


def joined(words: Iterable[str], operator: str) -> str:
    """A query of words, joined by AND or OR, for an index without positions; "" for none."""
    return f" {operator} ".join(filter(None, map(every_token, words)))


def words_of(text: str) -> list[str]:
    """The words of a text; a number with marks in it is one: "3.5", "1,200", "2026-11-30"."""
    return [word[:LONGEST_WORD] for word in _NUMBER.findall(text)]


def phrase(word: str) -> str:
    """A query for a word, its tokens side by side, for an index with positions."""
    return f'"{word}"'  # a word of `words_of` holds no quotation mark
