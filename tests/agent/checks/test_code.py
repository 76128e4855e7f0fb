"""Code in an answer parses, and runs in the sandbox."""

from __future__ import annotations

from pathlib import Path

import pytest

from perilune.agent.checks.code import Code, blocks
from tests.agent.checks.desk import Desk
from tests.agent.tools.conftest import opened_sandbox  # noqa: F401  (a fixture)


def fenced(text: str, language: str = "python") -> str:
    return f"Here:\n\n```{language}\n{text}\n```\n"


async def judge(folder: Path, answer: str, sandbox=None):
    proposal = Desk(folder).propose(answer)
    proposal.tools.sandbox = sandbox
    return await Code(run=sandbox is not None).examine(proposal)


@pytest.mark.parametrize(
    ("text", "language", "outcome"),
    [
        ("print(1)", "python", "passed"), ("print(1", "py", "failed"),
        ('{"a": 1}', "json", "passed"),
        ('{"a": }', "json", "failed"), ('{"a": ...}', "json", "passed"),
        ("a: [1", "yaml", "failed"),
        ("a = 1", "toml", "passed"), ("a = ", "toml", "failed"), (">>> 1 +\n2", "python", "failed"),
        (">>> 1 + 1\n2", "python", "passed"),
    ],
)  # fmt: skip
async def test_blocks_are_parsed(tmp_path: Path, text: str, language: str, outcome: str):
    check = await judge(tmp_path, fenced(text, language))
    assert check.outcome == outcome


async def test_words_and_other_languages_are_not_judged(tmp_path: Path):
    assert await judge(tmp_path, "no code; `print(` in words") is None
    assert await judge(tmp_path, fenced("fn main() {", "rust")) is None
    assert [b.language for b in blocks(fenced("x") + fenced("y", "sh") + fenced("{}", "json"))] == [
        "python",
        "json",
    ]


@pytest.mark.parametrize(
    ("text", "outcome"),
    [
        ("assert sum(range(5)) == 10", "passed"),
        ("assert sum(range(5)) == 11", "failed"),
        ("print([1, 2][5])", "failed"),
        ("print(result)", "noted"),
        ("import no_such_package", "noted"),
        ("open('data.csv')", "noted"),
        ("input()", "noted"),
        ("import socket; socket.create_connection(('127.0.0.1', 9))", "noted"),
    ],
)
async def test_programs_are_run(tmp_path: Path, opened_sandbox, text: str, outcome: str):  # noqa: F811
    check = await judge(tmp_path, fenced(text), opened_sandbox)
    assert check.outcome == outcome, check


PIECES = [
    ("    return self.total / 2", "python"),
    ("else:\n    x = 1", "python"),
    ("except ValueError as error:\n    log(error)", "python"),
    ("def area(w: float, h: float) -> float:", "python"),
    ("@app.get('/health')\nasync def health():", "python"),
    ("await client.get(url)\nreturn 3", "python"),
    ("%timeit sum(range(10))\n!pip install x", "python"),
    ("print 'hello'", "python"),
    ("client = Client(api_key=<your key>)", "python"),
    ("-    x = 1\n+    x = 2", "python"),
    ("retries=3,\ntimeout=30,", "python"),
    ("x = foo(\n    1,\n    ...", "python"),
    ('// settings.json\n{"a": 1, /* two */ "b": 2,}', "json"),
    ('"scripts": {"test": "vitest"}', "json"),
    ('{"a": 1}\n{"a": 2}', "json"),
    ('{"id": <number>}', "json"),
    ("image: {{ .Values.image }}\n{{- if .x }}\na: 1\n{{- end }}", "yaml"),
    ("key: ${{ secrets.KEY }}", "yaml"),
]


@pytest.mark.parametrize(("text", "language"), PIECES)
async def test_pieces_of_code_are_not_refused(tmp_path: Path, text: str, language: str):
    check = await judge(tmp_path, fenced(text, language))
    assert check.problems == []


async def test_what_the_answer_says_to_be_wrong_may_be_wrong(tmp_path: Path):
    said = "This raises a SyntaxError:\n\n```python\nprint(1\n```\n"
    assert (await judge(tmp_path, said)).problems == []
    commented = "Here:\n\n```python\nx = = 2  # BAD\n```\n"
    assert (await judge(tmp_path, commented)).problems == []
    assert (await judge(tmp_path, fenced("x = = 2"))).outcome == "failed"
    assert (await judge(tmp_path, fenced("foo(1, 2"))).outcome == "failed"
    assert (await judge(tmp_path, fenced("def f(:\n    pass"))).outcome == "failed"


async def test_an_exception_that_the_answer_names_is_no_fault(tmp_path: Path, opened_sandbox):  # noqa: F811
    said = "It ends with an IndexError:\n\n```python\nprint([1, 2][5])\n```\n"
    assert (await judge(tmp_path, said, opened_sandbox)).problems == []
    taken = "Use it:\n\n```python\nimport sys\nprint(sys.argv[1])\n```\n"
    assert (await judge(tmp_path, taken, opened_sandbox)).problems == []
