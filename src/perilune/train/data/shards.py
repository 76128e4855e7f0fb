"""Documents on disk: made once, read often, checked before they are used.

A folder holds `shard-00000.safetensors`, ... and `shards.json` with the number of documents and the
sha256 of each. A shard has four arrays: `ids` and `trained` of all documents one after the other,
`lengths` [documents, 2] (header, rest), and `headers`, the ids of all headers likewise.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from perilune.errors import DataError
from perilune.train.data.document import Document
from perilune.train.data.sources import Source

INDEX = "shards.json"
PER_SHARD = 4096


def write_shards(documents: Iterable[Document], folder: Path, *, per_shard: int = PER_SHARD) -> int:
    """Write documents to a folder; the index comes last. Returns how many there were."""
    folder.mkdir(parents=True, exist_ok=True)
    stream = iter(documents)
    shards: list[dict[str, Any]] = []
    while part := list(islice(stream, per_shard)):
        name = f"shard-{len(shards):05}.safetensors"
        data = save(_arrays(part))
        (folder / name).write_bytes(data)
        digest = hashlib.sha256(data).hexdigest()
        shards.append({"file": name, "documents": len(part), "sha256": digest})
    temporary = folder / f"{INDEX}.tmp"
    temporary.write_text(json.dumps({"shards": shards}, indent=1) + "\n", "utf-8")
    temporary.rename(folder / INDEX)
    return sum(shard["documents"] for shard in shards)


def shards_source(seed: int, tokenizer: Path | None, *, folder: str) -> Source:
    """The documents of a folder by index, again from the first after the last.

    Raises DataError where a file is missing or not what its hash says.
    """
    place = Path(folder)
    try:
        index = json.loads((place / INDEX).read_text("utf-8"))["shards"]
        sizes = [int(shard["documents"]) for shard in index]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{place / INDEX} cannot be read: {error!r}") from None
    total = sum(sizes)
    if not total:
        raise DataError(f"{place} holds no documents")

    @lru_cache(maxsize=4)
    def read(number: int) -> list[Document]:
        return _read(place / index[number]["file"], index[number]["sha256"])

    def document(number: int) -> Document:
        number %= total
        for shard, size in enumerate(sizes):
            if number < size:
                return read(shard)[number]
            number -= size
        raise AssertionError

    return document


def _arrays(documents: Sequence[Document]) -> dict[str, np.ndarray[Any, Any]]:
    return {
        "ids": np.array([i for d in documents for i in d.ids], np.int32),
        "trained": np.array([t for d in documents for t in d.trained], np.uint8),
        "headers": np.array([i for d in documents for i in d.header], np.int32),
        "lengths": np.array([(len(d.header), len(d.ids)) for d in documents], np.int32),
    }


def _read(file: Path, sha256: str) -> list[Document]:
    remedy = "Make the shards again"
    try:
        data = file.read_bytes()
        if hashlib.sha256(data).hexdigest() != sha256:
            raise DataError(f"{file} is damaged: its sha256 is not the recorded one", remedy=remedy)
        arrays = load(data)
    except (OSError, SafetensorError) as error:
        raise DataError(f"{file} cannot be read: {error}", remedy=remedy) from None
    ids, headers = arrays["ids"].tolist(), arrays["headers"].tolist()
    trained = arrays["trained"].astype(bool).tolist()
    out, at, head = [], 0, 0
    for header, length in arrays["lengths"].tolist():
        here = slice(at, at + length)
        out.append(Document(ids[here], trained[here], tuple(headers[head : head + header])))
        at, head = at + length, head + header
    return out
