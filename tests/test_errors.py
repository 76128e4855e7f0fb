"""Errors of ours: each has a code of its own, the page lists it, and no source reads the words."""

from __future__ import annotations

import ast
import importlib
import re
from functools import cache
from pathlib import Path

import pytest

import perilune
from perilune.errors import (
    ChatError,
    ContextLengthError,
    GrammarError,
    PeriluneError,
    RequestError,
    request_error,
)

SOURCE = Path(perilune.__file__).parent
PAGE = Path(__file__).parents[1] / "docs" / "errors.md"


@cache
def sources() -> dict[str, ast.Module]:
    """Path below the package -> syntax tree, of every file of ours."""
    return {
        str(file.relative_to(SOURCE)): ast.parse(file.read_text("utf-8"))
        for file in sorted(SOURCE.rglob("*.py"))
    }


def error_classes() -> dict[str, str]:
    """Name -> file of the classes that derive, by the text of the sources, from PeriluneError."""
    bases: dict[str, set[str]] = {}
    places: dict[str, str] = {}
    for path, tree in sources().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                bases[node.name] = {ast.unparse(base).rpartition(".")[2] for base in node.bases}
                places[node.name] = path
    ours = {"PeriluneError"}
    while more := {name for name, of in bases.items() if of & ours} - ours:
        ours |= more
    return {name: places[name] for name in ours}


def documented() -> dict[str, str]:
    """code -> class, as the page's table says."""
    rows = re.findall(r"^\| `(\w+)` \| `(\w+)` \|", PAGE.read_text("utf-8"), re.M)
    assert len(dict(rows)) == len(rows)
    return dict(rows)


def test_every_error_has_a_code_of_its_own_and_a_line_on_the_page() -> None:
    kinds = []
    for name, path in error_classes().items():
        module = "perilune." + path.removesuffix(".py").replace("/", ".")
        kinds.append(getattr(importlib.import_module(module), name))
    for kind in kinds:
        assert issubclass(kind, PeriluneError)
        assert "code" in vars(kind), f"{kind.__name__} has no code of its own"
        assert re.fullmatch(r"[a-z][a-z_]+", kind.code)
    assert {kind.code: kind.__name__ for kind in kinds} == documented()
    assert len(documented()) == len(kinds)


WORDS = {"startswith", "endswith", "find", "index", "partition", "rpartition", "lower", "count"}
SEARCHES = {"search", "match", "fullmatch", "findall"}
CAUGHT = {"error", "exc", "err", "e", "failure", "problem", "refusal", "caught"}
# Messages of foreign libraries, which have no codes: sqlite3's, torch's and Pillow's.
FOREIGN = {"journal.py", "life.py", "pictures.py"}


def reads_words(tree: ast.Module) -> list[int]:
    """Lines where the message of an error decides something."""

    def is_own_message(node: ast.expr) -> bool:
        return (
            isinstance(node, ast.Attribute)
            and node.attr == "message"
            and ast.unparse(node.value) in CAUGHT
        )

    def is_message(node: ast.expr) -> bool:
        return is_own_message(node) or (
            isinstance(node, ast.Call)
            and ast.unparse(node.func) == "str"
            and len(node.args) == 1
            and ast.unparse(node.args[0]) in CAUGHT
        )

    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            if any(map(is_message, sides)):
                found.append(node.lineno)
        elif isinstance(node, ast.Call):
            method = node.func
            if isinstance(method, ast.Attribute) and (
                (method.attr in WORDS and is_own_message(method.value))
                or (method.attr in SEARCHES and any(map(is_message, node.args)))
            ):
                found.append(node.lineno)
    return found


def test_no_source_tests_the_words_of_an_error() -> None:
    for path, tree in sources().items():
        lines = reads_words(tree)
        if Path(path).name not in FOREIGN:
            assert not lines, f"{path}:{lines}: ask for the error's class or its code"


@pytest.mark.parametrize(
    "line",
    [
        'kind = "context" if "context" in error.message else "request"',
        'if "grammar" not in error.message: pass',
        'place = error.message.partition(": ")[0]',
        'if "binary" in str(error): pass',
        'if re.search("x", error.message): pass',
        "low = error.message.lower()",
    ],
)
def test_the_rule_sees_what_was_there(line: str) -> None:
    assert reads_words(ast.parse(line))


@pytest.mark.parametrize("kind", [RequestError, ContextLengthError, GrammarError])
def test_a_refusal_comes_whole_out_of_its_parts(kind: type[RequestError]) -> None:
    sent = kind("no", param="prompt", remedy="Shorten it")
    read = request_error(sent.code, sent.message, param=sent.param, remedy=sent.remedy)
    assert type(read) is kind
    assert (str(read), read.param, read.remedy) == (str(sent), "prompt", "Shorten it")


def test_an_unknown_code_is_a_plain_refusal() -> None:
    assert type(request_error("of a newer version", "no")) is RequestError


def test_a_place_in_a_conversation_is_a_field_and_begins_the_message() -> None:
    error = ChatError("is missing", param="messages[2].content")
    assert (error.param, error.message) == (
        "messages[2].content",
        "messages[2].content: is missing",
    )
