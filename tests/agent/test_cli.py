"""`run`, `chat` and `trace`: what is on stdout, what on stderr, and the exit codes.

Most verbs run in this process, which spares their start; signals and terminals need a process.
"""

from __future__ import annotations

import io
import json
import os
import pty
import select
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from perilune.cli.main import main
from perilune.events import RunFinished, ToolFinished, decode_record
from perilune.home import runs_folder
from tests.agent.openai_server import OpenAIServer, call, delta

MAIN = [sys.executable, "-c", "from perilune.cli.main import main; main()"]
TASK = "write hi into a.txt"
WRITE = [
    delta(reasoning_content="I shall write."),
    delta(tool_calls=[call(0, "c0", "write_file", '{"path": "a.txt", "content": "hi"}')],
          finish="tool_calls"),
]  # fmt: skip
DONE = [delta(content="I wrote "), delta(content="a.txt."), delta(finish="stop")]


class Done(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


class Cli:
    """Runs verbs against a server on a tape, in a home and a workspace of their own."""

    def __init__(self, workspace: Path, home: Path, patch: pytest.MonkeyPatch, capture) -> None:
        self.workspace, self.home = workspace, home
        self._patch, self._capture = patch, capture

    def environment(self) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith("PERILUNE_")}
        return {**kept, "PERILUNE_HOME": str(self.home), "NO_COLOR": "1"}

    def __call__(self, *words: str, stdin: str = "") -> Done:
        """One verb in this process."""
        self._patch.setattr(sys, "argv", ["perilune", *words])
        # It changes the environment and the search path of the whole process, the tests' own here.
        self._patch.setattr("perilune.cli.main.secure_this_process", lambda: None)
        self._patch.setattr(sys, "stdin", io.StringIO(stdin))
        self._patch.chdir(self.workspace)
        self._patch.setenv("PERILUNE_HOME", str(self.home))
        self._patch.setenv("COLUMNS", "100")
        self._capture.readouterr()
        try:
            main()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        return Done(code, *self._capture.readouterr())

    def start(self, *words: str, **options) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*MAIN, *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.workspace,
            env=self.environment(),
            **options,
        )

    @property
    def run_id(self) -> str:
        (folder,) = runs_folder(self.home).iterdir()
        return folder.name


@pytest.fixture
def cli(workspace: Path, home: Path, monkeypatch: pytest.MonkeyPatch, capfd) -> Cli:
    return Cli(workspace, home, monkeypatch, capfd)


def test_the_answer_alone_is_on_stdout(cli: Cli):
    with OpenAIServer([WRITE, DONE]) as server:
        done = cli("run", TASK, "--endpoint", server.url, "--tools", "files")
    assert (done.returncode, done.stdout) == (0, "I wrote a.txt.\n")
    assert (cli.workspace / "a.txt").read_text() == "hi"
    for part in ("thought for", "write_file", "path=a.txt", "2 steps", "workspace"):
        assert part in done.stderr
    assert "I shall write." in done.stderr
    sent = server.requests[0]
    assert sent["messages"][1]["content"] == TASK
    assert "recall" in [each["function"]["name"] for each in sent["tools"]]


def test_json_and_stream_json(cli: Cli):
    with OpenAIServer([WRITE, DONE]) as server:
        flags = ("--endpoint", server.url, "--tools", "files", "-q", "--output-format")
        one = cli("run", TASK, *flags, "stream-json")
    records = [decode_record(line) for line in one.stdout.splitlines()]
    assert isinstance(records[-1].event, RunFinished)
    assert any(isinstance(record.event, ToolFinished) for record in records)
    durable = [record.seq for record in records if record.event.durable]
    assert durable == list(range(1, len(durable) + 1))
    assert one.stderr == ""
    with OpenAIServer([DONE]) as server:
        flags = ("--endpoint", server.url, "--tools", "none", "--output-format", "json")
        two = json.loads(cli("run", TASK, *flags).stdout)
    assert (two["answer"], two["reason"], two["steps"]) == ("I wrote a.txt.", "done", 1)
    # The same stream, read later.
    exported = cli("trace", "export", records[0].run).stdout.splitlines()
    assert [decode_record(line) for line in exported] == [r for r in records if r.event.durable]


def test_wrong_usage_is_exit_2(cli: Cli):
    for words, part in [
        (("run",), "there is no task"),
        (("run", "t", "--endpoint", "nonsense"), "not an endpoint URL"),
        (("run", "t", "--endpoint", "http://x", "--tools", "hammer"), "hammer"),
        (("run", "t", "--endpoint", "http://x", "--allow", "bash("), "permission pattern"),
        (("run", "t", "--model", "no/such/dir"), "not a checkpoint folder"),
        (("run", "--endpoint", "http://x", "--resume", "nope"), "no run 'nope'"),
        (("trace", "show", "nope"), "no run 'nope'"),
        (("run", "t", "--tools", "files"), "nano knows its own two tools"),
        (("chat", "--effort", "high"), "nano knows its own two tools"),
    ]:
        done = cli(*words)
        assert done.returncode == 2, words
        assert part in done.stderr, words
        assert done.stdout == ""


def test_without_a_model_inside_one_must_be_named(cli: Cli, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("perilune.nano.agent.nano_folder", lambda: cli.workspace / "nothing")
    for words in (("run", "t"), ("chat",), ("run", "t", "--model", "nano")):
        done = cli(*words)
        assert done.returncode == 2
        assert "--endpoint URL" in done.stderr


def test_a_failed_run_is_exit_1(cli: Cli):
    with OpenAIServer([(401, {}, {"error": {"message": "bad key"}})]) as server:
        done = cli("run", "t", "--endpoint", server.url, "--model", "m", "--tools", "none")
    assert (done.returncode, done.stdout) == (1, "")
    assert "bad key" in done.stderr
    assert "--api-key-env" in done.stderr


def test_an_interrupt_is_exit_130_and_resumes(cli: Cli):
    with OpenAIServer([[delta(content="x"), 30.0], DONE]) as server:
        process = cli.start("run", "t", "--endpoint", server.url, "--tools", "none")
        while not server.requests:
            time.sleep(0.05)
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
        assert (process.returncode, out) == (130, "")
        assert f"--resume {cli.run_id}" in err
        again = cli("run", "--resume", "last")
    assert (again.returncode, again.stdout) == (0, "I wrote a.txt.\n")
    assert len(server.requests) == 2


def test_kill_9_and_resume_with_the_same_flags(cli: Cli):
    """The journal knows endpoint, model and tools; nothing has to be said again."""
    with OpenAIServer([WRITE, [delta(content="x"), 30.0], DONE]) as server:
        flags = ("--endpoint", server.url, "--tools", "files", "--max-steps", "7")
        process = cli.start("run", TASK, *flags)
        while len(server.requests) < 2:
            time.sleep(0.05)
        process.kill()
        process.communicate()
        again = cli("run", "--resume", "last")
    assert (again.returncode, again.stdout) == (0, "I wrote a.txt.\n")
    assert "resumed" in again.stderr
    declared = [each["function"]["name"] for each in server.requests[2]["tools"]]
    assert "write_file" in declared


def test_the_task_from_stdin(cli: Cli):
    with OpenAIServer([DONE]) as server:
        done = cli("run", "-", "--endpoint", server.url, "--tools", "none", stdin="from stdin")
    assert done.returncode == 0
    assert server.requests[0]["messages"][1]["content"] == "from stdin"


def test_what_is_piped_in_is_part_of_the_task(cli: Cli):
    """`cat log | perilune run "explain"` left the log out."""
    log = "".join(f"line {n}: all is well\n" for n in range(3000))
    with OpenAIServer([DONE, DONE]) as server:
        flags = ("--endpoint", server.url, "--model", "m", "--tools", "none")
        process = cli.start("run", "explain", *flags, stdin=subprocess.PIPE)
        _, err = process.communicate("error: the moon is missing\n", timeout=60)
        assert process.returncode == 0
        assert "standard input: 27 bytes, 1 line, added to the task" in err
        process = cli.start("run", "explain", *flags, stdin=subprocess.PIPE)
        _, err = process.communicate(log, timeout=60)
        assert "3000 lines" in err
        assert "head and tail" in err
    small, large = (request["messages"][1]["content"] for request in server.requests)
    assert small.startswith("explain\n\nFrom standard input (27 bytes, 1 line):")
    assert "the moon is missing" in small
    assert "line 0:" in large
    assert "line 2999:" in large
    assert len(large) < 17_000
    (path,) = runs_folder(cli.home).glob("*/outputs/stdin.txt")
    assert path.read_text() == log
    assert str(path) in large


def test_what_is_piped_in_fits_a_small_window(cli: Cli):
    """3,000 lines are more than the window of nano, the default model, holds."""
    log = "".join(f"line {n}: all is well\n" for n in range(3000))
    question = ("What is the capital of Kenya?", "--max-steps", "1")
    process = cli.start("run", *question, stdin=subprocess.PIPE)
    _, err = process.communicate(log, timeout=120)
    assert "head and tail" in err and "4,096 tokens" in " ".join(err.split())
    assert "(0 steps" not in err  # it began: nano may still make nothing of it


def test_permissions_on_the_command_line(cli: Cli):
    with OpenAIServer([WRITE, DONE]) as server:
        flags = ("--endpoint", server.url, "--tools", "files", "--deny", "write_file")
        done = cli("run", TASK, *flags)
    assert done.returncode == 0
    assert not (cli.workspace / "a.txt").exists()
    assert "denied" in done.stderr


def test_tools_of_an_mcp_server(cli: Cli):
    """The agent itself, served over MCP, as the server: one agent gives a task to another."""
    use = [delta(tool_calls=[call(0, "c0", "mcp_helper_run_task", '{"task": "help"}')],
                 finish="tool_calls")]  # fmt: skip
    with OpenAIServer([use, [delta(content="helped", finish="stop")], DONE]) as server:
        # A server gets no more of our environment than it is given.
        given = [f"PYTHONPATH={os.pathsep.join(sys.path)}", f"PERILUNE_HOME={cli.home}"]
        inner = ["env", *given, *MAIN, "agent-server", "--endpoint", server.url, "--tools", "none"]
        flags = (
            "--endpoint",
            server.url,
            "--tools",
            "none",
            "--mcp",
            f"helper={shlex.join(inner)}",
        )
        done = cli("run", TASK, *flags)
    assert done.returncode == 0, done.stderr
    assert [len(request["messages"]) for request in server.requests] == [2, 2, 4]
    assert "helped" in str(server.requests[2]["messages"][-1]["content"])


# --- trace ----------------------------------------------------------------------------------------


def test_trace(cli: Cli):
    (cli.workspace / "old.txt").write_text("old")
    with OpenAIServer([WRITE, DONE]) as server:
        cli("run", TASK, "--endpoint", server.url, "--tools", "files")
    listed = cli("trace", "ls").stdout
    assert cli.run_id in listed
    assert "done" in listed
    assert TASK in listed
    shown = cli("trace", "show", "last").stdout
    for part in (f"› {TASK}", "thought for", "write_file", "I wrote a.txt."):
        assert part in shown
    assert "I wrote a.txt." in cli("trace", "replay", "last", "--speed", "1000").stdout
    markdown = cli("trace", "export", "last", "--format", "markdown").stdout
    assert f"## User\n\n{TASK}" in markdown
    messages = json.loads(cli("trace", "export", "last", "--format", "messages").stdout)
    roles = [message["role"] for message in messages["messages"]]
    assert roles == ["system", "user", "assistant", "tool", "assistant"]
    spans = cli("trace", "export", "last", "--format", "otel")
    names = [json.loads(line)["name"] for line in spans.stdout.splitlines()]
    assert "execute_tool write_file" in names

    undone = cli("trace", "undo", "last")
    assert undone.returncode == 0
    assert "removed a.txt" in undone.stdout
    assert not (cli.workspace / "a.txt").exists()
    assert (cli.workspace / "old.txt").read_text() == "old"
    back = undone.stdout.split("--to ")[1].strip()
    assert cli("trace", "undo", "last", "--to", back).returncode == 0
    assert (cli.workspace / "a.txt").read_text() == "hi"

    assert cli("trace", "rm", "last").returncode == 0
    assert "no runs yet" in cli("trace", "ls").stdout


def test_undo_names_what_others_changed_and_says_so_by_its_exit_code(cli: Cli):
    """It was restored in silence."""
    path = cli.workspace / "a.txt"
    path.write_text("old")
    with OpenAIServer([WRITE, DONE]) as server:
        cli("run", TASK, "--endpoint", server.url, "--tools", "files")
    path.write_text("mine")
    dry = cli("trace", "undo", "last", "--dry-run", "--json")
    assert dry.returncode == 1
    assert json.loads(dry.stdout)["kept"] == ["a.txt"]
    for flag in ((), ("--keep-mine",)):
        kept = cli("trace", "undo", "last", *flag)
        assert kept.returncode == 1
        assert "kept a.txt: it was changed after the run's last write" in kept.stdout
        assert path.read_text() == "mine"
    both = cli("trace", "undo", "last", "--keep-both")
    assert both.returncode == 0
    assert "your version of a.txt is in a.txt.yours" in both.stdout
    assert (path.read_text(), path.with_name("a.txt.yours").read_text()) == ("old", "mine")
    back = both.stdout.split("--to ")[1].strip()
    assert cli("trace", "undo", "last", "--to", back).returncode == 0
    assert path.read_text() == "mine"
    assert cli("trace", "undo", "last", "--force").returncode == 0
    assert path.read_text() == "old"
    assert cli("trace", "undo", "last", "--force", "--keep-mine").returncode == 2


def test_help_is_there(cli: Cli):
    top = cli("--help").stdout
    assert top.index("chat") < top.index("run")
    for verb in ("run", "chat", "trace", "agent-server"):
        assert cli(verb, "--help").returncode == 0


# --- chat -----------------------------------------------------------------------------------------


def test_a_piped_chat_takes_lines_as_turns(cli: Cli):
    lines = (
        "write it\n/plan\n/usage\n/tools\n/model\n/undo\n/nonsense\nagain\n/save talk.md\n/quit\n"
    )
    with OpenAIServer([WRITE, DONE, [delta(content="Again.", finish="stop")]]) as server:
        done = cli("chat", "--endpoint", server.url, "--tools", "files", stdin=lines)
    assert done.returncode == 0, done.stderr
    for part in (
        "I wrote a.txt.",
        "there is no plan",
        "completion tokens",
        "write_file:",
        "served-model at",
        "removed a.txt",
        "no command /nonsense",
        "Again.",
        "saved talk.md",
    ):
        assert part in done.stdout, part
    assert not (cli.workspace / "a.txt").exists()
    saved = (cli.workspace / "talk.md").read_text()
    assert saved.count("## User") == 2
    contents = [m["content"] for m in server.requests[2]["messages"] if m["role"] == "user"]
    assert contents[0] == "write it"
    assert "undid" in contents[1]
    assert contents[2] == "again"
    more = "/help\n/quit\n"
    with OpenAIServer([DONE]) as server:
        again = cli("chat", "--resume", "last", "--endpoint", server.url, stdin=more)
    assert "/compact" in again.stdout


def test_a_chat_on_a_terminal_is_steered_asked_and_interrupted(cli: Cli):
    """Typed while it works: an answer to a question, a steering message, Ctrl-C."""
    ask = [delta(tool_calls=[call(0, "c0", "write_file", '{"path": "a.txt", "content": "hi"}')],
                 finish="tool_calls")]  # fmt: skip
    slow = [delta(content="thinking about"), 1.5, delta(content=" it."), delta(finish="stop")]
    steered = [delta(content="Steered!", finish="stop")]
    forever = [delta(content="on and on"), 30.0]
    with OpenAIServer([ask, slow, steered, forever]) as server:
        screen, keyboard = pty.openpty()
        flags = ("--endpoint", server.url, "--tools", "files", "--ask", "write_file")
        process = subprocess.Popen(
            [*MAIN, "chat", *flags],
            stdin=keyboard,
            stdout=keyboard,
            stderr=keyboard,
            cwd=cli.workspace,
            env={**cli.environment(), "TERM": "dumb", "COLUMNS": "100"},
            start_new_session=True,
        )
        os.close(keyboard)
        seen = ""

        def until(text: str, seconds: float = 30) -> None:
            nonlocal seen
            end = time.monotonic() + seconds
            while text not in seen:
                left = end - time.monotonic()
                assert select.select([screen], [], [], max(0.0, left))[0], (
                    f"no {text!r} in:\n{seen}"
                )
                seen += os.read(screen, 4096).decode("utf-8", "replace")
            seen = seen.partition(text)[2]

        try:
            until("›")
            os.write(screen, b"write it\n")
            until("[y]es, [n]o, [a]lways")
            os.write(screen, b"y\n")
            until("thinking about")
            os.write(screen, b"be quick\n")
            until("Steered!")
            os.write(screen, b"go on\n")
            until("on and on")
            process.send_signal(signal.SIGINT)
            until("interrupted")
            os.write(screen, b"/quit\n")
            assert process.wait(timeout=20) == 0
        finally:
            process.kill()
            os.close(screen)
    assert (cli.workspace / "a.txt").read_text() == "hi"
    assert server.requests[2]["messages"][-1]["content"] == "be quick"
