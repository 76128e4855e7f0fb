"""`outline`: what Python files define, from their syntax trees."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Iterator
from typing import Any

from perilune.agent.tool import ToolContext, ToolResult
from perilune.agent.tools.base import ReadingTool, in_thread, workspace_of
from perilune.agent.workspace.workspace import Workspace
from perilune.errors import ToolError

_MOST_FILES = 300
_LARGEST = 2 << 20


class Outline(ReadingTool):
    name = "outline"

    async def run(self, arguments: dict[str, Any], context: ToolContext) -> ToolResult:
        path = str(arguments.get("path", "."))
        return ToolResult(await in_thread(_outline, workspace_of(context), path))


def _outline(workspace: Workspace, path: str) -> str:
    files = [f.path for f in workspace.files(path) if f.path.endswith((".py", ".pyi"))]
    if not files:
        raise ToolError(f"there is no Python file at {path}")
    single = files == [workspace.relative(path)]
    lines: list[str] = []
    for name in files[:_MOST_FILES]:
        lines.append(name)
        try:
            text = workspace.read_text(name, most=_LARGEST)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                tree = ast.parse(text)
        except (ToolError, SyntaxError, ValueError, RecursionError) as error:
            lines.append(f"  (cannot be parsed: {str(error)[:200]})")
            continue
        lines += _describe(tree, "  ", deep=single)
    if len(files) > _MOST_FILES:
        lines.append(f"[{len(files) - _MOST_FILES} more files; name a folder below]")
    return "\n".join(lines)


def _describe(node: ast.AST, indent: str, *, deep: bool) -> Iterator[str]:
    """Lines for what a module or class defines, also inside conditions."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If | ast.Try):
            yield from _describe(child, indent, deep=deep)
        elif isinstance(child, ast.ClassDef):
            bases = ", ".join(ast.unparse(base) for base in (*child.bases, *child.keywords))
            head = f"class {child.name}" + (f"({bases})" if bases else "")
            yield _line(child, indent, head)
            if deep:
                yield from _describe(child, indent + "  ", deep=deep)
        elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            kind = "async def" if isinstance(child, ast.AsyncFunctionDef) else "def"
            returns = f" -> {ast.unparse(child.returns)}" if child.returns else ""
            yield _line(child, indent, f"{kind} {child.name}({ast.unparse(child.args)}){returns}")
        elif isinstance(child, ast.Assign | ast.AnnAssign) and isinstance(node, ast.Module):
            targets = child.targets if isinstance(child, ast.Assign) else [child.target]
            names = [t.id for t in targets if isinstance(t, ast.Name) and t.id.isupper()]
            if names:
                yield f"{indent}{child.lineno}: {', '.join(names)}"


def _line(
    node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef, indent: str, head: str
) -> str:
    doc = (ast.get_docstring(node) or "").partition("\n")[0]
    line = f"{indent}{node.lineno}-{node.end_lineno}: {head[:200]}"
    return f"{line}  # {doc[:100]}" if doc else line
