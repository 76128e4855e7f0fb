"""The tools of a run by name: arguments are checked against the schema before a call."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from perilune.agent.schema import ToolSchema, UnusableSchema, read_arguments, read_schema
from perilune.agent.tool import TOOL_NAME, Tool
from perilune.errors import ToolError, UsageError
from perilune.events import ToolLeftOut
from perilune.text import valid_text


class UnusableTool(UsageError):
    """A tool that cannot be offered to a model: its name, or its schema."""

    code = "unusable_tool"


class ToolRegistry:
    """The tools of a run by name: declared to the model, checked before every call.

    A tool with a true attribute `deferred` can be called but is not declared until `reveal` names
    it; that is for tool sets whose schemas would fill the window. `left_out` lists the tools that
    `add_usable` could not take, with the reason.
    """

    def __init__(self, tools: Iterable[Tool] = ()) -> None:
        self._tools: dict[str, Tool] = {}
        self._schemas: dict[str, ToolSchema] = {}
        self._deferred: set[str] = set()
        self.left_out: list[ToolLeftOut] = []
        for each in tools:
            self.add(each)

    def add(self, new: Tool) -> None:
        """Add a tool. Raises `UnusableTool` for a name that is taken or that no API takes, and for
        a schema that cannot be used."""
        if why := getattr(new, "unusable", ""):
            raise UnusableTool(f"tool {new.name!r:.80}: {why}")
        if new.name in self._tools:
            raise UnusableTool(f"there are two tools called {new.name!r}")
        try:
            schema = read_schema(new.parameters)
        except UnusableSchema as error:
            message = (
                f"tool {new.name!s:.80}: its parameters are not a JSON schema: {error.message}"
            )
            raise UnusableTool(message) from None
        if not isinstance(new.name, str) or not TOOL_NAME.fullmatch(new.name):
            raise UnusableTool(
                f"tool {new.name!r:.80}: no API takes that name",
                remedy="Name it with 1 to 64 of the characters a-z, A-Z, 0-9, _ and -.",
            )
        self._tools[new.name] = new
        self._schemas[new.name] = schema
        if getattr(new, "deferred", False):
            self._deferred.add(new.name)

    def add_usable(self, new: Tool) -> None:
        """Add a tool, or note in `left_out` why it cannot be used. Raises nothing."""
        try:
            self.add(new)
        except UnusableTool as error:
            name = valid_text(str(getattr(new, "title", "") or new.name))[:80]
            self.left_out.append(ToolLeftOut(name=name, reason=valid_text(str(error))[:500]))

    def reveal(self, name: str) -> None:
        """Declare a deferred tool from the next step on."""
        self._deferred.discard(name)

    def __getitem__(self, name: str) -> Tool:
        return self._tools[name]

    def get(self, name: str) -> Tool | None:
        return self._tools.get(name)

    def __contains__(self, name: object) -> bool:
        return name in self._tools

    def __iter__(self) -> Iterator[Tool]:
        return iter(self._tools.values())

    def __len__(self) -> int:
        return len(self._tools)

    @property
    def names(self) -> list[str]:
        return list(self._tools)

    @property
    def notes(self) -> list[str]:
        """The constraints of schemas that are not held, and why."""
        return [f"{name}: {note}" for name, read in self._schemas.items() for note in read.notes]

    def declarations(self) -> list[dict[str, Any]]:
        """The declared tools in OpenAI's shape, in the order in which they were added."""
        return [
            declaration(each, self._schemas[each.name].declared)
            for each in self
            if each.name not in self._deferred
        ]

    def parse_arguments(
        self, name: str, text: str, note: Callable[[str], None] | None = None
    ) -> dict[str, Any]:
        """The arguments of a call, checked against the tool's schema.

        `note` is told what could not be checked in time. Raises `ToolError` with a message for the
        model: unknown tool, no JSON object, or each place where the arguments break the schema.
        """
        if name not in self._tools:
            known = ", ".join(self._tools)[:2_000] or "none"
            raise ToolError(f"there is no tool called {name!r:.200}. Tools: {known}")
        return read_arguments(name, self._schemas[name], text, note)


def declaration(each: Tool, parameters: dict[str, Any] | None = None) -> dict[str, Any]:
    """One tool in OpenAI's shape; `parameters` instead of its own."""
    return {
        "type": "function",
        "function": {
            "name": each.name,
            "description": valid_text(each.description),
            "parameters": each.parameters if parameters is None else parameters,
        },
    }
