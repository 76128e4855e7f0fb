"""A local corpus that can be searched offline: documents in SQLite, ranked by FTS5's BM25."""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from perilune.errors import ToolError, UsageError
from perilune.search.common_words import COMMON
from perilune.search.fts import phrase, tokens, words_of

SCHEME = "corpus:"

_SCHEMA = """
create table if not exists documents (
  id integer primary key,
  address text not null unique,
  title text not null,
  body text not null,
  sha256 text not null
);
create virtual table if not exists words using fts5(
  title, body, content='documents', content_rowid='id', tokenize='porter unicode61'
);
create trigger if not exists added after insert on documents begin
  insert into words(rowid, title, body) values (new.id, new.title, new.body);
end;
create trigger if not exists removed after delete on documents begin
  insert into words(words, rowid, title, body) values ('delete', old.id, old.title, old.body);
end;
"""


@dataclass(frozen=True, slots=True)
class Document:
    """A text with an address of its own (`corpus:...`) and a title."""

    address: str
    title: str
    text: str


@dataclass(frozen=True, slots=True)
class Hit:
    """A search result."""

    title: str
    url: str
    excerpt: str


class Corpus:
    """Documents in one SQLite file (or ":memory:"). May be used from several threads."""

    def __init__(self, path: str | Path = ":memory:") -> None:
        try:
            self._connection = sqlite3.connect(path, check_same_thread=False)
            if str(path) != ":memory:":
                self._connection.execute("pragma journal_mode=wal")
            self._connection.executescript(_SCHEMA)
        except sqlite3.Error as error:
            raise UsageError(f"{path} cannot be used as a corpus: {error}") from None
        self._lock = threading.Lock()

    def __len__(self) -> int:
        with self._lock:
            (count,) = self._connection.execute("select count(*) from documents").fetchone()
        return int(count)

    def add(self, documents: Iterable[Document]) -> int:
        """Add or replace documents by address, all or none; gives how many were new or changed."""
        changed = 0
        with self._lock, self._connection as connection:
            for document in documents:
                address = _address(document.address)
                digest = hashlib.sha256(f"{document.title}\0{document.text}".encode()).hexdigest()
                known = connection.execute(
                    "select sha256 from documents where address = ?", (address,)
                ).fetchone()
                if known == (digest,):
                    continue
                # Delete and insert, not upsert: the triggers keep the index in step.
                connection.execute("delete from documents where address = ?", (address,))
                connection.execute(
                    "insert into documents (address, title, body, sha256) values (?, ?, ?, ?)",
                    (address, document.title, document.text, digest),
                )
                changed += 1
        return changed

    def add_folder(self, folder: Path) -> int:
        """Add what can be read below a folder; gives how many changed. Files that cannot be read
        are left out."""
        from perilune.search.files import FileReader, find_files
        from perilune.search.pdf import Unreadable

        def documents() -> Iterable[Document]:
            with contextlib.closing(FileReader()) as reader:
                for found in find_files(folder, lambda path, problem: None):
                    with contextlib.suppress(Unreadable):
                        file = reader.read(folder, found)
                        yield Document(found.path, file.title, file.text)

        return self.add(documents())

    def search(self, query: str, count: int, *, any_word: bool = True) -> list[Hit]:
        """The best documents for a query: all words first, then any of them. Titles weigh more."""
        words = list(dict.fromkeys(words_of(query)))
        telling = [word for word in words if word.lower() not in COMMON] or words
        quoted = [phrase(word) for word in telling if tokens(word)][:32]
        if not quoted:
            return []
        hits = self._match(" ".join(quoted), count)
        if any_word and len(hits) < count and len(quoted) > 1:
            seen = {hit.url for hit in hits}
            more = self._match(" OR ".join(quoted), count + len(hits))
            hits += [hit for hit in more if hit.url not in seen]
        return hits[:count]

    def document(self, address: str) -> Document:
        """A document by its address. Raises `ToolError` when there is none."""
        with self._lock:
            row = self._connection.execute(
                "select address, title, body from documents where address = ?",
                (_address(address),),
            ).fetchone()
        if row is None:
            raise ToolError(f"the corpus holds no {address}")
        return Document(*row)

    def close(self) -> None:
        with contextlib.suppress(sqlite3.Error):
            self._connection.close()

    def _match(self, expression: str, count: int) -> list[Hit]:
        # By `rank`, not by bm25() itself: so the excerpts are made for the best only.
        statement = """
            select documents.title, documents.address, snippet(words, 1, '', '', ' ... ', 40)
            from words join documents on documents.id = words.rowid
            where words match ? and rank match 'bm25(4.0, 1.0)' order by rank limit ?
        """
        with self._lock:
            rows = self._connection.execute(statement, (expression, count)).fetchall()
        return [Hit(title, address, " ".join(excerpt.split())) for title, address, excerpt in rows]


def _address(text: str) -> str:
    text = text.encode("utf-8", "replace").decode()  # SQLite takes no half of a surrogate pair
    return text if text.startswith(SCHEME) else SCHEME + text
