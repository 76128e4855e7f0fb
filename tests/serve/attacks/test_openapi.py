"""schemathesis over our OpenAPI document: whatever it makes up, there is no 5xx."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

schemathesis = pytest.importorskip("schemathesis")

from hypothesis import HealthCheck, Phase, Verbosity, given, settings  # noqa: E402
from schemathesis import GenerationMode  # noqa: E402

from .test_fuzz import Victim  # noqa: E402


@pytest.fixture(scope="module")
def victim(chat_format: Any, tiny_folder: Path) -> Iterator[Victim]:
    victim = Victim(chat_format, tiny_folder)
    yield victim
    victim.close()


def send(victim: Victim, case: Any) -> Any:
    """A case of schemathesis through the client of the victim."""
    made = case.as_transport_kwargs(base_url="http://127.0.0.1:8000")
    given = {name: made[name] for name in ("params", "json", "headers") if made.get(name)}
    if isinstance(made.get("data"), bytes | str):
        given["content"] = made["data"]
    headers = {str(k): str(v) for k, v in (given.get("headers") or {}).items()}
    given["headers"] = {
        k: v for k, v in headers.items() if v.isascii() and v.isprintable() and k.lower() != "host"
    }
    return victim.request(made["method"], made["url"], **given)


def call_all(victim: Victim, calls: int) -> None:
    """At least so many calls over all operations, half by the document, half against it."""
    document = victim.request("GET", "/openapi.json").json()
    schema = schemathesis.openapi.from_dict(document)
    operations = [result.ok() for result in schema.get_all_operations()]
    assert len(operations) >= 15
    statuses: Counter[tuple[str, int]] = Counter()
    bodied = [operation for operation in operations if list(operation.body)]
    each = -(-calls // (2 * len(bodied)))
    for operation in operations:
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            examples = each if operation in bodied else 2

            @settings(
                max_examples=examples, deadline=None, database=None, verbosity=Verbosity.quiet,
                phases=(Phase.generate, Phase.shrink), suppress_health_check=list(HealthCheck),
            )  # fmt: skip
            @given(operation.as_strategy(generation_mode=mode))
            def one(case: Any) -> None:
                answer = send(victim, case)
                statuses[case.operation.label, answer.status_code] += 1
                assert answer.status_code < 500, (case.operation.label, answer.text[:300])

            one()
    assert sum(statuses.values()) >= calls
    assert any(status == 200 for _, status in statuses)
    assert victim.service.open_answers == 0


def test_100_calls(victim: Victim) -> None:
    call_all(victim, 100)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_10_000_calls(victim: Victim) -> None:
    call_all(victim, 10_000)
