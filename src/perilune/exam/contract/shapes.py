"""Shapes that streamed and plain answers share: usage, log probabilities, reasons, markers."""

from __future__ import annotations

import re
from typing import Any

from perilune.exam.contract.check import expect, expect_int

FINISH_REASONS = {"stop", "length", "tool_calls", "content_filter", "function_call"}
MARKERS = re.compile(r"<\|[a-z_]+\|>|\[EOS\]|\[BOS\]|</?think>")


def check_usage(usage: Any, name: str) -> None:
    expect(isinstance(usage, dict), f"{name} is {usage!r}")
    prompt = expect_int(usage.get("prompt_tokens"), f"{name}.prompt_tokens", at_least=1)
    completion = expect_int(usage.get("completion_tokens"), f"{name}.completion_tokens")
    total = expect_int(usage.get("total_tokens"), f"{name}.total_tokens")
    expect(total == prompt + completion, f"{name}: {prompt} + {completion} is not {total}")


def check_usage_details(usage: dict[str, Any]) -> None:
    for group, name in (
        ("completion_tokens_details", "reasoning_tokens"),
        ("prompt_tokens_details", "cached_tokens"),
    ):
        expect_int((usage.get(group) or {}).get(name), f"usage.{group}.{name}")


def check_logprobs(rows: list[Any], top: int) -> None:
    expect(rows, "no log probabilities")
    for row in rows:
        expect(isinstance(row.get("token"), str), f"token is {row.get('token')!r}")
        value = row.get("logprob")
        expect(isinstance(value, int | float) and value <= 1e-4, f"logprob is {value!r}")
        likely = row.get("top_logprobs")
        expect(isinstance(likely, list) and len(likely) == top, f"not {top} top_logprobs")
        for entry in likely:
            expect(isinstance(entry.get("token"), str), "a top token is not a string")
            expect(isinstance(entry.get("logprob"), int | float), "a top logprob is not a number")
