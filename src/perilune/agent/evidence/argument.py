"""An argument as a graph: claims and hypotheses, what supports them, and how that was checked.

The nodes come from the tool `argue`; `problems` says what keeps the conclusion from standing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from perilune.agent.evidence.quotes import even
from perilune.events import ArgumentNode

GROUNDS = frozenset({"check", "source"})


def problems(
    nodes: Mapping[str, ArgumentNode], *, outputs: Iterable[str], evidence: Collection[str]
) -> list[str]:
    """What is wrong with an argument, in words for the model; nothing when it stands.

    `outputs` are what tools printed, `evidence` the ids of sources that were read.
    """
    found = [*_unknown(nodes), *_ungrounded(nodes, [even(each) for each in outputs], evidence)]
    circle = find_circle(nodes)
    if circle:
        found.append(f"The argument goes in a circle: {' -> '.join(circle)}.")
    conclusions = [node for node in nodes.values() if node.kind == "conclusion"]
    if not conclusions:
        found.append("The argument has no conclusion. Add one with `argue`, and what supports it.")
    if found:
        return found
    for node in conclusions:
        found += _standing(node, nodes)
    return found


def supporters(node: str, nodes: Mapping[str, ArgumentNode]) -> list[ArgumentNode]:
    """The nodes that speak for this one."""
    return [each for each in nodes.values() if node in each.supports]


def objectors(node: str, nodes: Mapping[str, ArgumentNode]) -> list[ArgumentNode]:
    """The nodes that speak against this one."""
    return [each for each in nodes.values() if node in each.against]


def find_circle(nodes: Mapping[str, ArgumentNode]) -> list[str]:
    """The ids along a circle of support, the first one again at its end; empty without one."""
    done: set[str] = set()
    for start in nodes:
        path: list[str] = []
        stack: list[tuple[str, int]] = [(start, 0)]
        while stack:
            node, place = stack.pop()
            if place == 0:
                if node in path:
                    return [*path[path.index(node) :], node]
                if node in done:
                    continue
                path.append(node)
            targets = [each for each in nodes[node].supports if each in nodes]
            if place < len(targets):
                stack += [(node, place + 1), (targets[place], 0)]
            else:
                path.pop()
                done.add(node)
    return []


def _unknown(nodes: Mapping[str, ArgumentNode]) -> Iterable[str]:
    for node in nodes.values():
        for other in (*node.supports, *node.against):
            if other not in nodes:
                yield f"Node {node.id!r} points to {other!r}, which is not a node."


def _ungrounded(
    nodes: Mapping[str, ArgumentNode], outputs: list[str], evidence: Collection[str]
) -> Iterable[str]:
    for node in nodes.values():
        if node.kind == "check":
            wanted = even(node.result)
            if not wanted or not any(wanted in each for each in outputs):
                yield (
                    f"The result of check {node.id!r}, {node.result[:80]!r}, stands in no tool's "
                    "output. Run the check, and copy what it printed."
                )
        elif node.kind == "source" and node.evidence not in evidence:
            yield f"Source {node.id!r} names {node.evidence or 'no id'!r}, which was not read."


def _standing(conclusion: ArgumentNode, nodes: Mapping[str, ArgumentNode]) -> Iterable[str]:
    """What keeps a conclusion from standing on checks and sources."""
    if conclusion.state == "fails":
        yield f"The conclusion {conclusion.id!r} is marked as failing."
    waiting, seen, grounded = [conclusion], {conclusion.id}, False
    while waiting:
        node = waiting.pop()
        grounded = grounded or node.kind in GROUNDS
        if node.kind in ("hypothesis", "claim") and node.state != "holds":
            yield (
                f"The conclusion rests on {node.kind} {node.id!r}, which is marked {node.state}. "
                "Test it and mark it, or take the support away."
            )
        for each in objectors(node.id, nodes):
            if each.kind in GROUNDS and each.state != "fails" and node.state == "holds":
                yield f"{each.id!r} speaks against {node.id!r}, which is marked as holding."
        before = supporters(node.id, nodes)
        if not before and node.kind not in (*GROUNDS, "question"):
            yield f"Nothing supports {node.kind} {node.id!r}. Add the check or source behind it."
        for each in before:
            if each.id not in seen:
                seen.add(each.id)
                waiting.append(each)
    if not grounded:
        yield f"No check and no source stands behind the conclusion {conclusion.id!r}."
