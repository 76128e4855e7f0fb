"""How `nano`, the embedded model, is run: its prompt and its two tools.

A small model does what it was trained to do, in the words it was trained with. So training renders
its episodes with this prompt and these declarations, and a run uses the same.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from perilune.agent.agent import Agent
from perilune.agent.models.chat_model import ChatModel, Sampling
from perilune.nano.tools import compact_tools
from perilune.search.facts import FactStore

SYSTEM_PROMPT = "You are nano. Look up facts, calculate with python, and cite sources."

SAMPLING = Sampling(temperature=0.0, max_tokens=512)
"""Greedy: the likeliest token is the trained one, and runs repeat."""


def nano_folder() -> Path:
    """Where the package keeps the checkpoint of nano."""
    return Path(__file__).parents[1] / "assets" / "nano"


def nano_agent(model: ChatModel | Path, store: FactStore | None = None, **options: Any) -> Agent:
    """An agent of a model that was trained as nano was; `store` None: the almanac.

    `options` are those of `Agent`. The context is kept as it is: episodes are short.
    """
    settings: dict[str, Any] = {
        "system_prompt": SYSTEM_PROMPT,
        "sampling": SAMPLING,
        "context": "keep",
        "snapshot": False,
    }
    return Agent(model, compact_tools(store), **(settings | options))
