"""The files of a vocabulary, as the family publishes its own: the other end of tokenizer.py."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence

from perilune.chat.special_tokens import NAME_BY_OFFSET

# The tool-call and thinking markers are text that the caller sees; the others are not.
_VISIBLE_OFFSETS = {*range(11, 16), 22, 23}


def vocabulary_files(tokens: Sequence[bytes]) -> dict[str, bytes]:
    """`tiktoken.model` and `tokenizer_config.json` of ordinary tokens by rank.

    The 256 reserved ids follow them.
    """
    lines = [b"%s %d\n" % (base64.b64encode(token), rank) for rank, token in enumerate(tokens)]
    added = {
        str(len(tokens) + offset): {
            "content": name,
            "lstrip": False,
            "normalized": False,
            "rstrip": False,
            "single_word": False,
            "special": offset not in _VISIBLE_OFFSETS,
        }
        for offset, name in NAME_BY_OFFSET.items()
    }
    config = {
        "added_tokens_decoder": added,
        "bos_token": "[BOS]",
        "clean_up_tokenization_spaces": False,
        "eos_token": "[EOS]",
        "pad_token": "[PAD]",
        "tokenizer_class": "TikTokenTokenizer",
        "unk_token": "[UNK]",
    }
    text = json.dumps(config, indent=2) + "\n"
    return {"tiktoken.model": b"".join(lines), "tokenizer_config.json": text.encode()}
