"""`perilune bench serve`: known times give known figures, and failures are counted as such."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice, pairwise
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from perilune.cli.bench import app
from perilune.errors import PeriluneError, UsageError
from perilune.exam.load.client import RequestRecord, stream_once
from perilune.exam.load.plan import LoadPlan, check_host
from perilune.exam.load.report import percentiles, report_of
from perilune.exam.load.run import run_load
from tests.agent.openai_server import OpenAIServer, delta

PLAN = LoadPlan("http://127.0.0.1:1", "m", ttft_slo=0.5, token_slo=0.1)


def record(due: float, *frames: float, error: str | None = None) -> RequestRecord:
    return RequestRecord(
        due, due, list(frames), frames[-1] if frames else due, 10, len(frames), "", error
    )


def test_the_figures_of_known_times() -> None:
    records = [
        record(0.0, 0.2, 0.3, 0.4),  # in time
        record(0.0, 0.6, 0.7, 0.8),  # first token late
        record(1.0, 1.1, 1.4, 1.7),  # tokens late
        record(1.0, error="status 500"),
    ]
    report = report_of(PLAN, records, seconds=2.0)
    assert report.requests == 4 and report.completed == 3
    assert report.ttft_ms.p50 == pytest.approx(200) and report.ttft_ms.p99 == pytest.approx(600)
    assert report.inter_token_ms.p50 == pytest.approx(100)
    assert report.inter_token_ms.p95 == pytest.approx(300)
    assert report.per_token_ms.p99 == pytest.approx(300)
    assert report.goodput == 0.5 and report.good_share == 0.25
    assert report.output_tokens_per_second == 4.5 and report.requests_per_second == 1.5
    assert report.errors == {"status 500": 1}


def test_a_request_that_was_sent_late_waited_too() -> None:
    late = RequestRecord(due=0.0, sent=0.9, frames=[1.0], ended=1.0, output_tokens=1)
    assert late.ttft == 1.0


def test_percentiles_are_values_that_were_measured() -> None:
    found = percentiles([i / 1000 for i in range(1, 101)])
    assert (found.p50, found.p95, found.p99) == pytest.approx((50, 95, 99))
    assert percentiles([]).p50 is None


def test_arrivals_are_a_poisson_process_of_the_rate() -> None:
    moments = LoadPlan("", "m", requests=20_000, rate=50.0).arrivals()
    gaps = [b - a for a, b in pairwise(moments)]
    mean = sum(gaps) / len(gaps)
    assert mean == pytest.approx(1 / 50, rel=0.03)
    variance = sum((gap - mean) ** 2 for gap in gaps) / len(gaps)
    assert variance == pytest.approx(mean**2, rel=0.1)  # as of an exponential distribution


def test_prompts_share_no_beginning() -> None:
    prompts = list(islice(PLAN.prompts(), 50))
    assert len({prompt[:8] for prompt in prompts}) == 50
    assert prompts == list(islice(PLAN.prompts(), 50))


@pytest.mark.parametrize("url", ["http://127.0.0.1:8000", "http://localhost/v1", "http://[::1]:1"])
def test_this_machine_may_be_loaded(url: str) -> None:
    check_host(url, any_host=False)


@pytest.mark.parametrize(
    "url",
    ["https://api.example.com/v1", "http://127.0.0.1.example.com", "http://10.0.0.1", "http://x"],
)
def test_other_machines_only_when_said(url: str) -> None:
    with pytest.raises(UsageError, match="not this machine"):
        check_host(url, any_host=False)
    check_host(url, any_host=True)


@contextmanager
def server(chunks: list[Any]) -> Iterator[OpenAIServer]:
    with OpenAIServer([chunks]) as running:
        yield running


ANSWER = [
    delta(role="assistant", content=""), delta(content="a"), 0.01, delta(content="b"),
    delta("stop", usage={"prompt_tokens": 7, "completion_tokens": 2}),
]  # fmt: skip


async def ask(url: str) -> RequestRecord:
    async with httpx.AsyncClient(timeout=5) as client:
        return await stream_once(client, f"{url}/v1/chat/completions", {}, 0.0)


async def test_frames_with_text_are_tokens() -> None:
    with server(ANSWER) as running:
        found = await ask(running.url)
    assert found.error is None
    assert (len(found.frames), found.text, found.output_tokens) == (2, "ab", 2)
    assert found.gaps == [found.frames[1] - found.frames[0]] and found.gaps[0] >= 0


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ((500, {}, {}), "status 500"),
        ([delta(content="a"), "[cut]"], "cut off"),
        ([delta(content="a"), {"error": {"code": "engine_dead"}}], "in the stream: engine_dead"),
        ([delta(role="assistant")], "no token"),
    ],
)
async def test_failures_have_their_name(answer: Any, error: str) -> None:
    with server(answer) as running:
        assert (await ask(running.url)).error == error


async def test_the_closed_loop_keeps_so_many_under_way() -> None:
    with server(ANSWER) as running:
        plan = LoadPlan(running.url, "m", requests=6, concurrency=2, warmup=1)
        records, _ = await run_load(plan)
    assert len(records) == 6 and len(running.requests) == 7
    overlap = [
        sum(a.sent <= b.sent < a.ended for a in records)
        for b in sorted(records, key=lambda r: r.sent)
    ]
    assert max(overlap) == 2


async def test_a_server_that_fails_at_once_is_not_measured() -> None:
    with server((500, {}, {})) as running:  # type: ignore[arg-type]
        with pytest.raises(PeriluneError, match="warm-up"):
            await run_load(LoadPlan(running.url, "m"))


@pytest.mark.parametrize("loop", [["--concurrency", "2"], ["--rate", "200"]])
def test_the_command_prints_a_table_or_json(loop: list[str]) -> None:
    with server(ANSWER) as running:
        given = ["serve", "--base-url", running.url, "--requests", "5", *loop]
        table = CliRunner().invoke(app, given)
        done = CliRunner().invoke(app, [*given, "--json"])
    assert table.exit_code == done.exit_code == 0, table.output
    assert "5 of 5 answered" in table.stdout and "between tokens" in table.stdout
    report = json.loads(done.stdout)["report"]
    assert report["completed"] == 5 and report["output_tokens"] == 2.0
    assert running.requests[-1]["model"] == "served-model"


def test_the_command_fails_when_a_request_failed() -> None:
    with OpenAIServer([ANSWER, (503, {}, {})]) as running:
        done = CliRunner().invoke(app, ["serve", "--base-url", running.url, "--requests", "3"])
    assert done.exit_code == 1
    assert "failed: 3 times status 503" in done.stdout
