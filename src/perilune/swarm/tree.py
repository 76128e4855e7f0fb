"""A swarm as a tree in the terminal: stages, sub-agents, how each ended and what it took."""

from __future__ import annotations

from rich.text import Text
from rich.tree import Tree

from perilune.swarm.assignment import FAILED
from perilune.swarm.state import AssignmentState, SwarmState
from perilune.swarm.trace import SwarmTrace

SHOWN = 70
"""Characters of a prompt."""


def render_tree(trace: SwarmTrace) -> Tree:
    """Stage by stage; a star marks the most steps of a stage, which count as critical."""
    state = trace.state
    tree = Tree(Text(one_line(state.task or state.run, 100), "bold"))
    tree.add(Text(summary(state), "dim"))
    stages = state.stages()
    for step in range(1, max([state.main_steps, *stages]) + 1):
        stage = stages.get(step)
        if stage is None:
            tree.add(Text(f"step {step}: by itself", "dim"))
            continue
        most = max(each.steps for each in stage)
        branch = tree.add(
            Text(f"step {step}: {counted(len(stage), 'sub-agent')}, {counted(most, 'step')}")
        )
        for each in stage:
            branch.add(_line(each, longest=each.steps == most))
    if state.finished is not None:
        style = "green" if state.finished.reason == "done" else "yellow"
        words = one_line(state.finished.answer or state.finished.detail, 100)
        tree.add(Text(f"{state.finished.reason}: {words}", style))
    return tree


def summary(state: SwarmState) -> str:
    """The counts in a line, the parallel ones beside the serial ones."""
    usage = state.usage
    parts = [
        counted(len(state.assignments), "assignment"),
        f"{state.critical_steps} critical steps of {state.serial_steps} serial",
        f"{state.seconds:.1f} s of {state.serial_seconds():.1f} s serial",
        counted(state.tool_calls, "tool call"),
        f"{usage.prompt_tokens} + {usage.completion_tokens} tokens",
    ]
    if usage.cached_tokens:
        parts.append(f"{usage.cached_tokens} of them cached")
    if usage.cost:
        parts.append(f"cost {usage.cost:.4f}")
    return ", ".join(parts)


def counted(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def one_line(text: str, most: int) -> str:
    """Foreign text in a line, without control characters."""
    line = " ".join(text.split())
    line = "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in line)
    return line if len(line) <= most else f"{line[: most - 3]}..."


def _line(each: AssignmentState, *, longest: bool) -> Text:
    style = "red" if each.status in FAILED else "yellow" if each.status != "done" else "green"
    line = Text("★ " if longest else "  ", "magenta")
    line.append(f"{each.name} ")
    line.append(each.status, style)
    line.append(
        f" {counted(each.steps, 'step')}, {counted(each.tool_calls, 'call')}, "
        f"{each.seconds:.1f} s, {each.usage.total_tokens} tokens ",
        "dim",
    )
    line.append(one_line(each.prompt, SHOWN), "italic")
    if each.finished is not None and each.finished.detail:
        line.append(f" ({one_line(each.finished.detail, SHOWN)})", style)
    return line
