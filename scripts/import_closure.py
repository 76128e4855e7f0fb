"""How many files of ours one has to open to understand a module: what it imports, and so on.

    python scripts/import_closure.py [MODULE ...] [--against CHECKOUT] [--files]

Counted are the files that `import` statements at the top of files name, followed from file to file
within the package; not what stands under TYPE_CHECKING, and not what a function imports when it is
called. `from package import name` opens the submodule of that name, or the package's own file where
the name is defined there. Without a module: those whose numbers CONTRIBUTING holds.

A module that has another name in the other checkout is given as HERE=THERE.
"""

from __future__ import annotations

import argparse
import ast
from pathlib import Path

DEFAULT = (
    "perilune.engine.scheduler",
    "perilune.runner.torch_runner=perilune.engine.torch_forward",
    "perilune.agent.loop.loop",
)


class Sources:
    """The package of one checkout."""

    def __init__(self, root: Path) -> None:
        self._source = root / "src"
        self._imports: dict[str, set[str]] = {}

    def file(self, module: str) -> Path | None:
        place = self._source.joinpath(*module.split("."))
        for path in (place.with_suffix(".py"), place / "__init__.py"):
            if path.is_file():
                return path
        return None

    def imports(self, module: str) -> set[str]:
        """Modules of the package that the top of this one names."""
        if module not in self._imports:
            path = self.file(module)
            assert path is not None, module
            found: set[str] = set()
            self._collect(ast.parse(path.read_text("utf-8")).body, module, found)
            self._imports[module] = found - {module}
        return self._imports[module]

    def closure(self, module: str) -> set[str]:
        """The module and all that has to be opened with it."""
        if self.file(module) is None:
            raise SystemExit(f"there is no {module} in {self._source}")
        seen: set[str] = set()
        pending = [module]
        while pending:
            each = pending.pop()
            if each not in seen:
                seen.add(each)
                pending += self.imports(each)
        return seen

    def _collect(self, body: list[ast.stmt], module: str, found: set[str]) -> None:
        for node in body:
            match node:
                case ast.Import(names=names):
                    found |= {n.name for n in names if self._is_ours(n.name)}
                case ast.ImportFrom(module=name, names=names, level=level):
                    base = self._base(module, name, level)
                    if self._is_ours(base):
                        for each in names:
                            inner = f"{base}.{each.name}"
                            found.add(inner if self.file(inner) else base)
                case ast.If(test=test) if "TYPE_CHECKING" in ast.unparse(test):
                    self._collect(node.orelse, module, found)
                case ast.If() | ast.Try() | ast.With():
                    for part in ("body", "orelse", "finalbody"):
                        self._collect(getattr(node, part, []), module, found)

    def _base(self, module: str, name: str | None, level: int) -> str:
        if not level:
            return name or ""
        path = self.file(module)
        parts = module.split(".")
        drop = level - 1 if path is not None and path.name == "__init__.py" else level
        return ".".join([*parts[: len(parts) - drop], *([name] if name else [])])

    def _is_ours(self, module: str) -> bool:
        return module.split(".")[0] == "perilune" and self.file(module) is not None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("modules", nargs="*", default=DEFAULT)
    parser.add_argument("--against", type=Path, help="another checkout, for a second column")
    parser.add_argument("--files", action="store_true", help="name the files")
    options = parser.parse_args()
    here = Sources(Path(__file__).resolve().parents[1])
    there = None if options.against is None else Sources(options.against)
    print(f"{'module':45} {'files':>6}" + ("" if there is None else f" {'there':>6}"))
    for given in options.modules:
        module, _, other = given.partition("=")
        opened = here.closure(module)
        line = f"{module:45} {len(opened):6}"
        known = set() if there is None else there.closure(other or module)
        if there is not None:
            line += f" {len(known):6}"
        print(line)
        if options.files:
            for each in sorted(opened):
                print(f"    {'+' if there and each not in known else ' '} {each}")
            for each in sorted(known - opened):
                print(f"    - {each}")


if __name__ == "__main__":
    main()
