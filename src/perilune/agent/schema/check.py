"""Arguments against a schema, in bounded time: what does not fit, in few words.

Every look at a value costs a step, and steps and the seconds of regular expressions are limited.
Where a limit is reached the check ends: what was found is said, and the rest is not held. The
server behind the tool has the last word on its arguments in any case.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from perilune.agent.schema.pattern import SECONDS, Pattern
from perilune.agent.schema.read import Node, ToolSchema
from perilune.agent.schema.values import check_count, check_number, is_a, joined, show

MAX_STEPS = 50_000
MAX_PATTERN_SECONDS = 0.4  # of all searches of one check
MAX_PROBLEMS = 5
_MAX_LEVELS = 140  # of nodes within nodes; five frames of Python each
_ALL = object()
"""All properties, or all items, are evaluated."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One place where the arguments break the schema; `place` as `$.a[0].b`."""

    place: str
    message: str

    def __str__(self) -> str:
        return f"{self.place}: {self.message}"


@dataclass(frozen=True, slots=True)
class Checked:
    """What a check found. `unheld` says what could not be checked, empty where all was."""

    problems: tuple[Problem, ...]
    unheld: str = ""
    steps: int = 0


def check(schema: ToolSchema, arguments: dict[str, Any]) -> Checked:
    """At most `MAX_PROBLEMS` problems. `arguments` must be plain JSON (see `plain.py`)."""
    checker = _Checker()
    try:
        checker.explain(schema.root, arguments, "$", 0)
    except _Enough as end:
        if str(end):
            checker.unheld = str(end)
    except RecursionError:
        checker.unheld = "the schema is nested too deeply to be checked"
    found = dict.fromkeys(checker.problems)
    return Checked(tuple(sorted(found, key=lambda each: each.place)), checker.unheld, checker.steps)


class _Enough(Exception):
    """The check is over; a message says which limit was reached."""


class _Checker:
    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self.steps = 0
        self.unheld = ""
        self._pattern_seconds = MAX_PATTERN_SECONDS
        self._known: dict[tuple[int, int], bool] = {}
        self._enums: dict[int, frozenset[Any]] = {}
        self._matched: dict[tuple[int, str], bool | None] = {}

    # --- two ways to ask: whether a value fits, and why it does not ---

    def fits(self, node: Node, value: Any, level: int) -> bool:
        """Whether the value fits. Asked once for each node and value: branches may share both."""
        if node.always is not None:
            return node.always
        key = (id(node), id(value))
        known = self._known.get(key)
        if known is None:
            self._step(level)
            known = not any(True for _ in self._faults(node, value, level))
            self._known[key] = known
        return known

    def explain(self, node: Node, value: Any, place: str, level: int) -> None:
        """Add what is wrong with the value. Raises `_Enough` when that is enough."""
        if self.fits(node, value, level):
            return
        self._step(level)
        if node.always is False:
            self._add(place, "nothing may stand here")
            return
        for message, inside, part, step in self._faults(node, value, level):
            if inside is None:
                self._add(place, message)
            else:
                before = len(self.problems)
                self.explain(inside, part, joined(place, step), level + 1)
                if len(self.problems) == before:
                    self._add(joined(place, step), message)

    def _add(self, place: str, message: str) -> None:
        self.problems.append(Problem(place, message[:300]))
        if len(self.problems) >= MAX_PROBLEMS:
            raise _Enough

    def _step(self, level: int, cost: int = 1) -> None:
        self.steps += cost
        if self.steps > MAX_STEPS:
            raise _Enough("the arguments are too large for this schema to be checked as a whole")
        if level > _MAX_LEVELS:
            raise _Enough("the schema is nested too deeply to be checked")

    # --- one node ---

    def _faults(
        self, node: Node, value: Any, level: int
    ) -> Iterator[tuple[str, Node | None, Any, str | int | None]]:
        """(message, None, ...) for each fault, or (message, node, value, step) of one inside."""
        if node.types is not None and not any(is_a(value, kind) for kind in node.types):
            wanted = " or ".join(f"{kind!r}" for kind in sorted(node.types))
            yield f"{show(value)} is not of type {wanted}", None, None, None
            return
        if (node.const or node.enum is not None) and (fault := self._values(node, value, level)):
            yield fault, None, None, None
        if isinstance(value, str):
            faults: Iterator[Any] = self._text(node, value)
        elif isinstance(value, bool):
            faults = iter(())
        elif isinstance(value, int | float):
            faults = check_number(node, value)
        elif isinstance(value, dict):
            faults = self._object(node, value, level)
        elif isinstance(value, list):
            faults = self._array(node, value, level)
        else:
            faults = iter(())
        yield from faults
        yield from self._combined(node, value, level)
        if isinstance(value, dict) and node.unevaluated_properties is not None:
            yield from self._unevaluated_properties(node, value, level)
        if isinstance(value, list) and node.unevaluated_items is not None:
            yield from self._unevaluated_items(node, value, level)

    def _values(self, node: Node, value: Any, level: int) -> str:
        key = self._key(value, level)
        if node.const and self._key(node.const[0], level) != key:
            return f"{show(value)} is not {show(node.const[0])}"
        if node.enum is None:
            return ""
        allowed = self._enums.get(id(node))
        if allowed is None:
            allowed = frozenset(self._key(each, level) for each in node.enum)
            self._enums[id(node)] = allowed
        if key in allowed:
            return ""
        shown = ", ".join(show(each) for each in node.enum[:8])
        more = f" and {len(node.enum) - 8} others" if len(node.enum) > 8 else ""
        return f"{show(value)} is not one of [{shown[:200]}]{more}"

    def _text(self, node: Node, value: str) -> Iterator[Any]:
        yield from check_count(node, "Length", len(value), f"{show(value)} is", "characters")
        if node.pattern is not None and self._search(node.pattern, value) is False:
            yield (
                f"{show(value)} does not match {node.pattern.source!r:.100}",
                None,
                None,
                None,
            )

    def _object(self, node: Node, value: dict[str, Any], level: int) -> Iterator[Any]:
        yield from check_count(node, "Properties", len(value), "it has", "properties")
        for name in node.required:
            self._step(level)
            if name not in value:
                yield f"{name!r:.80} is a required property", None, None, None
        for name, wanted in node.dependent_required.items():
            for other in wanted if name in value else ():
                self._step(level)
                if other not in value:
                    yield f"{other!r:.80} is required beside {name!r:.80}", None, None, None
        for name, child in node.dependent_schemas.items():
            if name in value and not self.fits(child, value, level + 1):
                yield f"it does not fit what {name!r:.80} asks for", child, value, None
        for name, part in value.items():
            self._step(level)
            if node.property_names is not None and not self.fits(
                node.property_names, name, level + 1
            ):
                yield f"the name {name!r:.80} is not allowed", None, None, None
            own = node.properties.get(name)
            matched: bool | None = own is not None
            if own is not None and not self.fits(own, part, level + 1):
                yield "it does not fit", own, part, name
            for pattern, child in node.pattern_properties:
                found = None if pattern is None else self._search(pattern, name)
                if found and not self.fits(child, part, level + 1):
                    yield "it does not fit", child, part, name
                if not matched:
                    matched = found if found else (None if found is None else matched)
            if matched is False and node.additional_properties is not None:
                yield from self._additional(node, node.additional_properties, name, part, level)

    def _additional(
        self, node: Node, child: Node, name: str, part: Any, level: int
    ) -> Iterator[Any]:
        if self.fits(child, part, level + 1):
            return
        if child.always is False:
            known = ", ".join(f"{each!r:.40}" for each in list(node.properties)[:12])
            there = f"; there are {known}" if known else ""
            yield f"there is no property {name!r:.80}{there}", None, None, None
        else:
            yield "it does not fit", child, part, name

    def _array(self, node: Node, value: list[Any], level: int) -> Iterator[Any]:
        yield from check_count(node, "Items", len(value), "it has", "items")
        for place, part in enumerate(value):
            if place < len(node.prefix_items):
                child: Node | None = node.prefix_items[place]
            else:
                child = node.items
            if child is None:
                break
            self._step(level)
            if not self.fits(child, part, level + 1):
                if child.always is False:
                    most = len(node.prefix_items)
                    yield f"it has {len(value)} items, at most {most}", None, None, None
                    break
                yield "it does not fit", child, part, place
        if node.unique_items:
            seen = set()
            for place, part in enumerate(value):
                key = self._key(part, level)
                if key in seen:
                    yield f"item {place}, {show(part)}, is there twice", None, None, None
                    break
                seen.add(key)
        if node.contains is not None:
            least = node.counts.get("minContains", 1)
            most = node.counts.get("maxContains", len(value))
            found = sum(self.fits(node.contains, part, level + 1) for part in value)
            if not least <= found <= most:
                yield f"{found} items are of the kind that it must contain", None, None, None

    def _combined(self, node: Node, value: Any, level: int) -> Iterator[Any]:
        for child in node.all_of:
            if not self.fits(child, value, level + 1):
                yield "it does not fit", child, value, None
        if node.any_of and not any(self.fits(each, value, level + 1) for each in node.any_of):
            yield self._no_branch(node.any_of, value)
        if node.one_of:
            fitting = 0
            for child in node.one_of:
                fitting += self.fits(child, value, level + 1)
                if fitting > 1:
                    break
            if fitting == 0:
                yield self._no_branch(node.one_of, value)
            elif fitting > 1:
                yield f"{show(value)} fits more than one alternative", None, None, None
        if node.not_ is not None and self.fits(node.not_, value, level + 1):
            yield f"{show(value)} is what it must not be", None, None, None
        if node.if_ is not None:
            branch = node.then if self.fits(node.if_, value, level + 1) else node.else_
            if branch is not None and not self.fits(branch, value, level + 1):
                yield "it does not fit", branch, value, None

    @staticmethod
    def _no_branch(branches: list[Node], value: Any) -> tuple[str, Node | None, Any, None]:
        """No alternative fits; the one for this type of value, if it is alone, says why."""
        near = [
            each
            for each in branches
            if each.always is None
            and (each.types is None or any(is_a(value, kind) for kind in each.types))
        ]
        message = f"{show(value)} fits none of the {len(branches)} alternatives"
        if len(near) == 1:
            return message, near[0], value, None
        if not near:
            kinds = sorted({kind for each in branches for kind in each.types or ()})
            wanted = " or ".join(f"{kind!r}" for kind in kinds)
            return f"{show(value)} is not of type {wanted}", None, None, None
        return message, None, None, None

    # --- what is left over ---

    def _unevaluated_properties(
        self, node: Node, value: dict[str, Any], level: int
    ) -> Iterator[Any]:
        child = node.unevaluated_properties
        assert child is not None
        seen = self._evaluated(node, value, level, own=True)
        if seen is _ALL:
            return
        for name, part in value.items():
            if name not in seen:
                yield from self._additional(node, child, name, part, level)

    def _unevaluated_items(self, node: Node, value: list[Any], level: int) -> Iterator[Any]:
        child = node.unevaluated_items
        assert child is not None
        seen = self._evaluated(node, value, level, own=True)
        if seen is _ALL:
            return
        for place, part in enumerate(value):
            if place not in seen and not self.fits(child, part, level + 1):
                yield f"item {place} may not stand here", None, None, None

    def _evaluated(self, node: Node, value: Any, level: int, *, own: bool = False) -> Any:
        """Names (or places) of the value that the node says something about, or `_ALL`."""
        self._step(level)
        if node.always is not None:
            return set()
        if not own and (
            node.unevaluated_properties if isinstance(value, dict) else node.unevaluated_items
        ):
            return _ALL
        seen: set[Any] = set()
        if isinstance(value, dict):
            if node.additional_properties is not None:
                return _ALL
            for name in value:
                if name in node.properties or any(
                    pattern is None or self._search(pattern, name) is not False
                    for pattern, _ in node.pattern_properties
                ):
                    seen.add(name)
        else:
            if node.items is not None:
                return _ALL
            seen |= set(range(len(node.prefix_items)))
            if node.contains is not None:
                for place, part in enumerate(value):
                    if self.fits(node.contains, part, level + 1):
                        seen.add(place)
        for child in self._fitting_in_place(node, value, level):
            more = self._evaluated(child, value, level + 1)
            if more is _ALL:
                return _ALL
            self._step(level, len(more))
            seen |= more
        return seen

    def _fitting_in_place(self, node: Node, value: Any, level: int) -> Iterator[Node]:
        for child in (*node.all_of, *node.any_of, *node.one_of):
            if self.fits(child, value, level + 1):
                yield child
        if node.if_ is not None:
            if self.fits(node.if_, value, level + 1):
                yield node.if_
                if node.then is not None:
                    yield node.then
            elif node.else_ is not None:
                yield node.else_
        if isinstance(value, dict):
            yield from (child for name, child in node.dependent_schemas.items() if name in value)

    # --- values ---

    def _search(self, pattern: Pattern, text: str) -> bool | None:
        key = (id(pattern), text)
        if key not in self._matched:
            self._step(0, 1 + len(text) // 1_000)
            began = time.monotonic()
            found = pattern.search(text, min(SECONDS, self._pattern_seconds))
            took = time.monotonic() - began
            if took > 0.005:  # what is quick is free, so that a slow machine decides nothing
                self._pattern_seconds -= took
            if found is None:
                self.unheld = f"{pattern.source!r:.80} takes too long on what was written"
            self._matched[key] = found
        return self._matched[key]

    def _key(self, value: Any, level: int) -> Any:
        """Equal for values that are equal as JSON: 1 is 1.0 and no true."""
        self._step(level)
        if isinstance(value, bool) or value is None:
            return (type(value).__name__, value)
        if isinstance(value, int):
            return ("number", hex(value))  # hashes of numbers can be made to collide
        if isinstance(value, float):
            return ("number", hex(int(value)) if value.is_integer() else repr(value))
        if isinstance(value, dict):
            return frozenset((name, self._key(part, level)) for name, part in value.items())
        if isinstance(value, list):
            return tuple(self._key(part, level) for part in value)
        return value
