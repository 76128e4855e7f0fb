"""No circles: of the modules of one package, none needs at run time what needs it.

`lint-imports` holds the same and counts the imports for type checkers too; the few that it passes
over are therefore looked at here: at run time they are none.
"""

from __future__ import annotations

from pathlib import Path

import grimp
import pytest


def circles(graph: grimp.ImportGraph, package: str) -> dict[str, set[tuple[str, str]]]:
    """By package, the imports that would have to go to leave no circle among its modules."""
    packages = {package, *graph.find_descendants(package)}
    found = {each: graph.nominate_cycle_breakers(each) for each in sorted(packages)}
    return {each: breakers for each, breakers in found.items() if breakers}


def test_no_circle_of_imports_at_run_time() -> None:
    graph = grimp.build_graph("perilune", exclude_type_checking_imports=True, cache_dir=None)
    assert len(graph.modules) > 500  # the rule looks at what is there
    assert not circles(graph, "perilune")


@pytest.mark.parametrize(
    ("first", "second", "round_about"),
    [
        ("from planted_house.b import y", "from planted_house.a import x", True),
        ("", "def f():\n    from planted_house import a\n    return a", False),
        ("import planted_house.b", "def f():\n    from planted_house import a\n    return a", True),
        (
            "import planted_house.b",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import planted_house.a",
            False,
        ),
    ],
)
def test_a_planted_circle_is_found(
    first: str, second: str, round_about: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    house = tmp_path / "planted_house"
    house.mkdir()
    (house / "__init__.py").write_text("")
    (house / "a.py").write_text(f"{first}\nx = 1\n")
    (house / "b.py").write_text(f"{second}\ny = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    graph = grimp.build_graph("planted_house", exclude_type_checking_imports=True, cache_dir=None)
    assert bool(circles(graph, "planted_house")) is round_about
