"""`perilune train episodes`: an oracle plays generated tasks; what passes becomes training data."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from perilune.errors import UsageError

if TYPE_CHECKING:
    from perilune.chat.format import ChatFormat
    from perilune.train.episodes import Episode

SHOWN_REJECTIONS = 5


class Style(StrEnum):
    PROSE = "prose"
    LINES = "lines"


def episodes(
    out: Annotated[Path, typer.Option("--out", help="File of JSON lines to write.")],
    family: Annotated[
        list[str] | None,
        typer.Option("--family", help="A family of tasks; repeatable. Default: all of them."),
    ] = None,
    count: Annotated[int, typer.Option("--count", min=1, help="Tasks of each family.")] = 100,
    seed: Annotated[int, typer.Option("--seed", min=0, help="The first task's seed.")] = 0,
    size: Annotated[
        int | None,
        typer.Option("--size", help="Number of entities in a task, for families that have a size."),
    ] = None,
    style: Annotated[
        Style | None, typer.Option("--style", help="How articles are written. Default: both.")
    ] = None,
    mistakes: Annotated[
        float, typer.Option("--mistakes", min=0, max=1, help="Share of episodes with a mistake.")
    ] = 0.3,
    tokenizer: Annotated[
        Path | None,
        typer.Option(
            "--tokenizer", help="Checkpoint folder whose tokenizer adds token ids and a loss mask."
        ),
    ] = None,
    no_thinking: Annotated[
        bool,
        typer.Option("--no-thinking", help="Use the token ids of a model that does not think."),
    ] = False,
    jobs: Annotated[int, typer.Option("--jobs", min=1, help="Number of processes.")] = 1,
    sandbox: Annotated[
        str, typer.Option("--sandbox", help="bubblewrap, or landlock: weaker.")
    ] = "bubblewrap",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Play tasks of training seeds with an oracle, and keep the episodes that are verified.

    Every episode went through the agent's loop, tools and sandbox. Exit code 1: some were rejected.
    """
    from perilune.train.episodes import Plan, Rejected, encode_episode, record_all
    from perilune.world import FAMILIES, Seed, Split
    from perilune.world import Style as Articles

    families = family or list(FAMILIES)
    unknown = [each for each in families if each not in FAMILIES]
    if unknown:
        raise UsageError(
            f"there is no family {unknown[0]!r}", remedy=f"Families: {', '.join(FAMILIES)}."
        )
    if sandbox not in ("bubblewrap", "landlock"):
        raise UsageError(f"--sandbox must be bubblewrap or landlock, not {sandbox!r}")
    if not out.absolute().parent.is_dir():
        raise UsageError(f"there is no folder {out.absolute().parent} to write {out.name} in")
    chat_format = _chat_format(tokenizer)
    played = record_all(
        ((Seed(Split.TRAIN, seed + number), each) for each in families for number in range(count)),
        size=size,
        plan=Plan(style=Articles(style.value) if style else None, mistakes=mistakes),
        sandbox=sandbox,  # type: ignore[arg-type]  # narrowed above
        jobs=jobs,
    )
    began = time.monotonic()
    kept: Counter[str] = Counter()
    tokens = learned = 0
    rejected: list[Rejected] = []
    total = count * len(families)
    with out.open("wb") as file:
        for number, episode in enumerate(played, 1):
            if isinstance(episode, Rejected):
                rejected.append(episode)
            else:
                kept[episode.family] += 1
                if chat_format is not None:
                    _add_ids(episode, chat_format, thinking=not no_thinking)
                    tokens += sum(map(len, episode.ids))
                    learned += sum(map(sum, episode.loss))
                file.write(encode_episode(episode) + b"\n")
            if sys.stderr.isatty():
                print(f"\r{number} of {total} tasks", end="", file=sys.stderr, flush=True)
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr)
    seconds = time.monotonic() - began
    if as_json:
        values: dict[str, Any] = {
            "file": str(out),
            "episodes": dict(kept),
            "rejected": [
                {"family": each.family, "seed": each.seed.index, "reason": each.reason}
                for each in rejected
            ],
            "tokens": tokens,
            "learned_tokens": learned,
            "seconds": round(seconds, 3),
        }
        print(json.dumps(values, indent=2))
    else:
        for each in families:
            print(f"{each:<16}{kept[each]:>8} of {count} verified")
        if chat_format is not None:
            print(f"{tokens:,} tokens, {learned:,} of them learned")
        print(f"{kept.total() / seconds:.1f} episodes/s, written to {out}")
        for bad in rejected[:SHOWN_REJECTIONS]:
            print(f"rejected: {bad.family} {bad.seed.index}: {bad.reason}", file=sys.stderr)
    if rejected:
        raise typer.Exit(1)


def _chat_format(folder: Path | None) -> ChatFormat | None:
    if folder is None:
        return None
    from perilune.chat import ChatFormat

    return ChatFormat.from_pretrained(folder)


def _add_ids(episode: Episode, chat_format: ChatFormat, *, thinking: bool) -> None:
    from perilune.train.episodes import render_episode

    for sequence in render_episode(episode, chat_format, thinking=thinking):
        episode.ids.append(sequence.ids)
        episode.loss.append(sequence.loss)
