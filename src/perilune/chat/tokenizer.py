"""Text <-> token ids. Text never becomes a special token; special tokens are addressed by id.

Two sources: `tiktoken.model` (the published one) and, where a checkpoint has only that,
`tokenizer.json` (see tokenizer_json.py). Nothing of a checkpoint is executed.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from perilune.chat.encoding_cache import EncodingCache
from perilune.chat.json_file import read_json_object
from perilune.chat.special_tokens import RESERVED, SpecialIds, reserved_names
from perilune.chat.tiktoken_model import SPLIT_PATTERN, read_mergeable_ranks
from perilune.config import checkpoint_file
from perilune.errors import ChatError

if TYPE_CHECKING:
    import tiktoken

# The published tokenizer encodes in pieces of this many characters, and cuts longer runs of
# white space or of anything else: the time of a merge grows faster than its length.
MAX_CHUNK_CHARACTERS = 400_000
MAX_RUN_CHARACTERS = 25_000
MAX_TOKENIZER_CONFIG_BYTES = 16 * 2**20

_RUN = re.compile(r"\s+|\S+")
_Utf8Decoder = codecs.getincrementaldecoder("utf-8")


class Tokenizer:
    """A vocabulary with its encoder.

    `encode_ordinary` maps text to ids without any special token; `token_bytes` holds the bytes of
    every id (a special token's are its name in UTF-8); `special` maps ids to names.
    """

    def __init__(
        self,
        encode_ordinary: Callable[[str], list[int]],
        token_bytes: Sequence[bytes],
        special: Mapping[int, str],
        *,
        encoding: tiktoken.Encoding | None = None,
    ) -> None:
        self._encode_ordinary = encode_ordinary
        self._encoded = EncodingCache(self._encode)
        self._token_bytes = token_bytes
        self._special = dict(special)
        self.special_tokens: Mapping[str, int] = {name: i for i, name in special.items()}
        self.special_ids = SpecialIds.from_names(self.special_tokens)
        # For libraries that build on tiktoken (grammar masks); None for a tokenizer.json.
        self.encoding = encoding

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Tokenizer:
        """Read the tokenizer of a checkpoint folder; `tiktoken.model` is preferred.

        Raises ChatError where there is none, where a file is damaged, or where only a
        `tokenizer.json` is there and the library that reads it is not installed; UnsafeFileError
        for a link out of the folder, a device or a pipe.
        """
        folder = Path(folder)
        if path := checkpoint_file(folder, "tiktoken.model"):
            config = checkpoint_file(folder, "tokenizer_config.json")
            return cls.from_tiktoken_model(path, read_added_tokens(config) if config else None)
        if path := checkpoint_file(folder, "tokenizer.json"):
            from perilune.chat.tokenizer_json import read_tokenizer_json

            return cls(*read_tokenizer_json(path))
        raise ChatError(
            f"no tokenizer in {folder}: neither tiktoken.model nor tokenizer.json is there",
            remedy="Download tiktoken.model and tokenizer_config.json of the checkpoint as well",
        )

    @classmethod
    def from_tiktoken_model(cls, path: Path, added: Mapping[int, str] | None = None) -> Tokenizer:
        """Read `tiktoken.model`. `added` names special ids; the published names fill the rest."""
        ranks = read_mergeable_ranks(path)
        first = len(ranks)
        added = added or {}
        if outside := [i for i in added if not first <= i < first + RESERVED]:
            raise ChatError(
                f"tokenizer_config.json names token {outside[0]}, but the reserved ids of this "
                f"tiktoken.model are {first}..{first + RESERVED - 1}",
                remedy="The two files belong to different checkpoints; download both again",
            )
        special = reserved_names(first, added)
        import tiktoken

        encoding = tiktoken.Encoding(
            path.parent.name,
            pat_str=SPLIT_PATTERN,
            mergeable_ranks=ranks,
            special_tokens={name: i for i, name in special.items()},
        )
        token_bytes = [*ranks, *(special[i].encode() for i in sorted(special))]
        return cls(encoding.encode_ordinary, token_bytes, special, encoding=encoding)

    @property
    def vocab_size(self) -> int:
        """Number of ids, the reserved ones included."""
        return len(self._token_bytes)

    n_vocab = vocab_size  # the name that tiktoken and grammar libraries use

    def is_special(self, token_id: int) -> bool:
        return token_id in self._special

    def token_bytes(self, token_id: int) -> bytes:
        """Bytes of an id; those of a special token are its name. Raises ChatError outside."""
        if 0 <= token_id < len(self._token_bytes):
            return self._token_bytes[token_id]
        raise ChatError(f"token id {token_id} is outside the vocabulary of {self.vocab_size}")

    def encode(self, text: str) -> list[int]:
        """Ids of a text. Spelling a special token gives the ordinary tokens of that spelling.

        A lone surrogate, which UTF-8 cannot hold, becomes U+FFFD.
        """
        return self._encoded(text)

    def _encode(self, text: str) -> list[int]:
        if len(text) <= MAX_RUN_CHARACTERS:
            return self._encode_ordinary(text)
        ids: list[int] = []
        for piece in _pieces(text):
            ids.extend(self._encode_ordinary(piece))
        return ids

    def decode(self, ids: Iterable[int], *, skip_special: bool = False) -> str:
        """Text of the ids; bytes that are not UTF-8 become U+FFFD, special tokens their names."""
        return b"".join(
            self.token_bytes(i) for i in ids if not (skip_special and i in self._special)
        ).decode("utf-8", "replace")

    def stream_decoder(self) -> StreamDecoder:
        """A decoder for ids that arrive one by one."""
        return StreamDecoder(self)


class StreamDecoder:
    """Ids one by one -> text, never half a character; the parts add up to `decode` of the whole."""

    __slots__ = ("_tokenizer", "_utf8")

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._utf8 = _Utf8Decoder("replace")

    def feed(self, token_id: int) -> str:
        """The text that this id completes, perhaps empty."""
        return self._utf8.decode(self._tokenizer.token_bytes(token_id))

    def finish(self) -> str:
        """What is left, once: U+FFFD for the bytes of an unfinished character, else nothing."""
        return self._utf8.decode(b"", final=True)

    def clone(self) -> StreamDecoder:
        """A decoder in the same state that goes its own way."""
        twin = StreamDecoder(self._tokenizer)
        twin._utf8.setstate(self._utf8.getstate())
        return twin


def read_added_tokens(path: Path) -> dict[int, str]:
    """`added_tokens_decoder` of a tokenizer_config.json as id -> name.

    Raises ChatError where the file is damaged. Nothing else of it is used (`auto_map` is not).
    """
    raw = read_json_object(path, MAX_TOKENIZER_CONFIG_BYTES)
    entries = raw.get("added_tokens_decoder", {})
    try:
        added = {int(i): entry["content"] for i, entry in entries.items()}
        if not all(isinstance(name, str) and name for name in added.values()):
            raise TypeError
    except (AttributeError, KeyError, TypeError, ValueError):
        raise ChatError(
            f"{path.name}: added_tokens_decoder does not map ids to tokens with a content",
            remedy="Download the file again",
        ) from None
    if len(set(added.values())) != len(added):
        raise ChatError(f"{path.name}: two ids have the same token", remedy="Download it again")
    return added


def _pieces(text: str) -> Iterable[str]:
    """The pieces that are encoded one by one: bounded in length and in the length of a run."""
    for start in range(0, len(text), MAX_CHUNK_CHARACTERS):
        chunk = text[start : start + MAX_CHUNK_CHARACTERS]
        cut = 0
        for run in _RUN.finditer(chunk):
            if run.end() - run.start() > MAX_RUN_CHARACTERS:
                for end in range(run.start() + MAX_RUN_CHARACTERS, run.end(), MAX_RUN_CHARACTERS):
                    yield chunk[cut:end]
                    cut = end
        yield chunk[cut:]
