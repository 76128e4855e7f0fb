"""What is asked of the server, and when.

Closed loop: so many users, each asks again when it has its answer. Open loop: requests arrive at
random moments, however slow the server is, as they do from people who do not know of each other.
"""

from __future__ import annotations

import ipaddress
import random
from collections.abc import Iterator
from dataclasses import dataclass

from perilune.agent.models.endpoint_url import read_endpoint_url
from perilune.errors import UsageError

WORDS = (
    "amber", "basin", "cedar", "delta", "ember", "fjord", "grove", "harbor", "inlet", "juniper",
    "kelp", "lagoon", "meadow", "nectar", "ochre", "prairie", "quarry", "ridge", "summit",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """A load. `rate` (requests per second) makes it an open loop; else `concurrency` users ask.

    `prompt_tokens` is what is aimed at; the report has what the server counted. `ttft_slo` and
    `token_slo` are seconds: an answer is good when its first token and its tokens come in time.
    """

    base_url: str
    model: str
    requests: int = 64
    concurrency: int = 8
    rate: float | None = None
    prompt_tokens: int = 64
    output_tokens: int = 64
    warmup: int = 1
    seed: int = 0
    timeout: float = 600.0
    ttft_slo: float = 1.0
    token_slo: float = 0.1

    @property
    def open_loop(self) -> bool:
        return self.rate is not None

    def prompts(self) -> Iterator[str]:
        """Different from the first word on, so that no prefix cache answers for the server."""
        rng = random.Random(self.seed)  # noqa: S311
        number = 0
        while True:
            words = [rng.choice(WORDS) for _ in range(max(1, round(self.prompt_tokens * 0.75)))]
            yield f"{rng.randrange(10**9)} {number} {' '.join(words)}"
            number += 1

    def arrivals(self) -> list[float]:
        """Seconds from the start at which requests arrive: a Poisson process of `rate`."""
        assert self.rate is not None
        rng = random.Random(self.seed + 1)  # noqa: S311
        now, moments = 0.0, []
        for _ in range(self.requests):
            now += rng.expovariate(self.rate)
            moments.append(now)
        return moments


def check_host(base_url: str, any_host: bool) -> None:
    """Raises UsageError for a server elsewhere, unless the caller says that it may be loaded."""
    host = read_endpoint_url(base_url).host
    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = host == "localhost"
    if not loopback and not any_host:
        raise UsageError(
            f"{host or base_url!r} is not this machine, and a load test can hurt a server",
            remedy="If it is yours to load, say so with --any-host",
        )
