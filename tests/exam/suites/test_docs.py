"""The page about exams names what there is."""

from __future__ import annotations

import re
from pathlib import Path

from perilune.exam.suites.bfcl.data import MULTI_TURN, SINGLE
from perilune.exam.suites.bfcl.suite import BfclSuite
from perilune.exam.suites.catalogue import SUITES

PAGE = (Path(__file__).parents[3] / "docs" / "exam.md").read_text("utf-8")


def test_every_suite_is_described() -> None:
    rows = re.findall(r"^\| `([\w-]+)` \| .* \| .* \| .*install|^\| `([\w-]+)` \|", PAGE, re.M)
    assert {first or second for first, second in rows} == set(SUITES)


def test_categories_of_bfcl() -> None:
    for category in (*BfclSuite().default_categories(), *MULTI_TURN):
        assert f"`{category}`" in PAGE
    assert all(each.startswith("live_") or f"`{each}`" in PAGE for each in SINGLE)
