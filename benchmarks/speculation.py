"""What guessing by lookup is worth on the texts of agents: steps and rows, without a network.

    python benchmarks/speculation.py [--json] [--episodes 12] [--drafts 12]

Episodes that nano learns from (tables split among sub-agents, tables alone, single rows) are read
turn by turn: a turn's tokens are given away as a step confirms them, and are remembered for the
turns that follow. A step costs 1 and a further row its share: 0.05 where steps wait for memory, as
with large models; 0.3 is nano on two cores. "Cost" is that of a token, without guessing 1.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any

from perilune.chat.tokenizer import Tokenizer
from perilune.engine.speculation import NgramSpeculator, Survival
from perilune.engine.text_memory import TextMemory
from perilune.nano.agent import nano_folder
from perilune.nano.training.render import Renderer, orchestrator_renderer
from perilune.nano.training.swarm_source import swarm_episode

SHARES = (0.05, 0.15, 0.3)
KINDS = {"split": ("swarm", "parallel"), "table": ("table", "mixed"), "row": ("row", "mixed")}


def turns(kind: str, episodes: int) -> list[tuple[list[int], int]]:
    """Of all turns of some episodes: the text up to the turn's end, and where the turn begins."""
    source, form = KINDS[kind]
    vocabulary = Tokenizer.from_pretrained(nano_folder())
    renderer = orchestrator_renderer(vocabulary) if source == "swarm" else Renderer(vocabulary)
    out: list[tuple[list[int], int]] = []
    index = found = 0
    while found < episodes:
        index += 4  # of four neighbours, which share a world, one
        episode = swarm_episode(index, {source: 1}, form, (8, 10, 12))  # type: ignore[arg-type]
        if source == "swarm" and episode.kind != "swarm-split-table":
            continue
        found += 1
        ids, trained = renderer.render(episode.messages)
        tokens = [*renderer.header, *ids]
        said = [*[False] * len(renderer.header), *trained]
        begins = [i for i in range(1, len(said)) if said[i] and not said[i - 1]]
        for begin in begins:
            end = next((i for i in range(begin, len(said)) if not said[i]), len(said))
            out.append((tokens[:end], begin))
    return out


def replay(
    texts: Sequence[tuple[list[int], int]], drafts: int, least_share: float
) -> dict[str, float]:
    survival, memory = Survival(), TextMemory()
    steps = rows = said = guessed = right = 0
    for tokens, begin in texts:
        speculator = NgramSpeculator(survival, memory)
        at = begin + 1  # the first comes with the prompt
        while at < len(tokens):
            limit = min(drafts, len(tokens) - at - 1)
            proposal = speculator.propose(tokens[:at], limit, least_share)
            accepted = 0
            while accepted < len(proposal) and proposal[accepted] == tokens[at + accepted]:
                accepted += 1
            speculator.observe(tokens[: at + accepted + 1], accepted + 1, proposal)
            steps, rows = steps + 1, rows + 1 + len(proposal)
            said, guessed, right = said + accepted + 1, guessed + len(proposal), right + accepted
            at += accepted + 1
    cost = (1 - least_share) * steps + least_share * rows
    return {
        "tokens_per_step": said / steps,
        "rows_per_token": rows / said,
        "acceptance": right / guessed if guessed else 0.0,
        "cost": cost / said,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--episodes", type=int, default=12)
    parser.add_argument("--drafts", type=int, default=12)
    arguments = parser.parse_args()
    table: list[dict[str, Any]] = []
    for kind in KINDS:
        texts = turns(kind, arguments.episodes)
        for share in SHARES:
            figures = replay(texts, arguments.drafts, share)
            table.append({"text": kind, "row_costs": share, **figures})
    if arguments.json:
        print(json.dumps(table, indent=2))
        return
    print("text    a row costs   tokens per step   rows per token   acceptance   cost")
    for row in table:
        print(
            f"{row['text']:6} {row['row_costs']:12.2f} {row['tokens_per_step']:15.2f}"
            f" {row['rows_per_token']:14.2f} {row['acceptance']:12.0%} {row['cost']:6.2f}"
        )


if __name__ == "__main__":
    main()
