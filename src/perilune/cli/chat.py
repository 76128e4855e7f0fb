"""`perilune chat`: a conversation with an agent; what is typed while it works steers it."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from perilune.cli.agent_flags import NO_FLAGS, NO_RULES, AgentFlags, RuleFlags, settings_of
from perilune.cli.lines import Lines
from perilune.cli.option_groups import Without, with_option_groups
from perilune.cli.pictures import named_pictures, read_line
from perilune.cli.run import answer_of, ask_words
from perilune.cli.signals import REASONS, Ended, ended_in_order
from perilune.cli.terminal_state import TERMINAL
from perilune.cli.undo import undone_text
from perilune.errors import PeriluneError, UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from perilune.agent.agent import Agent, RunResult, Session
    from perilune.agent.permissions.permissions import PermissionAnswer, PermissionRequest
    from perilune.agent.settings import AgentSettings
    from perilune.cli.agent_view import AgentView

app = typer.Typer(add_completion=False)

HELP = """\
/help             this
/model [NAME]     which model answers; with NAME, another one of the same endpoint
/tools            what the agent can do
/plan             the plan as it stands
/usage            tokens and time so far
/queue TEXT       a message for after the present task (plain text steers it)
/stop             interrupt the present task (Ctrl-C does, too)
/compact          make the model's view of the conversation smaller now
/undo             bring the workspace back to what it was before the first change
/save [FILE]      write the conversation as Markdown
/quit             leave; `perilune chat --resume last` goes on
@FILE             a picture for the model; its path alone does, too"""


@app.command()
@with_option_groups
def chat(
    who: AgentFlags = NO_FLAGS,
    rules: Annotated[RuleFlags, Without("recipe", "max_seconds")] = NO_RULES,
    show_thinking: Annotated[
        bool, typer.Option("--show-thinking", help="Show the thinking unfolded.")
    ] = False,
) -> None:
    """Talk with an agent that can use tools. Every conversation is kept and can be resumed.

    Piped in, each line is a message, or a command such as /plan.
    """
    from perilune.agent.build import build_agent
    from perilune.cli.agent_view import AgentView
    from perilune.cli.console import SafeConsole

    settings = settings_of(who, rules)
    agent = build_agent(
        settings, workspace=who.workspace, system_prompt=rules.system_prompt, resume=who.resume
    )
    console = SafeConsole()
    view = AgentView(console, answers=True, thoughts=show_thinking)
    talking = Chat(agent, settings, console, view)
    try:
        asyncio.run(talking.talk(who.resume))
    finally:
        view.wait()
        talking.say_how_to_go_on()
    if talking.exit_code:
        raise typer.Exit(talking.exit_code)


class Chat:
    """The conversation: lines in, an agent's session behind, a view in front."""

    def __init__(
        self, agent: Agent, settings: AgentSettings, console: Console, view: AgentView
    ) -> None:
        self._agent = agent
        self._settings = settings
        self._console = console
        self._view = view
        self._work: asyncio.Task[RunResult] | None = None
        self._question: asyncio.Future[str | None] | None = None
        self._ended = Ended()
        self._interrupts = 0  # since the last line
        self._kept = ""  # the run, once there is something to go on with
        self._commands: dict[str, Callable[[str], Awaitable[None]]] = {
            "help": self._help,
            "model": self._model,
            "tools": self._tools,
            "plan": self._plan,
            "usage": self._usage,
            "queue": self._queue,
            "stop": self._stop,
            "compact": self._compact,
            "undo": self._undo,
            "save": self._save,
        }
        agent.on_record = view
        agent.approver = self._approve

    async def talk(self, resume: str | None) -> None:
        """Until `/quit` or the end of stdin."""
        async with self._agent.session(resume=resume) as session:
            self._session: Session = session
            self._lines = Lines()
            self._left = asyncio.Event()
            self._say(f"model {self._agent.model.name}, run {session.id}, /help for commands")
            if not self._lines.is_terminal:
                self._say("each line of standard input is a message; its end ends the chat")
            loop = asyncio.get_running_loop()
            loop.add_signal_handler(signal.SIGINT, self._interrupt)
            try:
                with ended_in_order(self._leave, besides=(signal.SIGINT,)) as self._ended:
                    if resume and session.state.started and session.state.finished is None:
                        self._work = asyncio.create_task(session.run())
                    try:
                        await self._read_lines()
                    finally:
                        self._lines.close()
                        if self._work is not None:
                            session.interrupt("the chat was left")
                            await self._finish_work()
            finally:
                loop.remove_signal_handler(signal.SIGINT)
                self._kept = session.id if session.state.started else ""
        await self._agent.model.close()

    @property
    def exit_code(self) -> int:
        """0 when it was left in the usual way, else as of the signal that ended it."""
        if TERMINAL.lost and not self._ended.number:
            self._ended.number = signal.SIGHUP
        return self._ended.exit_code if self._ended.number else 0

    def say_how_to_go_on(self) -> None:
        if self._kept:
            self._console.print(
                f"· go on with: perilune chat --resume {self._kept}", style="dim", soft_wrap=True
            )

    async def _read_lines(self) -> None:
        while True:
            if not self._lines.is_terminal:
                await self._finish_work()  # lines of a file are turns, not steering
            elif self._work is None:
                self._prompt()
            line = await self._next_line()
            if line is None or line.strip() in ("/quit", "/exit"):
                return
            self._interrupts = 0
            try:
                await self._take(line.strip())
            except PeriluneError as error:
                self._say(str(error), style="yellow")

    async def _next_line(self) -> str | None:
        """The next line that is no answer to a question of the agent's; None to leave."""
        reading = asyncio.ensure_future(self._lines.next())
        leaving = asyncio.ensure_future(self._left.wait())
        try:
            while True:
                waiting: set[asyncio.Future[Any]] = {reading, leaving}
                if self._work is not None:
                    waiting.add(self._work)
                await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                if leaving.done():
                    return None
                if self._work is not None and self._work.done():
                    await self._finish_work()
                    if self._lines.is_terminal and not reading.done():
                        self._prompt()
                if reading.done():
                    line = reading.result()
                    if self._question is None or self._question.done():
                        return line
                    self._question.set_result(line)
                    reading = asyncio.ensure_future(self._lines.next())
        finally:
            leaving.cancel()
            reading.cancel()
            await asyncio.wait({reading, leaving})

    async def _take(self, line: str) -> None:
        if not line:
            return
        name, _, rest = line[1:].partition(" ")
        # A picture that was dropped on the terminal is a path, and begins like a command.
        if line.startswith("/") and (name in self._commands or not named_pictures(line)):
            if name not in self._commands:
                raise UsageError(f"there is no command /{name}", remedy="/help lists them.")
            await self._commands[name](rest.strip())
        elif self._work is None:
            self._work = asyncio.create_task(self._session.run(read_line(line)))
        else:
            self._session.steer(read_line(line))
            self._say("heard at the next step")

    async def _finish_work(self) -> None:
        if self._work is None:
            return
        work = self._work
        await asyncio.wait({work})
        self._work = None
        self._interrupts = 0
        self._view.wait()
        if work.cancelled():
            return
        if (error := work.exception()) is not None:
            if not isinstance(error, PeriluneError):
                raise error
            self._say(str(error), style="yellow")

    async def _approve(self, request: PermissionRequest) -> PermissionAnswer:
        rule = ask_words(self._console, self._view, request)
        if not self._lines.is_terminal:
            return answer_of(None, rule)
        self._question = asyncio.get_running_loop().create_future()
        try:
            return answer_of(await self._question, rule)
        finally:
            self._question = None

    def _interrupt(self) -> None:
        """Ctrl-C stops the work; the second one in a row leaves."""
        self._interrupts += 1
        if self._interrupts > 1:
            self._ended.number = signal.SIGINT
            self._leave(REASONS[signal.SIGINT])
            if self._work is not None:
                self._work.cancel()
        elif self._work is not None:
            self._session.interrupt()
        else:
            self._lines.hide()
            self._say("/quit leaves, and so does Ctrl-C once more")
            self._prompt()

    def _leave(self, reason: str) -> None:
        self._left.set()
        if self._work is not None:
            self._session.interrupt(reason)

    # --- commands ---

    async def _help(self, rest: str) -> None:
        self._say(HELP)

    async def _model(self, name: str) -> None:
        if name:
            from perilune.agent.build import build_model

            self._settings = self._settings.but(model=name)
            model = build_model(self._settings)
            await model.prepare()
            old, self._agent.model = self._agent.model, model
            self._session.use_model(model)
            if self._work is None:
                await old.close()
        model = self._agent.model
        self._say(f"{model.name} at {model.endpoint}, window {model.context_window or 'unknown'}")

    async def _tools(self, rest: str) -> None:
        lines = [f"{tool.name}: {tool.description.splitlines()[0]}" for tool in self._agent.tools]
        self._say("\n".join(lines) or "no tools")

    async def _plan(self, rest: str) -> None:
        lines = [f"[{item.status}] {item.text}" for item in self._session.state.plan]
        self._say("\n".join(lines) or "there is no plan")

    async def _usage(self, rest: str) -> None:
        state = self._session.state
        usage = state.usage
        self._say(
            f"{state.step} steps, {usage.prompt_tokens} prompt tokens "
            f"({usage.cached_tokens} cached), {usage.completion_tokens} completion tokens"
            f"{f', cost {usage.cost:.4f}' if usage.cost else ''}"
        )

    async def _queue(self, text: str) -> None:
        if self._work is None:
            await self._take(text)
        else:
            self._session.queue(read_line(text))
            self._say("comes after the present task")

    async def _stop(self, rest: str) -> None:
        self._session.interrupt()

    async def _compact(self, rest: str) -> None:
        self._only_idle()
        compacted = await self._session.compact()
        if compacted is None:
            self._say("there is nothing to leave out")

    async def _undo(self, rest: str) -> None:
        self._only_idle()
        undone = await self._session.undo()
        self._say(undone_text(undone, run=self._session.id))

    async def _save(self, name: str) -> None:
        from perilune.cli.trace import as_markdown

        path = Path(name or f"{self._session.id}.md")
        path.write_text(as_markdown(self._session.state), "utf-8")
        self._say(f"saved {path}")

    def _only_idle(self) -> None:
        if self._work is not None:
            raise UsageError("the agent is at work", remedy="/stop it first.")

    def _prompt(self) -> None:
        self._lines.edit("› ")

    def _say(self, text: str, style: str = "dim") -> None:
        from perilune.cli.agent_view import plain

        self._view.wait()
        self._console.print(plain(text, style))
