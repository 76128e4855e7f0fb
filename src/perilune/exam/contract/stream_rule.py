"""How a rule about a chat stream is registered: it must hold for each of the streams it names."""

from __future__ import annotations

from collections.abc import Callable

from perilune.exam.contract.check import Level, Skip, check
from perilune.exam.contract.scenarios import STREAMS, ChatStream, open_streams
from perilune.exam.contract.target import Target

Rule = Callable[[ChatStream], None]


def stream_rule(
    name: str,
    rule: str,
    *,
    why: str,
    priority: str,
    level: Level = Level.REQUIRED,
    of: tuple[str, ...] = STREAMS,
) -> Callable[[Rule], Rule]:
    """Register a rule that every stream of `of` must keep."""

    def register(function: Rule) -> Rule:
        def run(target: Target) -> None:
            looked = 0
            skipped = "no stream to look at"
            for stream in open_streams(target, of):
                try:
                    function(stream)
                    looked += 1
                except Skip as skip:
                    skipped = str(skip)
                except Exception as error:
                    if getattr(error, "exchange", None) is None:
                        error.exchange = stream.exchange  # type: ignore[attr-defined]
                    raise
            if not looked:
                raise Skip(skipped)

        check(f"chat.stream.{name}", rule, why=why, level=level, priority=priority)(run)
        return function

    return register
