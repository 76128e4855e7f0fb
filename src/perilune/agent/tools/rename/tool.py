"""`rename`: one definition and its uses, over all Python files of the workspace."""

from __future__ import annotations

import keyword
from typing import Any

from perilune.agent.tool import ToolContext, ToolResult
from perilune.agent.tools.base import DescribedTool, in_thread, workspace_of
from perilune.agent.workspace.workspace import Workspace
from perilune.errors import ToolError

_LARGEST = 2 << 20
_MOST_LISTED = 20


class Rename(DescribedTool):
    name = "rename"

    async def run(self, arguments: dict[str, Any], context: ToolContext) -> ToolResult:
        return await in_thread(
            _rename,
            workspace_of(context),
            str(arguments["path"]),
            str(arguments["name"]),
            str(arguments["new_name"]),
        )


def _rename(workspace: Workspace, path: str, name: str, new_name: str) -> ToolResult:
    from perilune.agent.tools.rename.symbols import Source, rename_symbol

    leaf = name.rpartition(".")[2]
    if keyword.iskeyword(new_name):
        raise ToolError(f"{new_name} is a word of the language; nothing was changed")
    if new_name == leaf:
        raise ToolError("the new name is the old one; nothing was changed")
    defining = workspace.relative(path)
    files = [f for f in workspace.files() if f.path.endswith((".py", ".pyi"))]
    packages = {f.path.rpartition("/")[0] for f in files if f.path.endswith("__init__.py")}
    sources, stored, unread = [], {}, []
    for file in files:
        if file.size <= _LARGEST:
            try:
                stored[file.path] = workspace.read_text_file(file.path, most=_LARGEST)
            except ToolError as error:
                unread.append(error.message)
                continue
            text = stored[file.path].text
            sources.append(Source(file.path, text, _module(file.path, packages)))
        else:
            unread.append(f"{file.path} has over {_LARGEST >> 20} MiB")
    if defining not in {source.path for source in sources}:
        raise ToolError(f"there is no Python file {path} in the workspace")
    outcome = rename_symbol(sources, defining, name, new_name)
    # All of them first, so that nothing is changed when one cannot hold the new name.
    new = {path: stored[path].with_text(text, path) for path, text in outcome.changed.items()}
    for changed, file_text in new.items():
        workspace.write_bytes(changed, file_text.encode())
    lines = [f"renamed {name} to {new_name}: {outcome.count} places in"]
    lines += [f"  {changed}" for changed in outcome.changed]
    for title, places in (
        ("Not changed, for it cannot be told whether they mean the same; look at them:",
         outcome.unsure),
        ("Not looked at, for they do not parse:", outcome.broken),
        ("Not looked at, for they cannot be read:", unread),
    ):  # fmt: skip
        if places:
            lines.append(title)
            lines += [f"  {place}" for place in places[:_MOST_LISTED]]
            if len(places) > _MOST_LISTED:
                lines.append(f"  and {len(places) - _MOST_LISTED} more")
    return ToolResult("\n".join(lines), files=list(outcome.changed))


def _module(path: str, packages: set[str]) -> str:
    """The name under which a file is imported: from the first folder that is not a package on."""
    folder, _, file = path.rpartition("/")
    names = [] if file == "__init__.py" else [file.rpartition(".")[0]]
    while folder in packages and folder:
        folder, _, last = folder.rpartition("/")
        names.insert(0, last)
    return ".".join(names)
