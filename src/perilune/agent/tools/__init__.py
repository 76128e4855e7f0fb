"""The built-in tools, by name and by set; a tool's module is imported when it is asked for."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module

from perilune.agent.tool import Tool
from perilune.errors import UsageError

# name -> class in `<name>.py`, or in `<name>/tool.py` where a tool has more to it
BUILTIN: dict[str, str] = {
    "plan": "Plan",
    "note": "Note",
    "argue": "Argue",
    "read_file": "ReadFile",
    "write_file": "WriteFile",
    "edit_file": "EditFile",
    "find": "Find",
    "grep": "Grep",
    "outline": "Outline",
    "rename": "Rename",
    "python": "Python",
    "bash": "Bash",
    "run_tests": "RunTests",
    "search": "Search",
    "lookup": "Lookup",
    "fetch": "Fetch",
    "browse": "Browse",
    "chart": "Chart",
    "publish": "Publish",
    "view_image": "ViewImage",
    "render_ui": "RenderUi",
}
_FOLDERS = frozenset({"browse", "publish", "python", "rename", "render_ui", "run_tests"})
_FILES = ("read_file", "write_file", "edit_file", "find", "grep")
_CODE = (*_FILES, "outline", "rename", "python", "bash", "run_tests")
SETS: dict[str, tuple[str, ...]] = {
    "none": (),
    "files": _FILES,
    "code": _CODE,
    "web": ("search", "fetch"),
    "default": ("plan", "note", *_CODE, "search", "fetch", "chart", "view_image"),
    "all": tuple(BUILTIN),
}


def load_tools(names: Iterable[str]) -> list[Tool]:
    """Tools by the names of tools and sets, in order, each once; a name may hold commas.

    Raises `UsageError` for an unknown name.
    """
    wanted: dict[str, None] = {}
    for text in names:
        for name in filter(None, (part.strip() for part in text.split(","))):
            if name in SETS:
                wanted.update(dict.fromkeys(SETS[name]))
            elif name in BUILTIN:
                wanted[name] = None
            else:
                raise UsageError(
                    f"there is no tool and no tool set called {name!r}",
                    remedy=f"Tools: {', '.join(BUILTIN)}. Sets: {', '.join(SETS)}.",
                )
    return [_make(name) for name in wanted]


def tools_by_name(names: str) -> list[Tool]:
    """Tools of a comma-separated list, such as `"search,fetch,python"` or `"code,web"`."""
    return load_tools([names])


def default_tools(*, without: Iterable[str] = ()) -> list[Tool]:
    """The default set, all that needs no extra of the package but `chart`'s, without some names."""
    left_out = set(without)
    return load_tools(name for name in SETS["default"] if name not in left_out)


def _make(name: str) -> Tool:
    place = f"{name}.tool" if name in _FOLDERS else name
    module = import_module(f"perilune.agent.tools.{place}")
    made: Tool = getattr(module, BUILTIN[name])()
    return made
