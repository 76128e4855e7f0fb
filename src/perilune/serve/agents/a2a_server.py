"""The agent as an Agent2Agent server (the `a2a` extra): its card, and JSON-RPC with streaming.

One A2A task is one run; its answer is the task's artifact. A further message in the same context
goes on with that context's run.
"""

from __future__ import annotations

import asyncio
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from perilune.agent.agent import Agent
from perilune.agent.endings import DONE, UNVERIFIED
from perilune.errors import UsageError
from perilune.events import Record, ToolStarted

if TYPE_CHECKING:
    from starlette.applications import Starlette

RPC_PATH = "/a2a"


def build_app(agent: Agent, url: str) -> Starlette:
    """A Starlette app that serves `agent`; `url` is where clients reach it, without a path.

    Raises `UsageError` when the extra is not installed.
    """
    try:
        from a2a.server.request_handlers import DefaultRequestHandlerV2
        from a2a.server.routes import create_agent_card_routes, create_jsonrpc_routes
        from a2a.server.tasks import InMemoryTaskStore
        from starlette.applications import Starlette
    except ImportError as error:
        raise UsageError(
            "the Agent2Agent server is not installed", remedy="pip install 'perilune[a2a]'"
        ) from error
    card = _card(agent, url)
    handler = DefaultRequestHandlerV2(
        agent_executor=_executor(agent), task_store=InMemoryTaskStore(), agent_card=card
    )
    return Starlette(
        routes=[*create_agent_card_routes(card), *create_jsonrpc_routes(handler, RPC_PATH)]
    )


def _card(agent: Agent, url: str) -> Any:
    from a2a.types.a2a_pb2 import AgentCapabilities, AgentCard, AgentInterface, AgentSkill

    skill = AgentSkill(
        id="run_task",
        name="Work on a task",
        description="Works on a task step by step with tools, checks itself, and answers. Tools: "
        + (", ".join(tool.name for tool in agent.tools) or "none"),
        tags=["agent", "tools"],
    )
    return AgentCard(
        name="Perilune",
        description="An agent on a Kimi K2 model.",
        version=_version(),
        supported_interfaces=[
            AgentInterface(
                url=url.rstrip("/") + RPC_PATH, protocol_binding="JSONRPC", protocol_version="1.0"
            )
        ],
        capabilities=AgentCapabilities(streaming=True),
        default_input_modes=["text/plain"],
        default_output_modes=["text/plain"],
        skills=[skill],
    )


def _version() -> str:
    try:
        return version("perilune")
    except PackageNotFoundError:  # run from a source tree that is not installed
        return "0"


def _executor(agent: Agent) -> Any:
    from a2a.helpers.proto_helpers import new_task_from_user_message, new_text_part
    from a2a.server.agent_execution import AgentExecutor, RequestContext
    from a2a.server.tasks import TaskUpdater

    class RunExecutor(AgentExecutor):
        """Runs each task as a run of the agent."""

        def __init__(self) -> None:
            self._runs: dict[str, str] = {}  # context id -> run id

        async def execute(self, context: RequestContext, event_queue: Any) -> None:
            assert context.message is not None
            if context.current_task is None:
                await event_queue.enqueue_event(new_task_from_user_message(context.message))
            task_id, context_id = context.task_id or "", context.context_id or ""
            updater = TaskUpdater(event_queue, task_id, context_id)
            await updater.start_work()
            words: asyncio.Queue[str] = asyncio.Queue()

            def listen(record: Record) -> None:
                if isinstance(record.event, ToolStarted):
                    words.put_nowait(record.event.name)

            async def report() -> None:
                while True:
                    text = await words.get()
                    await updater.start_work(updater.new_agent_message([new_text_part(text)]))

            async with agent.session(resume=self._runs.get(context_id)) as session:
                self._runs[context_id] = session.id
                session.listeners.append(listen)
                reporter = asyncio.create_task(report())
                try:
                    result = await session.run(context.get_user_input())
                finally:
                    reporter.cancel()
                    await asyncio.gather(reporter, return_exceptions=True)
            if result.reason in (DONE, UNVERIFIED):
                await updater.add_artifact(
                    [new_text_part(result.answer)],
                    name="answer",
                    metadata={"run": result.run, "reason": result.reason},
                )
                await updater.complete()
            else:
                why = f"run {result.run} ended: {result.reason}. {result.detail}"
                await updater.failed(updater.new_agent_message([new_text_part(why)]))

        async def cancel(self, context: RequestContext, event_queue: Any) -> None:
            # `execute` is cancelled by the framework; the run ends as interrupted.
            updater = TaskUpdater(event_queue, context.task_id or "", context.context_id or "")
            await updater.cancel()

    return RunExecutor()
