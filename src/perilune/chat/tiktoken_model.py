"""Reading `tiktoken.model`: lines of "base64 rank" -> the mergeable byte strings, checked.

Source of the format and of the split pattern: the tokenizer published with Kimi K2.
"""

from __future__ import annotations

import binascii
from pathlib import Path

from perilune.errors import ChatError

MAX_FILE_BYTES = 64 * 2**20

# Words, numbers, punctuation and white space are merged separately; Han characters apart from
# other letters. `&&` is class intersection (as in the regex crate, or the V1 flag of the Python
# module `regex`).
SPLIT_PATTERN = "|".join(
    [
        r"[\p{Han}]+",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*"
        r"[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+"
        r"[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+[\r\n]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    ]
)


def read_mergeable_ranks(path: Path) -> dict[bytes, int]:
    """Token bytes -> rank, ranks 0..n-1 in order, all 256 single bytes among them.

    Raises ChatError (absent, too large, a line that is not "base64 rank", a rank out of order, a
    token twice, a single byte missing).
    """
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ChatError(f"{path.name}: larger than 64 MiB; no vocabulary is that large")
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise ChatError(
            f"{path.name}: cannot be read: {error.strerror or error}",
            remedy="Download the file again from where the checkpoint came from",
        ) from None
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(lines):
        try:
            encoded, rank = line.split()
            token = binascii.a2b_base64(encoded, strict_mode=True)
            if not token or int(rank) != number:
                raise ValueError
        except ValueError:
            raise _corrupt(
                path, f"line {number + 1} is not a token and the rank {number}"
            ) from None
        ranks[token] = number
    if len(ranks) != len(lines):
        raise _corrupt(path, "a token appears twice")
    missing = [b for b in range(256) if bytes([b]) not in ranks]
    if missing:
        raise _corrupt(path, f"{len(missing)} of the 256 single bytes are missing")
    return ranks


def _corrupt(path: Path, what: str) -> ChatError:
    return ChatError(
        f"{path.name}: {what}",
        remedy="The file is damaged or cut short; download it again",
    )
