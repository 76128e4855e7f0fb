"""The evidence store: every source kept by content hash, so that an answer can only cite what was
really read. A citation is `[ev:1a2b3c4d]`: the first hex digits of the SHA-256 of source and text,
eight unless a tool asks for fewer, and more where two sources of a run would share them."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable
from pathlib import Path

from perilune.agent.tool import Evidence
from perilune.events import Event, EvidenceKept
from perilune.text import valid_text

CITATION = re.compile(r"\[(ev:[0-9a-f]{4,64})\]")


def source_digest(source: str, text: str) -> str:
    """The SHA-256, in hex, that a source's id is the beginning of."""
    return hashlib.sha256(f"{source}\n{text}".encode("utf-8", "surrogatepass")).hexdigest()


class RunEvidence:
    """The sources of one run, a folder of text files; what is kept anew is said through `emit`."""

    def __init__(self, folder: Path, emit: Callable[[Event], None]) -> None:
        self._folder = folder
        self._emit = emit

    def keep(self, source: str, text: str, *, title: str = "", digits: int = 8) -> Evidence:
        """Keep a text that came from `source`. The same source and text have the same id."""
        source, text, title = valid_text(source), valid_text(text), valid_text(title)
        digest = source_digest(source, text)
        while self._holds_another(digest[:digits], digest):
            digits += 1
        evidence = Evidence(id=f"ev:{digest[:digits]}", source=source, title=title, sha256=digest)
        path = self._path(evidence.id)
        if not path.exists():
            self._folder.mkdir(exist_ok=True)
            header = json.dumps({"source": source, "title": title, "sha256": digest})
            draft = path.with_suffix(f".{os.getpid()}")
            draft.write_text(f"{header}\n{text}", "utf-8", "surrogatepass")
            draft.replace(path)
        self._emit(EvidenceKept(id=evidence.id, source=source, title=title, sha256=digest))
        return evidence

    def text(self, evidence_id: str) -> str:
        """The kept text. Raises `KeyError` for an id that was never given out."""
        try:
            whole = self._path(evidence_id).read_text("utf-8", "surrogatepass")
        except OSError:
            raise KeyError(evidence_id) from None
        return whole.partition("\n")[2]

    def describe(self, evidence_id: str) -> Evidence:
        """What was kept, without its text. Raises `KeyError` for an id that was never given out."""
        try:
            header = self._path(evidence_id).read_text("utf-8", "surrogatepass").partition("\n")[0]
            return Evidence(id=evidence_id, **json.loads(header))
        except (OSError, ValueError, TypeError):
            raise KeyError(evidence_id) from None

    def __contains__(self, evidence_id: object) -> bool:
        return CITATION.fullmatch(f"[{evidence_id}]") is not None and (
            self._path(str(evidence_id)).exists()
        )

    def _holds_another(self, prefix: str, digest: str) -> bool:
        try:
            with self._path(f"ev:{prefix}").open("rb") as file:
                return bool(json.loads(file.readline())["sha256"] != digest)
        except OSError:
            return False

    def _path(self, evidence_id: str) -> Path:
        if not CITATION.fullmatch(f"[{evidence_id}]"):
            raise KeyError(evidence_id)
        return self._folder / f"{evidence_id[3:]}.txt"
