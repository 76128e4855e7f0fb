"""Draws an argument: as text, from the conclusion down to its grounds, and as an SVG picture."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from html import escape
from itertools import pairwise

from perilune.agent.evidence.argument import find_circle, objectors, supporters
from perilune.events import ArgumentNode

MARKS = {"holds": "✓", "fails": "✗", "open": "?"}
_COLOURS = {
    "conclusion": "#dbeafe", "hypothesis": "#fef3c7", "claim": "#f3f4f6",
    "check": "#dcfce7", "source": "#ede9fe", "question": "#ffffff",
}  # fmt: skip
_BORDERS = {"holds": "#15803d", "fails": "#b91c1c", "open": "#6b7280"}
_WIDTH, _GAP_X, _GAP_Y, _LINE, _PAD, _MARGIN = 230, 28, 64, 16, 10, 20


def as_text(nodes: Mapping[str, ArgumentNode]) -> str:
    """The argument as an indented tree; a node that was drawn before is only named again."""
    if not nodes:
        return "this run kept no argument"
    lines: list[str] = []
    drawn: set[str] = set()
    roots = [each.id for each in nodes.values() if each.kind == "conclusion"]
    below = {target for each in nodes.values() for target in (*each.supports, *each.against)}
    roots += [each for each in nodes if each not in roots and not _speaks(nodes[each], nodes)]
    for root in dict.fromkeys([*roots, *(each for each in nodes if each not in below)]):
        if root not in drawn:
            _draw(root, nodes, drawn, lines, "", "")
    for left in nodes:
        if left not in drawn:  # in a circle
            _draw(left, nodes, drawn, lines, "", "")
    return "\n".join(lines)


def as_svg(nodes: Mapping[str, ArgumentNode]) -> str:
    """The argument as a picture: what supports stands below what it supports."""
    layers = _layers(nodes)
    texts = {each.id: _wrapped(each) for each in nodes.values()}
    heights = {key: _LINE * len(lines) + 2 * _PAD for key, lines in texts.items()}
    widest = max((len(layer) for layer in layers), default=1)
    width = widest * (_WIDTH + _GAP_X) - _GAP_X + 2 * _MARGIN
    places: dict[str, tuple[float, float]] = {}
    y = float(_MARGIN)
    for layer in layers:
        row = len(layer) * (_WIDTH + _GAP_X) - _GAP_X
        for number, key in enumerate(layer):
            places[key] = ((width - row) / 2 + number * (_WIDTH + _GAP_X), y)
        y += max(heights[key] for key in layer) + _GAP_Y
    height = y - _GAP_Y + _MARGIN if layers else 2 * _MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:g}" height="{height:g}" '
        f'viewBox="0 0 {width:g} {height:g}" font-family="sans-serif" font-size="12">',
        "<defs>",
        *(
            f'<marker id="{name}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
            f'markerHeight="7" orient="auto"><path d="M0 0L8 4L0 8z" fill="{colour}"/></marker>'
            for name, colour in (("for", "#374151"), ("against", "#b91c1c"))
        ),
        "</defs>",
        f'<rect width="{width:g}" height="{height:g}" fill="#ffffff"/>',
    ]
    for node in nodes.values():
        for kind, targets in (("for", node.supports), ("against", node.against)):
            parts += [
                _edge(places[node.id], places[target], heights[target], kind)
                for target in targets
                if target in places
            ]
    for node in nodes.values():
        parts += _box(node, places[node.id], heights[node.id], texts[node.id])
    return "\n".join([*parts, "</svg>"]) + "\n"


def _speaks(node: ArgumentNode, nodes: Mapping[str, ArgumentNode]) -> bool:
    return any(each in nodes for each in (*node.supports, *node.against))


def _draw(
    key: str,
    nodes: Mapping[str, ArgumentNode],
    drawn: set[str],
    lines: list[str],
    first: str,
    rest: str,
) -> None:
    node = nodes[key]
    again = key in drawn
    drawn.add(key)
    ground = f" = {node.result}" if node.result else f" [{node.evidence}]" if node.evidence else ""
    text = " ".join(f"{node.text}{ground}".split())
    lines.append(f"{first}{MARKS[node.state]} {node.kind} {key}: {text}" + " (above)" * again)
    if again:
        return
    below = [("├ ", each) for each in supporters(key, nodes)]
    below += [("├ against: ", each) for each in objectors(key, nodes)]
    for number, (mark, each) in enumerate(below):
        last = number == len(below) - 1
        own = mark.replace("├", "└") if last else mark
        _draw(each.id, nodes, drawn, lines, rest + own, rest + ("  " if last else "│ "))


def _layers(nodes: Mapping[str, ArgumentNode]) -> list[list[str]]:
    """Each node one row below the lowest node that it speaks for or against."""
    depth = dict.fromkeys(nodes, 0)
    rounds = 0 if find_circle(nodes) else len(nodes)
    for _ in range(max(1, rounds)):
        changed = False
        for node in nodes.values():
            for target in (*node.supports, *node.against):
                if target in depth and depth[node.id] < depth[target] + 1 <= len(nodes):
                    depth[node.id] = depth[target] + 1
                    changed = True
        if not changed:
            break
    layers: list[list[str]] = [[] for _ in range(max(depth.values(), default=-1) + 1)]
    for key, place in depth.items():
        layers[place].append(key)
    # Nodes stand near what they speak for: ordered by the mean place of their targets.
    for above, layer in pairwise(layers):
        at = {key: number for number, key in enumerate(above)}

        def mean(key: str, at: dict[str, int] = at) -> float:
            targets = [at[t] for t in (*nodes[key].supports, *nodes[key].against) if t in at]
            return sum(targets) / len(targets) if targets else len(at)

        layer.sort(key=mean)
    return [layer for layer in layers if layer]


def _wrapped(node: ArgumentNode) -> list[str]:
    ground = f"= {node.result}" if node.result else f"[{node.evidence}]" if node.evidence else ""
    lines = textwrap.wrap(" ".join(node.text.split()), 34)[:6]
    lines += textwrap.wrap(" ".join(ground.split()), 34)[:3]
    return [f"{MARKS[node.state]} {node.kind} {node.id}", *lines]


def _box(
    node: ArgumentNode, place: tuple[float, float], height: int, lines: list[str]
) -> list[str]:
    x, y = place
    dash = ' stroke-dasharray="5 3"' if node.state == "open" else ""
    parts = [
        f'<rect x="{x:g}" y="{y:g}" width="{_WIDTH}" height="{height}" rx="6" '
        f'fill="{_COLOURS[node.kind]}" stroke="{_BORDERS[node.state]}" stroke-width="1.5"{dash}/>'
    ]
    for number, line in enumerate(lines):
        weight = ' font-weight="bold"' if number == 0 else ""
        at = y + _PAD + _LINE * number + 12
        parts.append(f'<text x="{x + _PAD:g}" y="{at:g}"{weight}>{escape(_printable(line))}</text>')
    return parts


def _edge(start: tuple[float, float], end: tuple[float, float], height: int, kind: str) -> str:
    """From the top of a node to the bottom of the one that it speaks for."""
    x1, y1 = start[0] + _WIDTH / 2, start[1]
    x2, y2 = end[0] + _WIDTH / 2, end[1] + height
    colour = "#b91c1c" if kind == "against" else "#374151"
    middle = (y1 + y2) / 2
    return (
        f'<path d="M{x1:g} {y1:g}C{x1:g} {middle:g} {x2:g} {middle:g} {x2:g} {y2:g}" fill="none" '
        f'stroke="{colour}" stroke-width="1.5" marker-end="url(#{kind})"/>'
    )


def _printable(text: str) -> str:
    """Without what XML cannot hold."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
