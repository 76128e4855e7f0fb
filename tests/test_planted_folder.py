"""Nothing that is in the current folder runs as us, whatever verb is used there.

The folder shadows every module of the standard library and of what is installed, every program that
we look up, and has a repository whose configuration and hooks run programs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from importlib import import_module
from pathlib import Path

import pytest
from typer.main import get_command

from perilune.cli.main import VERBS
from perilune.errors import SandboxError
from perilune.nano.agent import nano_folder
from perilune.sandbox import open_sandbox
from tests.agent.openai_server import OpenAIServer, call, delta
from tests.planted import Planted, plant

CONSOLE = [str(Path(sys.executable).with_name("perilune"))]
MODULE = [sys.executable, "-m", "perilune"]
LAUNCHERS = {"console": CONSOLE, "module": MODULE}
NANO = str(nano_folder())

# verb, or verb and sub-command -> arguments with which it gets as far as it can in a second or two.
# {out} is a folder outside of the planted one, {url} a server on a tape.
ARGUMENTS: dict[str, list[str]] = {
    "chat": ["--endpoint", "{url}", "--tools", "none"],
    "run": ["make a note", "--endpoint", "{url}", "--tools", "none"],
    "recipes ls": [],
    "recipes show": ["code"],
    "recipes choose": ["fix the failing test"],
    "worker": ["--database", "postgresql://nobody@127.0.0.1:9/none", "--endpoint", "{url}"],
    "trace ls": [],
    "trace show": ["last"],
    "trace replay": ["last"],
    "trace export": ["last"],
    "trace undo": ["last"],
    "trace apply": ["last"],
    "trace rm": ["last"],
    "corpus add": ["."],
    "corpus ls": [],
    "corpus rm": ["nothing"],
    "corpus search": ["capital"],
    "serve": ["nowhere"],
    "agent-server": ["--endpoint", "{url}", "--tools", "none"],
    "generate": [NANO, "--prompt", "Hello", "--max-tokens", "3"],
    "models show": [NANO],
    "models verify": [NANO],
    "models new": ["{out}/new"],
    "convert": [NANO, "{out}/converted", "--to", "int8"],
    "plan compare": ["--hardware", "h200", "--picture", "{out}/plan"],
    "plan buy": ["--budget", "20000", "--speed", "10"],
    "exam ls": [],
    "exam run": ["world", "--endpoint", "{url}"],
    "exam report": ["{out}"],
    "train episodes": ["--out", "{out}/episodes.jsonl", "--count", "1", "--jobs", "2"],
    "train pretrain": ["--config", "missing.toml"],
    "train sft": ["--config", "missing.toml"],
    "train qat": ["--config", "missing.toml"],
    "train rl": ["--config", "missing.toml"],
    "train parl": ["--config", "missing.toml"],
    "train all": ["--config", "missing.toml"],
    "train plot": ["--config", "missing.toml"],
    "train tokenizer": ["--out", "{out}/tokenizer", "README.md"],
    "train export": ["--config", "missing.toml", "--to", "{out}/exported"],
    "connect": ["codex"],
    "verify": ["--base-url", "{url}"],
    "bench serve": ["--help"],
    "bench kernels": ["--rows", "1", "--repetitions", "1"],
    "bench decode": ["--help"],
    "bench prefill": ["--help"],
    "bench batch": ["--help"],
    "doctor": [],
}  # fmt: skip
FEW = ("recipes ls", "run", "doctor")


def leaves() -> list[str]:
    """Every verb and sub-command, from the program itself."""
    found = []
    for verb, (module, _) in VERBS.items():
        inner = getattr(get_command(import_module(module).app), "commands", None)
        found += [f"{verb} {name}" for name in inner] if inner else [verb]
    return found


def test_every_verb_is_tried() -> None:
    assert set(leaves()) == set(ARGUMENTS)


@pytest.fixture(params=["console", "module"])
def launcher(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def planted(launcher: str, tmp_path: Path) -> Planted:
    return plant(tmp_path / "planted", tmp_path / "marker", launched_by_module=launcher == "module")


def perilune(planted: Planted, launcher: str, *words: str, **options: object) -> str:
    """Run the program in the planted folder; what it printed."""
    home = planted.folder.parent / "home"
    done = subprocess.run(
        [*LAUNCHERS[launcher], *words],
        cwd=planted.folder,
        env=planted.environment(PERILUNE_HOME=str(home), HOME=str(home)),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=240,
        check=False,
        **options,  # type: ignore[call-overload]
    )
    assert "Traceback" not in done.stdout, done.stdout
    return str(done.stdout)


def try_verb(planted: Planted, launcher: str, verb: str, url: str, out: Path) -> None:
    out.mkdir(exist_ok=True)
    arguments = [each.format(url=url, out=out) for each in ARGUMENTS[verb]]
    printed = perilune(planted, launcher, *verb.split(), *arguments)
    assert planted.ran == [], printed


DONE = [delta(role="assistant", content="It is done."), delta("stop")]


@pytest.mark.parametrize("verb", FEW)
def test_a_verb_takes_nothing_from_the_folder(
    verb: str, launcher: str, planted: Planted, tmp_path: Path
) -> None:
    with OpenAIServer([DONE]) as server:
        try_verb(planted, launcher, verb, server.url, tmp_path / "out")


@pytest.mark.slow
@pytest.mark.parametrize("verb", sorted(set(ARGUMENTS) - set(FEW)))
def test_every_verb_takes_nothing_from_the_folder(
    verb: str, launcher: str, planted: Planted, tmp_path: Path
) -> None:
    with OpenAIServer([DONE]) as server:
        try_verb(planted, launcher, verb, server.url, tmp_path / "out")


def test_a_served_request_takes_nothing_from_the_folder(
    launcher: str, planted: Planted, tmp_path: Path
) -> None:
    """The engine's own process is started there, and answers."""
    server = subprocess.Popen(
        [*LAUNCHERS[launcher], "serve", NANO, "--port", "0", "--json"],
        cwd=planted.folder,
        env=planted.environment(PERILUNE_HOME=str(tmp_path / "home")),
        stdout=subprocess.PIPE,
        stderr=(tmp_path / "log").open("wb"),
        text=True,
    )
    try:
        assert server.stdout is not None
        line = server.stdout.readline()
        url = json.loads(line)["url"] if line else ""
        assert url, (tmp_path / "log").read_text()
        children = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
        assert children, "the engine has a process of its own"
        body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2, "model": "nano"}
        request = urllib.request.Request(
            f"{url}/v1/chat/completions",
            json.dumps(body).encode(),
            {"content-type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            assert json.load(answer)["choices"]
        for child in children:
            assert Path(f"/proc/{child}/cwd").readlink() == Path("/")
            environment = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
            assert b"PYTHONSAFEPATH=1" in environment
    finally:
        server.terminate()
        server.wait(30)
        assert server.stdout is not None
        server.stdout.close()
    assert planted.ran == []


def use(name: str, **arguments: object) -> list[object]:
    """A turn of a model that calls one tool."""
    return [
        delta(role="assistant", tool_calls=[call(0, f"{name}-1", name, json.dumps(arguments))]),
        delta("tool_calls"),
    ]


CALLS = {
    "bash": use("bash", command="true; git status --short | head -3; python3 -c 'import json'"),
    "python": use("python", code="import os; print(os.getcwd())"),
    "run_tests": use("run_tests", target=["README.md"]),
    "chart": use("chart", kind="bar", path="c.png", title="t", series=[{"y": [1, 2]}]),
    "search": use("search", query="capital of Chad"),
    "write_file": use("write_file", path="made.txt", content="x"),
}


def sandbox_works() -> bool:
    try:
        open_sandbox()
    except SandboxError:
        return os.environ.get("CI") == "true"
    return True


@pytest.mark.parametrize("tools", [["bash"], pytest.param(list(CALLS), marks=pytest.mark.slow)])
def test_tools_that_start_processes_take_nothing_from_the_folder(
    tools: list[str], launcher: str, planted: Planted
) -> None:
    """The sandbox hides the marker; outside of it nothing of the folder runs."""
    if not sandbox_works():
        pytest.skip("no sandbox here")
    script = [CALLS[name] for name in tools]
    with OpenAIServer([*script, DONE]) as server:
        printed = perilune(
            planted, launcher, "run", "do it", "--endpoint", server.url, "--tools", ",".join(tools)
        )
        assert len(server.requests) >= len(tools) + 1, printed
    assert planted.ran == [], printed


@pytest.mark.slow
def test_nano_takes_nothing_from_the_folder(launcher: str, planted: Planted) -> None:
    printed = perilune(planted, launcher, "run", "What is the capital of Chad?")
    assert "N'Djamena" in printed
    assert planted.ran == []


MCP = """
from mcp.server.mcpserver import MCPServer
server = MCPServer("test")
@server.tool()
def ping() -> str:
    return "pong"
server.run()
"""


def test_an_mcp_server_that_is_a_module_takes_nothing_from_the_folder(
    launcher: str, planted: Planted, tmp_path: Path
) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "server.py").write_text(MCP)
    where = tmp_path / "outside" / "server.py"
    code = f"import runpy; runpy.run_path({str(where)!r}, run_name='__main__')"
    command = f'x={sys.executable} -c "{code}"'
    with OpenAIServer([DONE]) as server:
        printed = perilune(
            planted, launcher, "run", "do it", "--endpoint", server.url, "--tools", "none",
            "--mcp", command,
        )  # fmt: skip
        names = [each["function"]["name"] for each in server.requests[0].get("tools", [])]
    assert any("ping" in name for name in names), printed
    assert planted.ran == [], printed


def test_the_folder_is_planted_well(tmp_path: Path) -> None:
    """What the other tests count on: without care, the folder does run."""
    planted = plant(tmp_path / "planted", tmp_path / "marker")
    git = ["/usr/bin/git", "-c", "safe.directory=*", "diff"]
    (planted.folder / "README.md").write_text("changed\n")
    for command in ([sys.executable, "-c", "import json"], git, ["uname"]):
        subprocess.run(
            command, cwd=planted.folder, env=planted.environment(), stdin=subprocess.DEVNULL,
            capture_output=True, timeout=60,
        )  # fmt: skip
    assert {"json", "evil.sh", "program:uname"} <= set(planted.ran)
