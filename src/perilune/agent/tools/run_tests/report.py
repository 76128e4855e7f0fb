"""Reads pytest's JUnit XML: counts, and each failure with its place and traceback."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree  # expat bounds entity expansion since 2.4.1
from dataclasses import dataclass

from perilune.errors import ToolError

_DETAIL = 1500


@dataclass(frozen=True, slots=True)
class Failure:
    """One test that failed; `kind` is FAILED or ERROR (outside of the test itself)."""

    kind: str
    test: str
    detail: str


@dataclass(frozen=True, slots=True)
class TestReport:
    """All that a test run said."""

    __test__ = False  # for pytest: this is not a test

    tests: int
    skipped: int
    seconds: float
    failures: list[Failure]

    @property
    def summary(self) -> str:
        failed = sum(failure.kind == "FAILED" for failure in self.failures)
        errors = len(self.failures) - failed
        passed = max(0, self.tests - self.skipped - len(self.failures))
        counts = [f"{passed} passed"]
        counts += [f"{n} {what}" for n, what in ((failed, "failed"), (errors, "errors")) if n]
        counts += [f"{self.skipped} skipped"] if self.skipped else []
        return f"{', '.join(counts)} in {self.seconds:.2f} s"


def read_report(data: bytes) -> TestReport:
    """Parse a report. Raises `ToolError` when it is none."""
    if b"<!DOCTYPE" in data or b"<!ENTITY" in data:
        raise ToolError("the test report holds declarations that pytest never writes")
    try:
        root = ElementTree.fromstring(data)  # noqa: S314 (no declarations, see above)
    except ElementTree.ParseError as error:
        raise ToolError(f"the test report cannot be read: {error}") from None
    tests = skipped = 0
    seconds = 0.0
    failures: list[Failure] = []
    for suite in root.iter("testsuite"):
        tests += _number(suite, "tests")
        skipped += _number(suite, "skipped")
        seconds += float(suite.get("time") or 0)
    for case in root.iter("testcase"):
        for tag, kind in (("failure", "FAILED"), ("error", "ERROR")):
            for found in case.findall(tag):
                text = (found.text or found.get("message") or "").strip()
                if len(text) > _DETAIL:
                    text = f"[...]{text[-_DETAIL:]}"
                failures.append(Failure(kind, _name(case), text))
    return TestReport(tests, skipped, seconds, failures)


def _number(element: ElementTree.Element, name: str) -> int:
    value = element.get(name) or "0"
    return int(value) if value.isdigit() else 0


def _name(case: ElementTree.Element) -> str:
    """`tests/test_x.py::TestClass::test_y` as well as the report tells."""
    names = (case.get("classname") or "").split(".")
    where = "/".join(names)
    for at in range(len(names), 0, -1):
        if names[at - 1].startswith("test_") or names[at - 1].endswith("_test"):
            where = "::".join(["/".join(names[:at]) + ".py", *names[at:]])
            break
    return f"{where}::{case.get('name')}" if where else str(case.get("name"))
