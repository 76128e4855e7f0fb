"""Whatever ends a verb, the terminal is as it was: modes, cursor, colours, what was typed ahead."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.agent.openai_server import OpenAIServer, call, delta
from tests.cli.pseudo_terminal import PseudoTerminal

START = "from perilune.cli.main import main; main()"
RAISE = """
import perilune.cli.chat as chat
async def _plan(self, rest): raise RuntimeError("a fault of ours")
chat.Chat._plan = _plan
"""
EXIT_IN_TOOL = """
import perilune.agent.loop.act as act
real = act._result_of
def _result_of(task): raise SystemExit(7)
act._result_of = _result_of
"""
THREAD_CRASH = """
import threading, time
def crash():
    time.sleep(0.5)
    raise RuntimeError("a fault in a thread")
threading.Thread(target=crash, daemon=True).start()
"""
WRITE = [
    delta(reasoning_content="I shall write."),
    delta(tool_calls=[call(0, "c0", "write_file", '{"path": "a.txt", "content": "hi"}')],
          finish="tool_calls"),
]  # fmt: skip
DONE = [delta(content="I wrote it."), delta(finish="stop")]
SLOW = [delta(reasoning_content="on and on"), 30.0]
REFUSED = (401, {}, {"error": {"message": "bad key"}})


def environment(tmp_path: Path) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("PERILUNE_")}
    kept.pop("NO_COLOR", None)
    return {**kept, "PERILUNE_HOME": str(tmp_path / "home"), "TERM": "xterm", "COLUMNS": "90"}


@contextmanager
def started(tmp_path: Path, *words: str, prelude: str = "") -> Iterator[PseudoTerminal]:
    work = tmp_path / "work"
    work.mkdir(exist_ok=True)
    with PseudoTerminal() as terminal:
        command = [sys.executable, "-c", prelude + START, *words]
        terminal.start(command, cwd=work, env=environment(tmp_path))
        yield terminal


def check(terminal: PseudoTerminal) -> None:
    """As a fresh terminal."""
    assert terminal.modes() == terminal.modes_before
    assert terminal.left_on() == set(), repr(terminal.written[-300:])
    assert not terminal.colour_left()


@dataclass(frozen=True)
class Ending:
    """What is typed (each after the prompt), the signals then sent, and what must come of it."""

    name: str
    code: int
    typed: tuple[str, ...] = ()
    before: str = ""  # what to see before the signals, while a task is at work
    signals: tuple[int, ...] = ()
    replies: tuple = ()
    prelude: str = ""
    shows: str = ""
    after: str = ""  # typed twice at the next prompt


CHAT = [
    Ending("quit", 0, ("/quit\r",)),
    Ending("exit", 0, ("/exit\r",)),
    Ending("ctrl-d", 0, ("\x04",)),
    Ending("ctrl-c twice", 130, ("half a line\x03", "\x03")),
    Ending("answered, then quit", 0, ("write\r", "/quit\r"), replies=(DONE,), shows="--resume"),
    Ending("model error, then quit", 0, ("write\r", "/quit\r"), replies=(REFUSED,)),
    Ending("exception", 1, ("/plan\r",), prelude=RAISE, shows="a fault of ours"),
    Ending("sys.exit in a tool", 7, ("write\r",), replies=(WRITE,), prelude=EXIT_IN_TOOL),
    Ending("thread crash", 0, ("/help\r", "/quit\r"), prelude=THREAD_CRASH),
    Ending("term at the prompt", 143, signals=(signal.SIGTERM,)),
    Ending("hup at the prompt", 129, signals=(signal.SIGHUP,)),
    Ending("quit signal at the prompt", 131, signals=(signal.SIGQUIT,)),
    Ending("term at work", 143, ("go\r",), "on and on", (signal.SIGTERM,), (SLOW,), "", "--resume"),
    Ending("ctrl-c at work, twice at the prompt", 130, ("go\r",), "on and on", (signal.SIGINT,),
           (SLOW,), after="\x03"),
    Ending("hup at work", 129, ("go\r",), "on and on", (signal.SIGHUP,), (SLOW,)),
]  # fmt: skip
ALWAYS = {"quit", "term at the prompt", "term at work", "exception"}


def marked(endings: list[Ending]) -> list:
    return [
        pytest.param(each, id=each.name, marks=() if each.name in ALWAYS else pytest.mark.slow)
        for each in endings
    ]


@pytest.mark.parametrize("ending", marked(CHAT))
def test_a_chat_gives_the_terminal_back(ending: Ending, tmp_path: Path):
    """`/quit` left it without echo."""
    with OpenAIServer(list(ending.replies) or [DONE]) as server:
        flags = ("chat", "--endpoint", server.url, "--model", "m", "--tools", "files")
        with started(tmp_path, *flags, prelude=ending.prelude) as terminal:
            terminal.until_edited()
            for n, text in enumerate(ending.typed):
                if n:
                    terminal.until_edited()
                terminal.type(text)
            if ending.before:
                terminal.until(ending.before)
                assert terminal.echoes, "modes are changed while a line is edited only"
            for number in ending.signals:
                terminal.kill(number)
            if ending.after:
                terminal.until_edited()
                terminal.type(ending.after)
                terminal.until_edited()
                terminal.type(ending.after)
            assert terminal.wait() == ending.code
            check(terminal)
            assert ending.shows in terminal.written


RUN = [
    Ending("answered", 0, replies=(DONE,), shows="I wrote it."),
    Ending("model error", 1, replies=(REFUSED,), shows="bad key"),
    Ending("ctrl-c", 130, before="on and on", signals=(signal.SIGINT,), replies=(SLOW,),
           shows="--resume"),
    Ending("ctrl-c twice", 130, before="on and on", signals=(signal.SIGINT, signal.SIGINT),
           replies=(SLOW,)),
    Ending("term", 143, before="on and on", signals=(signal.SIGTERM,), replies=(SLOW,),
           shows="--resume"),
    Ending("hup", 129, before="on and on", signals=(signal.SIGHUP,), replies=(SLOW,)),
    Ending("quit signal", 131, before="on and on", signals=(signal.SIGQUIT,), replies=(SLOW,),
           shows="--resume"),
    Ending("sys.exit in a tool", 7, replies=(WRITE,), prelude=EXIT_IN_TOOL, shows="--resume"),
]  # fmt: skip


@pytest.mark.parametrize("ending", marked(RUN))
def test_a_run_gives_the_terminal_back(ending: Ending, tmp_path: Path):
    with OpenAIServer(list(ending.replies)) as server:
        flags = ("run", "go", "--endpoint", server.url, "--model", "m", "--tools", "files")
        with started(tmp_path, *flags, prelude=ending.prelude) as terminal:
            if ending.before:
                terminal.until(ending.before)
            for number in ending.signals:
                terminal.kill(number)
            assert terminal.wait() == ending.code
            check(terminal)
            assert ending.shows in terminal.written


OTHERS = [
    (("doctor",), "", 0),
    (("generate", "--demo", "--prompt", "x"), "", 0),
    (("generate", "--demo", "--prompt", "x", "--max-tokens", "1", "--nonsense"), "", 2),
    (("serve", "--demo", "--port", "0"), "is served at", signal.SIGINT),
    (("serve", "--demo", "--port", "0"), "is served at", signal.SIGTERM),
    (("trace", "ls"), "", 0),
]


@pytest.mark.slow
@pytest.mark.parametrize(("words", "before", "end"), OTHERS)
def test_the_other_verbs_give_it_back(words: tuple, before: str, end: int, tmp_path: Path):
    with started(tmp_path, *words) as terminal:
        if before:
            terminal.until(before)
            terminal.kill(end)
            terminal.wait()
        else:
            assert terminal.wait(120) == end
        check(terminal)


@pytest.mark.slow
def test_a_killed_run_leaves_a_visible_cursor(tmp_path: Path):
    """Nobody can clean up after kill -9, so nothing is taken while a task is at work."""
    with OpenAIServer([SLOW]) as server:
        with started(
            tmp_path, "run", "go", "--endpoint", server.url, "--tools", "none"
        ) as terminal:
            terminal.until("on and on")
            terminal.kill(signal.SIGKILL)
            assert terminal.wait() == -signal.SIGKILL
            assert terminal.modes() == terminal.modes_before
            assert terminal.left_on() == set()


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["run", "chat"])
def test_a_closed_terminal_ends_it_and_it_can_be_resumed(verb: str, tmp_path: Path):
    with OpenAIServer([SLOW, DONE]) as server:
        words = [verb, *(["go"] if verb == "run" else []), "--endpoint", server.url]
        with started(tmp_path, *words, "--tools", "none") as terminal:
            if verb == "chat":
                terminal.until_edited()
                terminal.type("go\r")
            terminal.until("on and on")
            terminal.hang_up()
            assert terminal.wait() == 129
        again = subprocess.run(
            [sys.executable, "-c", START, "run", "--resume", "last"],
            env=environment(tmp_path), cwd=tmp_path, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert (again.returncode, again.stdout) == (0, "I wrote it.\n"), again.stderr


def test_ctrl_z_and_fg(tmp_path: Path):
    """While the chat is stopped the shell has its terminal; after `fg` the line is edited on."""
    with OpenAIServer([DONE]) as server:
        flags = ("chat", "--endpoint", server.url, "--model", "m", "--tools", "none")
        with started(tmp_path, *flags) as terminal:
            terminal.until_edited()
            terminal.type("say ")
            terminal.until("say ")
            terminal.type("\x1a")
            terminal.until_stopped()
            check(terminal)
            terminal.go_on()
            terminal.until("say ")
            while terminal.echoes:
                terminal._read(0.05)
            terminal.type("it\r")
            terminal.until("I wrote it.")
            terminal.until_edited()
            terminal.type("/quit\r")
            assert terminal.wait() == 0
            check(terminal)
        assert server.requests[0]["messages"][-1]["content"] == "say it"


def test_what_was_typed_ahead_is_left_for_the_shell(tmp_path: Path):
    with OpenAIServer([DONE]) as server:
        flags = ("chat", "--endpoint", server.url, "--model", "m", "--tools", "none")
        with started(tmp_path, *flags) as terminal:
            terminal.until_edited()
            terminal.type("/quit\rls -l\r")
            assert terminal.wait() == 0
            check(terminal)
            assert terminal.typed_ahead() == b"ls -l\n"


@pytest.mark.slow
def test_a_question_takes_one_line_and_no_more(tmp_path: Path):
    """A run reads the terminal while it asks, and not after."""
    with OpenAIServer([WRITE, SLOW]) as server:
        flags = ("run", "go", "--endpoint", server.url, "--tools", "files", "--ask", "write_file")
        with started(tmp_path, *flags) as terminal:
            terminal.until("[y]es, [n]o, [a]lways")
            terminal.type("y\rls -l\r")
            terminal.until("on and on")
            terminal.kill(signal.SIGINT)
            assert terminal.wait() == 130
            check(terminal)
            assert terminal.typed_ahead() == b"ls -l\n"
        assert (tmp_path / "work" / "a.txt").read_text() == "hi"
