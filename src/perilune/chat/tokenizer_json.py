"""Reading `tokenizer.json` (byte-level BPE) with the `tokenizers` library, an optional extra.

The library turns text that spells an added token into that token. So the added tokens are taken
out of the file before the library sees it, and are kept here, by id.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from perilune.chat.json_file import read_json_object
from perilune.errors import ChatError

MAX_FILE_BYTES = 256 * 2**20
MAX_VOCABULARY = 2**22


def read_tokenizer_json(
    path: Path,
) -> tuple[Callable[[str], list[int]], list[bytes], dict[int, str]]:
    """What a `Tokenizer` is made of, from a `tokenizer.json` with a byte-level BPE model: the
    function that encodes text without special tokens, the bytes of each id, the special ids.

    Raises ChatError where the library is missing, the file is damaged, or the model is another.
    """
    try:
        import tokenizers
    except ImportError:
        raise ChatError(
            f"{path.parent} has a tokenizer.json and no tiktoken.model; reading it needs the "
            "library `tokenizers`, which is not installed",
            remedy="pip install 'perilune[tokenizers]', or add the checkpoint's tiktoken.model",
        ) from None
    raw = read_json_object(path, MAX_FILE_BYTES)
    try:
        special = {int(token["id"]): str(token["content"]) for token in raw["added_tokens"]}
        names = set(special.values())
        model = raw["model"]
        if model["type"] != "BPE" or "ByteLevel" not in _decoder_types(raw.get("decoder")):
            raise ChatError(
                f"{path.name}: only byte-level BPE is read",
                remedy="Use the checkpoint's tiktoken.model",
            )
        # Out of the vocabulary as well: a whole-word match would still give the special id.
        vocab = {t: i for t, i in model["vocab"].items() if i not in special and t not in names}
        ids = [*vocab.values(), *special]
        if not 0 <= min(ids) <= max(ids) < MAX_VOCABULARY:
            raise ValueError(f"ids from {min(ids)} to {max(ids)}")
        token_bytes = [b""] * (1 + max(ids))
        for token, i in vocab.items():
            token_bytes[i] = bytes(_BYTE_OF_CHARACTER[c] for c in token)
        for i, name in special.items():
            token_bytes[i] = name.encode()
        text = {**raw, "added_tokens": [], "post_processor": None, "truncation": None}
        text |= {"padding": None, "model": {**model, "vocab": vocab}}
        library = tokenizers.Tokenizer.from_str(json.dumps(text))
    except ChatError:
        raise
    except Exception as error:  # the library raises bare Exception on a bad file
        raise ChatError(
            f"{path.name}: is not a tokenizer file: {type(error).__name__}: {error}",
            remedy="Download the file again",
        ) from None

    def encode_ordinary(text: str) -> list[int]:
        whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        ids: list[int] = library.encode(whole, add_special_tokens=False).ids
        return ids

    return encode_ordinary, token_bytes, special


def _decoder_types(decoder: Any) -> set[str]:
    if not isinstance(decoder, dict):
        return set()
    return {decoder.get("type", "")}.union(*map(_decoder_types, decoder.get("decoders", [])))


def _byte_of_character() -> dict[str, int]:
    """The byte-level alphabet of GPT-2: printable Latin-1 stands for itself, others from 256 on."""
    shown = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table = {chr(b): b for b in shown}
    hidden = (b for b in range(256) if b not in set(shown))
    return table | {chr(256 + n): b for n, b in enumerate(hidden)}


_BYTE_OF_CHARACTER = _byte_of_character()
