"""Prometheus metrics, under vLLM's names behind a prefix of choice, and our own beside them.

Source of the names: vLLM's metrics documentation; existing dashboards read `vllm:` (give
`--metrics-prefix vllm:`).
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)

if TYPE_CHECKING:
    from perilune.engine.core_messages import Loading
    from perilune.engine.metrics import EngineStatus
    from perilune.serve.answer_stream import AnswerStream

_SECONDS = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5,
            10.0, 20.0, 40.0, 80.0, 160.0, 640.0)  # fmt: skip
_TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000, 100000)
_HISTOGRAMS = {
    "time_to_first_token_seconds": (_SECONDS, "From arrival to the first token."),
    "inter_token_latency_seconds": (_SECONDS, "Between two outputs of one answer."),
    "e2e_request_latency_seconds": (_SECONDS, "From arrival to the end."),
    "request_queue_time_seconds": (_SECONDS, "In the queue."),
    "request_prefill_time_seconds": (_SECONDS, "From the first step to the first token."),
    "request_decode_time_seconds": (_SECONDS, "From the first token to the end."),
    "request_inference_time_seconds": (_SECONDS, "From the first step to the end."),
    "request_prompt_tokens": (_TOKENS, "Tokens of a prompt."),
    "request_generation_tokens": (_TOKENS, "Tokens of a request's answers."),
    "request_max_num_generation_tokens": (_TOKENS, "Most tokens asked for."),
    "request_params_n": ((1, 2, 4, 8, 16, 32, 64, 128), "Answers asked for."),
    "request_params_max_tokens": (_TOKENS, "max_tokens of requests that give it."),
    "iteration_tokens_total": (_TOKENS, "Tokens of an output of one request."),
}
_GAUGES = {
    "num_requests_running": "Answers being computed.",
    "num_requests_waiting": "Answers waiting for a place.",
    "kv_cache_usage_perc": "Share of the latent cache that running answers hold, 0 to 1.",
    "bandwidth_limit_bytes_per_second": "What this machine's memory can read, measured.",
    "bandwidth_share": "Share of that limit that the latest step reached, 0 to 1.",
    "model_loading": "1 while the model is being loaded, at the start or after a death, else 0.",
    "load_bytes_done": "Bytes of weights that the latest load has read.",
    "load_bytes_total": "Bytes of weights that it has to read.",
    "load_bytes_per_second": "Its rate so far.",
    "load_seconds_left": "What it needs at this rate; 0 when it is done.",
}
_COUNTERS = {
    "prefix_cache_queries": "Prompt tokens looked up in the prefix cache.",
    "prefix_cache_hits": "Prompt tokens found there.",
    "prompt_tokens": "Prompt tokens.",
    "generation_tokens": "Tokens of answers.",
    "num_preemptions": "Answers that gave their memory to others and began again.",
    "spec_decode_num_draft_tokens": "Tokens guessed.",
    "spec_decode_num_accepted_tokens": "Guessed tokens that came true.",
    "bytes_read": "Bytes of weights and cache that the steps read.",
    "forward_seconds": "Time in the network.",
    "engine_steps": "Steps of the engine.",
}
# With the cause as a label: hung, out_of_memory, exit, error, or a signal's name (SIGKILL).
_CAUSES = {
    "engine_restarts": "Deaths of the engine, also while it loads again after one.",
    "engine_standby_deaths": "Deaths of the process that waits to take over.",
}


disable_created_metrics()  # type: ignore[no-untyped-call]  # a series more for each, which nobody reads


class Metrics:
    """One registry a server. Label `model_name` on everything that is about the model."""

    def __init__(self, prefix: str, model_name: str) -> None:
        self._registry = CollectorRegistry()
        self._labels = {"model_name": model_name}

        def name(plain: str) -> str:
            return prefix + plain

        label = list(self._labels)
        self._histograms = {
            key: Histogram(name(key), text, label, buckets=buckets, registry=self._registry).labels(
                **self._labels
            )
            for key, (buckets, text) in _HISTOGRAMS.items()
        }
        self._gauges = {
            key: Gauge(name(key), text, label, registry=self._registry).labels(**self._labels)
            for key, text in _GAUGES.items()
        }
        self._counters = {
            key: Counter(name(key), text, label, registry=self._registry).labels(**self._labels)
            for key, text in _COUNTERS.items()
        }
        self._success = Counter(
            name("request_success"), "Requests by how they ended.",
            [*label, "finished_reason"], registry=self._registry,
        )  # fmt: skip
        self._causes = {
            key: Counter(name(key), text, [*label, "cause"], registry=self._registry)
            for key, text in _CAUSES.items()
        }
        self._outcomes = Counter(
            name("request_outcomes"), "Requests taken: finished, client_left, or an error's code.",
            [*label, "outcome"], registry=self._registry,
        )  # fmt: skip
        self._http = Counter(
            "http_requests", "HTTP requests.", ["handler", "method", "status"],
            registry=self._registry,
        )  # fmt: skip
        self._accepted = Gauge(
            name("accept_length"), "Mean tokens that a step brought a speculating answer.", label,
            registry=self._registry,
        ).labels(**self._labels)  # fmt: skip
        self._seen: dict[str, float] = {}  # sums that the engine counts itself

    def observe_http(self, handler: str, method: str, status: int) -> None:
        self._http.labels(handler, method, str(status)).inc()

    def observe_stream(self, stream: AnswerStream) -> None:
        """A request is over, whichever way."""
        ended = stream.completed or stream.error is not None
        outcome = "finished" if stream.error is None else stream.error.code or "error"
        self._outcomes.labels(**self._labels, outcome=outcome if ended else "client_left").inc()
        reasons = [str(reason) for reason in stream.finish_reasons]
        reasons += ["error" if stream.failed else "abort"] * (stream.n - len(reasons))
        for reason in reasons:
            self._success.labels(**self._labels, finished_reason=reason).inc()
        count, put = self._counters, self._histograms
        count["prompt_tokens"].inc(stream.prompt_tokens)
        count["generation_tokens"].inc(stream.completion_tokens)
        put["request_prompt_tokens"].observe(stream.prompt_tokens)
        put["request_generation_tokens"].observe(stream.completion_tokens)
        put["request_params_n"].observe(stream.n)
        if stream.params.max_tokens is not None:
            put["request_params_max_tokens"].observe(stream.params.max_tokens)
            put["request_max_num_generation_tokens"].observe(stream.params.max_tokens)
        times = stream.token_times
        for before, after in pairwise(times):
            put["inter_token_latency_seconds"].observe(after - before)
        for tokens in stream.token_counts:
            put["iteration_tokens_total"].observe(tokens)
        metrics = stream.metrics
        if metrics is None:
            return
        count["prefix_cache_queries"].inc(metrics.prompt_tokens)
        count["prefix_cache_hits"].inc(metrics.cached_tokens)
        count["num_preemptions"].inc(metrics.preemptions)
        count["spec_decode_num_draft_tokens"].inc(metrics.proposed_tokens)
        count["spec_decode_num_accepted_tokens"].inc(metrics.accepted_tokens)
        if times:
            self._accepted.set(stream.completion_tokens / stream.n / len(times))
        if metrics.first_token is not None:
            first = metrics.first_token - metrics.arrived
            put["time_to_first_token_seconds"].observe(max(0.0, first))
        if metrics.finished is not None:
            put["e2e_request_latency_seconds"].observe(metrics.finished - metrics.arrived)
            if metrics.first_scheduled is not None:
                inference = metrics.finished - metrics.first_scheduled
                put["request_inference_time_seconds"].observe(inference)
        for key, seconds in (
            ("request_queue_time_seconds", metrics.queue_seconds),
            ("request_prefill_time_seconds", metrics.prefill_seconds),
            ("request_decode_time_seconds", metrics.decode_seconds),
        ):
            if seconds is not None:
                put[key].observe(max(0.0, seconds))

    def engine_restarted(self, cause: str) -> None:
        self._causes["engine_restarts"].labels(**self._labels, cause=cause).inc()

    def standby_died(self, cause: str) -> None:
        self._causes["engine_standby_deaths"].labels(**self._labels, cause=cause).inc()

    def observe_load(self, loading: Loading) -> None:
        """How far the load under way has come."""
        gauges = self._gauges
        gauges["load_bytes_done"].set(loading.done)
        gauges["load_bytes_total"].set(loading.total)
        gauges["load_bytes_per_second"].set(loading.rate)
        gauges["load_seconds_left"].set(loading.seconds_left or 0.0)

    def render(
        self, status: EngineStatus | None, open_answers: int, *, loading: bool = False
    ) -> str:
        """The text that Prometheus reads. `open_answers`: those that clients wait for now."""
        gauges = self._gauges
        gauges["model_loading"].set(loading)
        if status is None or not open_answers:  # the latest status may be from before they ended
            gauges["num_requests_running"].set(0)
            gauges["num_requests_waiting"].set(open_answers)
            gauges["kv_cache_usage_perc"].set(0)
        else:
            pages = status.pages_held + status.pages_idle + status.pages_free
            gauges["num_requests_running"].set(status.running)
            gauges["num_requests_waiting"].set(status.waiting)
            gauges["kv_cache_usage_perc"].set(status.pages_held / max(1, pages))
        if status is not None:
            step = status.latest_step
            if step is not None and step.bandwidth is not None:
                gauges["bandwidth_limit_bytes_per_second"].set(step.bandwidth)
                gauges["bandwidth_share"].set(step.share_of_bandwidth or 0.0)
            self._catch_up("bytes_read", status.bytes_read)
            self._catch_up("forward_seconds", status.forward_seconds)
            self._catch_up("engine_steps", status.steps)
        return generate_latest(self._registry).decode()

    def _catch_up(self, key: str, total: float) -> None:
        """A counter of the engine's, which begins at 0 again with a new engine."""
        before = self._seen.get(key, 0.0)
        self._counters[key].inc(total - before if total >= before else total)
        self._seen[key] = total
