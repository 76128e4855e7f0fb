"""A run as OpenTelemetry spans (the `otel` extra): a reader of the event stream.

Names follow the semantic conventions for generative AI: one `invoke_agent` span, below it a `chat`
span for each completion and an `execute_tool` span for each call. What was said is left out unless
`content` asks for it: it may hold secrets.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

import msgspec

from perilune.errors import UsageError
from perilune.events import (
    AssistantMessage,
    Record,
    RunFinished,
    RunStarted,
    ToolFinished,
    ToolStarted,
    Usage,
    UserMessage,
)

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Span

OPERATION = "gen_ai.operation.name"


def export_run(records: Sequence[Record], *, content: bool = False) -> str:
    """Send a run's spans to the OTLP endpoint of the environment, else print them as JSON lines.

    Returns one line that says where they went. Raises `UsageError` when the extra is not installed.
    """
    exporter, where = _exporter()
    provider = _provider(exporter)
    count = record_spans(records, provider, content=content)
    provider.shutdown()
    return f"{count} spans to {where}"


def record_spans(
    records: Sequence[Record], provider: TracerProvider, *, content: bool = False
) -> int:
    """Make the spans of a run with their own times; returns how many there are."""
    spans = _Spans(provider, content)
    for record in records:
        spans.take(record)
    spans.end_all(max((record.time for record in records), default=0.0))
    return spans.count


class _Spans:
    """Opens and ends spans as the records go by."""

    def __init__(self, provider: TracerProvider, content: bool) -> None:
        self._tracer = provider.get_tracer("perilune")
        self._content = content
        self._model = ""
        self._agents: dict[str, Span] = {}
        self._tools: dict[str, Span] = {}
        self._turn_began: dict[str, float] = {}
        self.count = 0
        self._now = 0.0

    def take(self, record: Record) -> None:
        event, agent = record.event, record.agent
        # A span never ends before it began, though a wall clock may have been set back.
        self._now = max(self._now, record.time)
        record = msgspec.structs.replace(record, time=self._now)
        match event:
            case RunStarted():
                self._model = event.model
            case UserMessage():
                self._turn_began[agent] = record.time
                if agent not in self._agents and event.source in ("task", "queue"):
                    attributes = {
                        OPERATION: "invoke_agent",
                        "gen_ai.agent.name": agent,
                        "gen_ai.request.model": self._model,
                    }
                    name = f"invoke_agent {agent}"
                    self._agents[agent] = self._start(name, record, record.time, attributes)
            case AssistantMessage():
                began = self._turn_began.get(agent, record.time)
                span = self._start(f"chat {event.model}", record, began, self._chat(event))
                span.end(_nanoseconds(record.time))
            case ToolStarted():
                self._tools[event.call_id] = self._start(
                    f"execute_tool {event.name}", record, record.time, self._tool(event)
                )
            case ToolFinished():
                self._turn_began[agent] = record.time
                self._end(self._tools.pop(event.call_id, None), record.time, event.outcome, "ok")
            case RunFinished():
                span_or_none = self._agents.pop(agent, None)
                if span_or_none is not None:
                    span_or_none.set_attributes(_usage(event.usage))
                self._end(span_or_none, record.time, event.reason, "done")

    def end_all(self, when: float) -> None:
        """What a killed run left open."""
        for span in (*self._tools.values(), *self._agents.values()):
            self._end(span, when, "unfinished", "")

    def _start(self, name: str, record: Record, began: float, attributes: dict[str, Any]) -> Span:
        from opentelemetry import trace

        parent = self._agents.get(record.agent)
        context = trace.set_span_in_context(parent) if parent is not None else None
        self.count += 1
        return self._tracer.start_span(
            name,
            context,
            kind=trace.SpanKind.CLIENT if name.startswith("chat") else trace.SpanKind.INTERNAL,
            start_time=_nanoseconds(began),
            attributes={"gen_ai.conversation.id": record.run, **attributes},
        )

    def _end(self, span: Span | None, when: float, outcome: str, good: str) -> None:
        from opentelemetry.trace import StatusCode

        if span is None:
            return
        if outcome != good:
            span.set_status(StatusCode.ERROR, outcome)
            span.set_attribute("error.type", outcome)
        span.end(_nanoseconds(when))

    def _chat(self, event: AssistantMessage) -> dict[str, Any]:
        attributes: dict[str, Any] = {
            OPERATION: "chat",
            "gen_ai.provider.name": "perilune",
            "gen_ai.request.model": self._model,
            "gen_ai.response.model": event.model,
            "gen_ai.response.id": event.response_id,
            "gen_ai.response.finish_reasons": [event.finish_reason],
            **_usage(event.usage),
        }
        if self._content:
            parts = [{"type": "text", "content": event.content}]
            message = {"role": "assistant", "parts": parts, "finish_reason": event.finish_reason}
            attributes["gen_ai.output.messages"] = json.dumps([message])
        return attributes

    def _tool(self, event: ToolStarted) -> dict[str, Any]:
        attributes: dict[str, Any] = {
            OPERATION: "execute_tool",
            "gen_ai.tool.name": event.name,
            "gen_ai.tool.call.id": event.call_id,
        }
        if self._content:
            attributes["gen_ai.tool.call.arguments"] = json.dumps(event.arguments)
        return attributes


def _usage(usage: Usage) -> dict[str, int]:
    return {
        "gen_ai.usage.input_tokens": usage.prompt_tokens,
        "gen_ai.usage.output_tokens": usage.completion_tokens,
    }


def _exporter() -> tuple[SpanExporter, str]:
    try:
        from opentelemetry.sdk.trace.export import ConsoleSpanExporter
    except ImportError as error:
        raise UsageError(
            "OpenTelemetry is not installed", remedy="pip install 'perilune[otel]'"
        ) from error
    endpoint = os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT")
    if not endpoint:
        return ConsoleSpanExporter(
            formatter=lambda span: span.to_json(indent=None) + "\n"
        ), "stdout"
    try:
        otlp = import_module("opentelemetry.exporter.otlp.proto.http.trace_exporter")
    except ImportError as error:
        raise UsageError(
            "OTEL_EXPORTER_OTLP_ENDPOINT is set, but no OTLP exporter is installed",
            remedy="pip install opentelemetry-exporter-otlp-proto-http",
        ) from error
    return otlp.OTLPSpanExporter(), endpoint


def _provider(exporter: SpanExporter) -> TracerProvider:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor

    provider = TracerProvider(resource=Resource.create({"service.name": "perilune"}))
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return provider


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)
