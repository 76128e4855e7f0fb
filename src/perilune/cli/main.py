"""`perilune`: the table of verbs. `--help` reads this table only, so it is instant."""

from __future__ import annotations

import errno
import io
import os
import sys
import warnings
from importlib import import_module
from typing import Any, TextIO

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from perilune.cli.terminal_state import TERMINAL, let_go_of_terminal
from perilune.errors import ConfigWarning, PeriluneError, UnsafeFileWarning, UsageError
from perilune.processes import secure_this_process

# verb -> (module with a Typer `app`, one line of help); the order is that of `--help`.
VERBS: dict[str, tuple[str, str]] = {
    "chat": ("perilune.cli.chat", "Talk with an agent that can use tools."),
    "run": ("perilune.cli.run", "Work on a task with tools until it is answered."),
    "recipes": ("perilune.cli.recipes", "Look at recipes for kinds of tasks."),
    "worker": ("perilune.cli.worker", "Work for swarms of other machines, off a shared queue."),
    "trace": ("perilune.cli.trace", "Look at runs, export them, and undo their changes."),
    "corpus": ("perilune.cli.corpus", "Index folders of your own, for the agent's searches."),
    "serve": ("perilune.cli.serve", "Serve a model over the OpenAI and Anthropic APIs."),
    "agent-server": (
        "perilune.cli.agent_server",
        "Serve the agent to other programs, over MCP or A2A.",
    ),
    "generate": (
        "perilune.cli.generate",
        "Continue a prompt or answer a message with a model.",
    ),
    "models": ("perilune.cli.models", "Show, verify and make checkpoints."),
    "convert": ("perilune.cli.convert", "Convert a checkpoint between storage formats."),
    "exam": ("perilune.cli.exam", "Put suites of questions to a model."),
    "train": ("perilune.cli.train", "Make training data, and train a model."),
    "connect": (
        "perilune.cli.connect",
        "Point Claude Code, Kimi Code, Codex or an OpenAI client at a server.",
    ),
    "verify": (
        "perilune.cli.verify",
        "Check any server against the contract of its APIs.",
    ),
    "plan": (
        "perilune.cli.plan",
        "Say what a machine will do with a model, and what it costs.",
    ),
    "bench": ("perilune.cli.bench", "Measure speed, and print it beside this machine's limit."),
    "doctor": ("perilune.cli.doctor", "Say what this machine can do, and what is missing."),
}


class VerbGroup(TyperGroup):
    """A command group that imports a verb's module only when that verb is called."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in VERBS:
            return None
        # Help and completion need a name and a line only.
        return TyperCommand(cmd_name, help=VERBS[cmd_name][1])

    def invoke(self, ctx: Any) -> Any:
        """Run a verb; interrupts and broken pipes are answered here, before typer's own answers."""
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
            return result
        except KeyboardInterrupt:
            print("perilune: interrupted", file=sys.stderr)
            raise SystemExit(130) from None
        except BrokenPipeError:
            # The reader (head, less) went away; that is not our failure. What is still buffered
            # has nowhere to go, and must not fail again at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise SystemExit(0) from None
        except OSError as error:
            if error.errno != errno.EIO or not let_go_of_terminal():
                raise
            raise SystemExit(129) from None  # as if by SIGHUP

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[Any, Any, list[str]]:
        name, _, rest = super().resolve_command(ctx, args)
        assert name is not None
        module, line = VERBS[name]
        verb = import_module(module).app
        verb.rich_markup_mode = app.rich_markup_mode
        command = get_command(verb)
        command.name = name
        command.help = command.help or line
        return name, command, rest


app = typer.Typer(
    cls=VerbGroup,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # its import takes more than half the time of `--help`
    help="Run an AI agent on a model that you own: models, engine, server and agent.",
)


@app.callback(invoke_without_command=True)
def root(
    version: bool = typer.Option(False, "--version", help="Print the version and exit."),
) -> None:
    if version:
        from importlib.metadata import version as package_version

        print(f"perilune {package_version('perilune')}")
        raise typer.Exit


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Our own warnings are for the user, without the line of code that they come from."""
    if issubclass(category, UnsafeFileWarning | ConfigWarning):
        text = f"perilune: {message}\n"
    else:
        text = warnings.formatwarning(message, category, filename, lineno, line)
    (file or sys.stderr).write(text)


def main() -> None:
    """Run a verb. Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted.

    However it ends, the terminal is as it was.
    """
    secure_this_process()
    with TERMINAL.given_back():
        _main()


def _main() -> None:
    warnings.showwarning = _show_warning
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a model may say what the terminal cannot show
    try:
        app(standalone_mode=True)
    except PeriluneError as error:
        print(f"perilune: {error.message}", file=sys.stderr)
        if error.remedy:
            print(f"  remedy: {error.remedy}", file=sys.stderr)
        sys.exit(2 if isinstance(error, UsageError) else 1)
