"""How the latent cache is divided: pages of 64 tokens."""

from __future__ import annotations

PAGE_SIZE = 64  # tokens


def pages_for(tokens: int) -> int:
    """Pages that hold `tokens` tokens."""
    return -(-tokens // PAGE_SIZE)
