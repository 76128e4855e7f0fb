"""What a grammar lets through: texts drawn from it at random, over a vocabulary of single bytes."""

from __future__ import annotations

import random

import llguidance
import numpy as np

from perilune.engine.grammar import _source
from perilune.engine.sampling_params import Grammar

END = 256
_CLOSERS = frozenset(b'"}]')


class _Bytes:
    eos_token_id = END
    bos_token_id = None
    tokens = [*(bytes([i]) for i in range(256)), b"<end>"]
    special_token_ids = [END]

    def __call__(self, text: str | bytes) -> list[int]:
        return list(text if isinstance(text, bytes) else text.encode())


_TOKENIZER = llguidance.LLTokenizer(llguidance.TokenizerWrapper(_Bytes()), n_vocab=END + 1)


def matcher(grammar: Grammar) -> llguidance.LLMatcher:
    """Raises RequestError, or AssertionError where the grammar library refuses."""
    found = llguidance.LLMatcher(_TOKENIZER, _source(grammar), log_level=0)
    assert not found.is_error(), found.get_error()
    return found


def draw(grammar: Grammar, seed: int, *, most: int = 1500) -> str | None:
    """A text of the grammar, or None when it had no end after `most` bytes."""
    state, chance, text = matcher(grammar), random.Random(seed), bytearray()
    for _ in range(most):
        bits = np.frombuffer(state.compute_bitmask(), dtype=np.uint8)
        assert not state.is_error(), state.get_error()
        allowed = np.flatnonzero(np.unpackbits(bits, bitorder="little")[: END + 1]).tolist()
        if END in allowed and (len(allowed) == 1 or chance.random() < 0.6):
            return text.decode()
        closing = [token for token in allowed if token in _CLOSERS]
        pool = closing if closing and chance.random() < 0.7 else [t for t in allowed if t != END]
        token = chance.choice(pool)
        assert state.consume_token(token), state.get_error()
        text.append(token)
    return None


def takes(grammar: Grammar, text: str) -> bool:
    """Whether the text, as it stands, is one of the grammar's."""
    state = matcher(grammar)
    data = list(text.encode())
    return state.try_consume_tokens(data) == len(data) and state.is_accepting()
