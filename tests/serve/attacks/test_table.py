"""The table of attacks in `docs/security-tests.md`, and rules that are about the source."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import perilune

from ..scripted import Turn

ROOT = Path(__file__).parents[3]
TABLE = ROOT / "docs" / "security-tests.md"
SOURCE = Path(perilune.__file__).parent


def test_every_attack_is_held_by_tests_that_exist() -> None:
    rows = re.findall(r"^\| (\d+) \|(.*)\|$", TABLE.read_text("utf-8"), re.MULTILINE)
    assert [int(number) for number, _ in rows] == list(range(1, 28))
    for number, row in rows:
        named = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", row)
        assert named, number
        for file, test in named:
            text = (ROOT / file).read_text("utf-8")
            assert re.search(rf"^(async )?def {test}\(", text, re.MULTILINE), (number, file, test)


def _imports_and_calls() -> tuple[set[str], set[str]]:
    imports: set[str] = set()
    calls: set[str] = set()
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                imports |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imports.add((node.module or "").partition(".")[0])
            elif isinstance(node, ast.Call):
                calls.add(ast.unparse(node.func))
    return imports, calls


def test_nothing_loads_tensors_but_safetensors() -> None:
    _, calls = _imports_and_calls()
    assert not calls & {"torch.load", "torch.jit.load", "torch.package.PackageImporter",
                        "np.load", "numpy.load", "joblib.load"}  # fmt: skip


def test_there_is_no_template_engine() -> None:
    imports, _ = _imports_and_calls()
    assert not imports & {"jinja2", "mako", "chevron", "django", "minijinja"}


async def test_nothing_is_served_as_a_page(scripted: Any) -> None:
    script = "<script>alert(1)</script>"
    async with scripted(Turn(script, reasoning=script)) as client:
        body = {"messages": [{"role": "user", "content": script}], "model": script}
        answers = [
            await client.post("/v1/chat/completions", json=body),
            await client.post("/v1/chat/completions", json={**body, "model": "tiny"}),
            await client.post(
                "/v1/chat/completions", json={**body, "model": "tiny", "stream": True}
            ),
            await client.get(f"/{script}"),
            await client.get("/openapi.json"),
            await client.get("/metrics"),
        ]
    for answer in answers:
        assert answer.headers["x-content-type-options"] == "nosniff"
        kind = answer.headers["content-type"].partition(";")[0]
        assert kind in ("application/json", "text/event-stream", "text/plain")
