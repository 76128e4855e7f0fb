"""Several requests at once, and requests that are given up."""

from __future__ import annotations

import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import httpx

from perilune.exam.contract.chat_plain import LONG_QUESTION, content_of
from perilune.exam.contract.check import Level, Skip, check, expect
from perilune.exam.contract.scenarios import ChatStream
from perilune.exam.contract.target import Exchange, Target

SIDE_BY_SIDE = 8
FREED_SECONDS = 5.0
RUNNING = re.compile(r"^\w+:num_requests_running(?:\{[^}]*\})? ([0-9.e+]+)", re.MULTILINE)


@check(
    "behaviour.side-by-side",
    f"{SIDE_BY_SIDE} streams at once give each the text that it gets alone, at temperature 0.",
    why="Streams mix, or an answer depends on who else is there.",
    level=Level.RECOMMENDED,
)
def side_by_side(target: Target) -> None:
    questions = [f"Write about the number {i}." for i in range(SIDE_BY_SIDE)]
    alone = [content_of(target.chat(q, max_tokens=24)) for q in questions]

    def stream(question: str) -> ChatStream:
        return ChatStream("side", target.chat(question, stream=True, max_tokens=24).ok())

    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        together = list(pool.map(stream, questions))
    identities = {stream.chunks[0]["id"] for stream in together}
    expect(len(identities) == SIDE_BY_SIDE, "two streams have one id")
    for question, text, answer in zip(questions, alone, together, strict=True):
        expect(
            answer.text() == text,
            f"{question!r}: alone {text[:40]!r}, side by side {answer.text()[:40]!r}",
            answer.exchange,
        )


def _running(target: Target) -> float | None:
    exchange = target.get("/metrics")
    found = RUNNING.findall(exchange.body.decode("utf-8", "replace"))
    return sum(map(float, found)) if exchange.status == 200 and found else None


@check(
    "behaviour.disconnect",
    "A client that goes away ends its request: /metrics counts no running request soon after.",
    why="Abandoned answers use up the machine.",
    level=Level.RECOMMENDED,
)
def disconnect(target: Target) -> None:
    if _running(target) is None:
        raise Skip("no num_requests_running in /metrics")
    for streamed in (True, False):
        body = target.chat_body(
            LONG_QUESTION, max_tokens=100_000 if target.max_model_len is None
            else max(16, target.max_model_len // 2), stream=streamed, ignore_eos=True,
        )  # fmt: skip
        _abandon(target, body, streamed)
        deadline = time.monotonic() + FREED_SECONDS
        while (running := _running(target)) and time.monotonic() < deadline:
            time.sleep(0.1)
        kind = "streamed" if streamed else "plain"
        expect(not running, f"{running:g} requests run {FREED_SECONDS:g} s after a {kind} one left")


def _abandon(target: Target, body: dict[str, object], streamed: bool) -> None:
    """Leave after the first piece of a stream, or after a second of waiting."""
    timeout = httpx.Timeout(30.0, read=30.0 if streamed else 1.0)
    with suppress(httpx.ReadTimeout), target.client.stream(
        "POST", target.root + "/v1/chat/completions", json=body, headers=target.key_header,
        timeout=timeout,
    ) as response:  # fmt: skip
        for _ in response.iter_raw():
            break


@check(
    "behaviour.many-at-once",
    "32 small requests at once are all answered, with 200 or with 429 and Retry-After.",
    why="Agents start many at a time.",
)
def many(target: Target) -> None:
    barrier = threading.Barrier(32)

    def ask(number: int) -> Exchange:
        barrier.wait(30)
        body = target.chat_body(f"Number {number}.", max_tokens=4)
        return target.post("/v1/chat/completions", body, patient=False)

    with ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(ask, range(32)))
    for exchange in answers:
        busy = exchange.status in (429, 503) and "retry-after" in exchange.headers
        expect(exchange.status == 200 or busy, f"status {exchange.status}", exchange)
    expect(any(exchange.status == 200 for exchange in answers), "none was answered with 200")
