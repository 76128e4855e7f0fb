"""What the pages put in code marks is there: files, modules, classes, functions, verbs, flags.

A mark is checked when it looks like one of these; anything else (values, fields of a request,
text of examples) is not looked at. docs/log.md tells of what was, and is left out.
"""

from __future__ import annotations

import ast
import re
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

import perilune
from perilune.cli.main import VERBS

ROOT = Path(__file__).parents[1]
HISTORY = {"log.md"}
PAGES = [
    *(page for page in sorted((ROOT / "docs").glob("*.md")) if page.name not in HISTORY),
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
]
FOLDERS = ("src", "tests", "scripts", "benchmarks", "docs")
SOURCE_KINDS = ("py", "c", "h", "sh")

# Names of others that the pages speak of, and names that stand for a user's own.
OF_OTHERS = {
    "./run.sh", "setup.py", "noxfile.py", "transcripts/",
    "ChatOpenAI", "ToolCallingAgent", "ToolOutput", "NativeOutput",
}  # fmt: skip
FLAGS_OF_OTHERS = {"--hypothesis-seed", "--no-gpg-sign", "--die-with-parent"}


def marks(text: str) -> list[str]:
    """Everything in code marks, without blocks of code."""
    prose = re.sub(r"^ *```.*?^ *```", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"`([^`\n]+)`", prose)


@cache
def files() -> frozenset[str]:
    """Paths of all files and folders (with a slash) of the repository's own."""
    found = {path.name for path in ROOT.iterdir() if path.is_file()}
    for folder in FOLDERS:
        for path in (ROOT / folder).rglob("*"):
            if "__pycache__" not in path.parts:
                found.add(str(path.relative_to(ROOT)) + ("/" if path.is_dir() else ""))
        found.add(f"{folder}/")
    return frozenset(found)


@cache
def endings() -> frozenset[str]:
    """Every path from each of its parts on: `engine/load.py` is `src/perilune/engine/load.py`."""
    found = set()
    for path in files():
        parts = path.rstrip("/").split("/")
        tail = "/" if path.endswith("/") else ""
        found |= {"/".join(parts[i:]) + tail for i in range(len(parts))}
    return frozenset(found)


@cache
def definitions() -> dict[str, set[str]]:
    """Name of every class and function -> names of what a class holds, its bases' too."""
    found: dict[str, set[str]] = {}
    bases: dict[str, set[str]] = {}
    for folder in ("src", "tests", "benchmarks", "scripts"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.ClassDef):
                    found.setdefault(node.name, set()).update(_held(node))
                    bases[node.name] = {ast.unparse(base).rpartition(".")[2] for base in node.bases}
                elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    found.setdefault(node.name, set())
                elif isinstance(node, ast.Assign):
                    for target in node.targets:
                        if isinstance(target, ast.Name):
                            found.setdefault(target.id, set())
    for name in bases:
        pending = list(bases[name])
        while pending:
            base = pending.pop()
            found[name] |= found.get(base, set())
            pending += bases.pop(base, set()) if base == name else bases.get(base, set())
    return found


def _held(node: ast.ClassDef) -> set[str]:
    """Methods, fields and attributes that `__init__` sets."""
    names = set()
    for part in ast.walk(node):
        match part:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                names.add(name)
            case (
                ast.AnnAssign(target=ast.Name(id=name))
                | ast.AnnAssign(target=ast.Attribute(attr=name))
            ):
                names.add(name)
            case ast.Assign(targets=targets):
                names |= {t.id for t in targets if isinstance(t, ast.Name)}
                names |= {t.attr for t in targets if isinstance(t, ast.Attribute)}
    return names


@cache
def commands() -> dict[str, Any]:
    """Every verb as click knows it, `models show` under both words."""
    found = {}
    for verb, (module, _) in VERBS.items():
        command = get_command(import_module(module).app)
        found[verb] = command
        for name, inner in getattr(command, "commands", {}).items():
            found[f"{verb} {name}"] = inner
    return found


def flags_of(command: Any) -> set[str]:
    own = {flag for each in command.params for flag in [*each.opts, *each.secondary_opts]}
    return own | {"--help"}


@cache
def flags_of_scripts() -> frozenset[str]:
    """Flags that our scripts, benchmarks and tests read."""
    found: set[str] = set()
    for folder in ("scripts", "benchmarks", "tests"):
        for path in (ROOT / folder).rglob("*.py"):
            found |= set(re.findall(r"add_\w+\(\s*\"(--[a-z-]+)\"", path.read_text("utf-8")))
    return frozenset(found)


# --- what is wrong with one mark -----------------------------------------------------------------


def fault(mark: str) -> str | None:
    """Why a mark names nothing; None where it does, or is no name of ours to begin with."""
    mark = mark.strip()
    if "::" in mark and mark.startswith("tests/"):
        return _test_fault(*mark.split("::", 1))
    if re.fullmatch(rf"[\w./-]+\.({'|'.join(SOURCE_KINDS)})", mark):
        return None if mark in endings() or mark in OF_OTHERS else "no such file"
    if re.fullmatch(r"(?:src|docs|tests|scripts|benchmarks)/[\w./-]+\.\w+", mark):
        return None if mark in files() else "no such file"
    if re.fullmatch(r"[a-z][\w-]*(?:/[\w-]+)*/", mark):
        return None if mark in endings() or mark in OF_OTHERS else "no such folder"
    if re.fullmatch(r"perilune(?:\.\w+)+", mark):
        return _dotted_fault(mark)
    if re.match(r"perilune [a-z]", mark):
        return _command_fault(mark)
    if re.match(r"--[a-z]", mark):
        return _flag_fault(mark.split()[0].split("=")[0])
    return _name_fault(mark)


def _test_fault(file: str, name: str) -> str | None:
    if file not in files():
        return "no such file"
    text = (ROOT / file).read_text("utf-8")
    found = re.search(rf"^\s*(?:async )?def {name.partition('[')[0]}\(", text, re.MULTILINE)
    return None if found else "no such test"


def _dotted_fault(dotted: str) -> str | None:
    parts = dotted.split(".")
    for size in range(len(parts), 0, -1):
        try:
            value = import_module(".".join(parts[:size]))
        except ModuleNotFoundError:
            continue
        for part in parts[size:]:
            if not hasattr(value, part):
                return f"{value} has no {part}"
            value = getattr(value, part)
        return None
    return "no such module"


def _command_fault(line: str) -> str | None:
    words = re.sub(r"'[^']*'|\"[^\"]*\"", "X", line).split()[1:]
    if words[0] not in VERBS:
        return f"no verb {words[0]}"
    command, rest = commands()[words[0]], words[1:]
    inner = getattr(command, "commands", None)
    if inner and rest and re.fullmatch(r"[a-z|-]+", rest[0]) and not rest[0].startswith("-"):
        for name in rest[0].split("|"):
            if name not in inner:
                return f"{words[0]} has no command {name}"
        command = inner[rest[0].split("|")[0]]
    for word in rest:
        flag = word.strip("[]").split("=")[0]
        if flag.startswith("--") and flag not in flags_of(command):
            return f"{command.name} has no flag {flag}"
    return None


def _flag_fault(flag: str) -> str | None:
    known = any(flag in flags_of(command) for command in commands().values())
    known = known or flag in flags_of_scripts() or flag in FLAGS_OF_OTHERS
    return None if known else "no such flag"


def _name_fault(mark: str) -> str | None:
    """`SomeClass`, `SomeClass.part`, `SomeClass(...)`, `some_function(...)`."""
    match = re.fullmatch(r"([A-Za-z_]\w*)(?:\.(\w+))?(\(.*\))?", mark)
    if match is None:
        return None
    name, part, call = match.groups()
    is_class = re.fullmatch(r"(?:[A-Z][a-z0-9]+){2,}[A-Za-z]*", name) is not None
    if not is_class and (call is None or part is not None or "_" not in name):
        return None
    if name in OF_OTHERS:
        return None
    if name not in definitions():
        return "no such class or function"
    if part and part not in definitions()[name]:
        return f"{name} has no {part}"
    return None


# --- what is called ------------------------------------------------------------------------------


@cache
def reached() -> frozenset[str]:
    """Files of the package that the command line or the public names lead to.

    Followed are all imports, those inside functions too, and names of modules as text: the verbs,
    and modules that are started as processes.
    """
    source = ROOT / "src"
    modules = {
        str(path.relative_to(source))
        .removesuffix(".py")
        .removesuffix("/__init__")
        .replace("/", "."): path
        for path in (source / "perilune").rglob("*.py")
    }
    seen: set[str] = set()
    pending = ["perilune", "perilune.__main__", "perilune.cli.main"]
    while pending:
        module = pending.pop()
        if module in seen or module not in modules:
            continue
        seen.add(module)
        package = module if modules[module].name == "__init__.py" else module.rpartition(".")[0]
        for node in ast.walk(ast.parse(modules[module].read_text("utf-8"))):
            match node:
                case ast.Import(names=names):
                    pending += [each.name for each in names]
                case ast.ImportFrom(module=name, names=names, level=level):
                    base = name or ""
                    if level:
                        above = package.split(".")
                        above = above[: len(above) - level + 1]
                        base = ".".join([*above, *([name] if name else [])])
                    pending += [base, *(f"{base}.{each.name}" for each in names)]
                case ast.Constant(value=str(text)) if text.startswith("perilune."):
                    pending += [text, *(f"{text}.{tail}" for tail in ("__main__", "app"))]
                case ast.Constant(value=str(text)) if text.endswith(".py"):
                    pending.append(f"{package}.{text.removesuffix('.py')}")  # run as a file
                case ast.JoinedStr():
                    started = re.match(r"f'(perilune\.[\w.]+)\.\{", ast.unparse(node))
                    if started:  # one of a folder's modules, by its name
                        pending += [each for each in modules if each.startswith(started[1] + ".")]
    return frozenset(str(modules[each].relative_to(ROOT)) for each in seen)


# --- tests ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_name_of_the_page_is_there(page: Path) -> None:
    wrong = {mark: why for mark in marks(page.read_text("utf-8")) if (why := fault(mark))}
    assert not wrong


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_page_describes_code_that_is_not_called(page: Path) -> None:
    for mark in marks(page.read_text("utf-8")):
        if not re.fullmatch(r"[\w./-]+\.py", mark) or mark.startswith(("tests/", "test_")):
            continue
        meant = {path for path in files() if f"/{path}".endswith(f"/{mark}")}
        ours = {path for path in meant if path.startswith("src/")}
        if ours and ours == meant:
            assert ours & reached(), f"{mark} is not called by the package"


@pytest.mark.parametrize(
    "mark",
    [
        "kernels/modules.py",
        "tests/test_house.py::test_nothing_like_this",
        "src/perilune/nowhere/",
        "docs/nothing.md",
        "perilune.engine.Nothing",
        "perilune fly",
        "perilune models fly DIR",
        "perilune doctor --fly",
        "--fly-to-the-moon",
        "NoSuchClass",
        "EngineOptions.no_such_field",
        "no_such_function()",
    ],
)
def test_a_name_that_is_not_there_is_found(mark: str) -> None:
    assert fault(mark)


@pytest.mark.parametrize(
    "mark",
    [
        "engine/load.py",
        "tests/test_house.py::test_importing_the_package_is_light",
        "src/perilune/engine/",
        "perilune.errors.PeriluneError",
        "perilune.Agent",
        "perilune models show DIR",
        "perilune bench decode|prefill [--json]",
        "--demo",
        "Scheduler.schedule",
        "load_engine(folder)",
        "max_tokens",
        "nothing of ours",
    ],
)
def test_a_name_that_is_there_is_none_to_complain_of(mark: str) -> None:
    assert fault(mark) is None


def test_the_lists_of_names_of_others_are_needed() -> None:
    said = {mark for page in PAGES for mark in marks(page.read_text("utf-8"))}
    words = {word for mark in said for word in re.findall(r"[\w./-]+", mark)}
    assert words | said >= (OF_OTHERS | FLAGS_OF_OTHERS)
    for name in OF_OTHERS:
        assert name not in definitions() and name not in endings(), f"{name} is ours"


def test_the_package_is_the_one_of_this_repository() -> None:
    assert Path(perilune.__file__).is_relative_to(ROOT / "src")
