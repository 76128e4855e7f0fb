"""What the times of a load say: percentiles, rates, and how many answers came in time."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from perilune.exam.load.client import RequestRecord
from perilune.exam.load.plan import LoadPlan


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Milliseconds. None where nothing was measured."""

    p50: float | None
    p95: float | None
    p99: float | None
    mean: float | None


@dataclass(frozen=True, slots=True)
class LoadReport:
    """A load's figures. Rates are per second of the whole run; errors by their kind."""

    loop: str  # closed, open
    requests: int
    completed: int
    seconds: float
    ttft_ms: Percentiles  # to the first token, from when the request was due
    inter_token_ms: Percentiles  # between frames, over all answers
    per_token_ms: Percentiles  # mean of each answer, over answers
    total_ms: Percentiles
    requests_per_second: float
    output_tokens_per_second: float
    prompt_tokens: float  # mean of an answered request, as the server counted
    output_tokens: float
    goodput: float  # answers a second that were in time
    good_share: float  # of all requests
    ttft_slo_ms: float
    token_slo_ms: float
    errors: dict[str, int]


def report_of(plan: LoadPlan, records: Sequence[RequestRecord], seconds: float) -> LoadReport:
    done = [record for record in records if record.error is None]
    good = [record for record in done if _in_time(plan, record)]
    per_token = [value for record in done if (value := record.per_token) is not None]
    return LoadReport(
        loop="open" if plan.open_loop else "closed",
        requests=len(records),
        completed=len(done),
        seconds=seconds,
        ttft_ms=percentiles([record.ttft for record in done]),
        inter_token_ms=percentiles([gap for record in done for gap in record.gaps]),
        per_token_ms=percentiles(per_token),
        total_ms=percentiles([record.ended - record.due for record in done]),
        requests_per_second=len(done) / seconds,
        output_tokens_per_second=sum(record.output_tokens for record in done) / seconds,
        prompt_tokens=_mean([record.prompt_tokens for record in done]) or 0.0,
        output_tokens=_mean([record.output_tokens for record in done]) or 0.0,
        goodput=len(good) / seconds,
        good_share=len(good) / len(records),
        ttft_slo_ms=plan.ttft_slo * 1e3,
        token_slo_ms=plan.token_slo * 1e3,
        errors=dict(Counter(record.error for record in records if record.error is not None)),
    )


def percentiles(seconds: Sequence[float]) -> Percentiles:
    """Of a list of seconds, in milliseconds; the smallest value that covers the share."""
    ordered = sorted(value * 1e3 for value in seconds)

    def at(share: float) -> float | None:
        return ordered[math.ceil(share * len(ordered)) - 1] if ordered else None

    return Percentiles(at(0.5), at(0.95), at(0.99), _mean(ordered))


def _in_time(plan: LoadPlan, record: RequestRecord) -> bool:
    per_token = record.per_token
    return record.ttft <= plan.ttft_slo and (per_token is None or per_token <= plan.token_slo)


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
