"""Pictures that a person names: `--image`, and paths in a line as terminals write them."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from perilune.cli.pictures import named_pictures, read_line, with_pictures
from perilune.errors import UsageError
from tests.agent.conftest import home, workspace  # noqa: F401  (fixtures)
from tests.agent.drawn import image_part, jpeg, png, url
from tests.agent.openai_server import OpenAIServer, delta
from tests.agent.test_cli import Cli

ONE_FOLDER = [HealthCheck.function_scoped_fixture]
SAY = [delta(content="A red one.", finish="stop")]


@pytest.fixture
def cli(workspace, home, monkeypatch: pytest.MonkeyPatch, capfd) -> Cli:  # noqa: F811
    return Cli(workspace, home, monkeypatch, capfd)


@pytest.fixture
def shots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("mock.png", "my shot.png", "it's.png", "no suffix"):
        (tmp_path / name).write_bytes(png())
    (tmp_path / "photo.jpg").write_bytes(jpeg())
    (tmp_path / "notes.txt").write_text("mock.png")
    (tmp_path / "bad.png").write_bytes(b"<svg>")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("what is @mock.png?", ["mock.png"]),
        ("compare @mock.png, @photo.jpg and notes.txt", ["mock.png", "photo.jpg"]),
        ("{here}/mock.png", ["mock.png"]),
        ("{here}/my\\ shot.png what is it", ["my shot.png"]),  # macOS
        ("'{here}/my shot.png' what is it", ["my shot.png"]),  # GNOME
        ("'{here}/it'\\''s.png'", ["it's.png"]),
        ("{here}/it\\'s.png", ["it's.png"]),
        ('"{here}/my shot.png" here', ["my shot.png"]),  # Windows Terminal
        ("file://{here}/my%20shot.png", ["my shot.png"]),
        ("{here}/my shot.png", ["my shot.png"]),  # a line that is a path with spaces
        ('look at @"my shot.png" and @\'it\'\\\'\'s.png\'', ["my shot.png", "it's.png"]),
        ("~/mock.png and mock.png", ["mock.png", "mock.png"]),
        ("@'no suffix' is one by its bytes", ["no suffix"]),
        ("don't look at @someone or notes.txt, it's no 'picture'", []),
        ("see http://example.org/mock.png and file://elsewhere/mock.png", []),
        ("mail me@mock.png", []),
        ("", []),
    ],
)  # fmt: skip
def test_lines_as_terminals_write_them(shots: Path, line: str, names: list[str]) -> None:
    found = named_pictures(line.replace("{here}", str(shots)))
    assert [each.name for each in found] == names
    content = read_line(line.replace("{here}", str(shots)))
    assert (content == line.replace("{here}", str(shots))) == (not names)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("see @gone.png", "there is no picture gone.png"),
        ("see @bad.png", "not PNG, JPEG, WebP or GIF, but SVG"),
    ],
)
def test_a_picture_that_cannot_be_taken_is_said(shots: Path, line: str, said: str) -> None:
    with pytest.raises(UsageError, match=said) as error:
        read_line(line)
    assert error.value.remedy


@settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    name=st.text(
        st.characters(exclude_categories=("Cs", "Cc", "Zl", "Zp"), exclude_characters="/\0"),
        min_size=1, max_size=20,
    ).filter(lambda name: len(name.encode()) < 200 and name.strip() == name)
)  # fmt: skip
def test_any_name_in_a_shells_quotes_is_found(shots: Path, name: str) -> None:
    file = shots / "any" / f"{name}.png"
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(png())
    single = "'" + str(file).replace("'", "'\\''") + "'"
    escaped = "".join(c if c.isalnum() or c in "/._-" else f"\\{c}" for c in str(file))
    for written in (single, escaped, shlex.quote(str(file))):
        found = named_pictures(f"see {written} please")
        if '"' in written and written == shlex.quote(str(file)):
            continue  # `'"'"'`, which no terminal writes
        assert found == [file], written


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.text(st.sampled_from("@'\"\\ ./~amockpng%:file\0é"), max_size=60))
def test_any_line_is_read(shots: Path, line: str) -> None:
    try:
        assert all(each.is_file() for each in named_pictures(line))
    except UsageError:
        assert "@" in line


def test_a_task_names_its_pictures() -> None:
    part = image_part(png(), name="a.png")
    assert with_pictures("t", []) == "t"
    text, picture = with_pictures("Build it.", [part])
    assert text["text"] == "Build it.\n\nPictures:\n1. a.png"
    assert picture is part


def test_run_sends_pictures_and_trace_shows_them(cli: Cli, workspace: Path) -> None:  # noqa: F811
    (workspace / "mock.png").write_bytes(png(1280, 720))
    (workspace / "b.jpg").write_bytes(jpeg())
    with OpenAIServer([SAY]) as server:
        done = cli(
            "run", "What is it?", "--endpoint", server.url, "--tools", "none",
            "--image", "mock.png", "--image", "b.jpg",
        )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "A red one.\n"), done.stderr
    parts = server.requests[0]["messages"][-1]["content"]
    assert [part["type"] for part in parts] == ["text", "image_url", "image_url"]
    assert parts[1]["image_url"]["url"] == url(png(1280, 720))
    assert parts[2]["image_url"]["url"] == url(jpeg(), "jpeg")
    folder = cli.home / "runs" / cli.run_id
    shown = " ".join(cli("trace", "show", "last").stdout.split())
    for file in (folder / "pictures").iterdir():
        assert file.name in shown.replace(" ", "")
    assert "mock.png, PNG, 1280 x 720" in shown
    assert "1,196 tokens" in shown
    lines = cli("trace", "show", "last", "--json").stdout.splitlines()
    events = [json.loads(line) for line in lines]
    (message,) = [each for each in events if each["type"] == "user.message"]
    assert [part.get("name") for part in message["content"]] == [None, "mock.png", "b.jpg"]
    assert (folder / "pictures" / f"{message['content'][1]['sha256']}.png").exists()
    assert cli("trace", "show", "last", "--json", "--tree").returncode == 2
    exported = json.loads(cli("trace", "export", "last", "--format", "messages").stdout)
    assert exported["messages"][1]["content"][1]["image_url"]["url"] == url(png(1280, 720))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("run", "t", "--image", "gone.png"), "gone.png cannot be read"),
        (("run", "t", "--image", "bad.png"), "not PNG, JPEG, WebP or GIF"),
        (("run", "t", "--image", "."), "cannot be read"),
        (("run", "--resume", "last", "--image", "bad.png"), "--image goes with a task"),
    ],
)
def test_a_bad_image_is_wrong_usage(cli: Cli, workspace: Path, words, said: str) -> None:  # noqa: F811
    (workspace / "bad.png").write_text("<svg>")
    done = cli(*words, "--endpoint", "http://127.0.0.1:9", "--model", "m")
    assert done.returncode == 2
    assert said in " ".join(done.stderr.split())
    assert not (cli.home / "runs").exists()


def test_a_chat_takes_pictures(cli: Cli, workspace: Path) -> None:  # noqa: F811
    (workspace / "my shot.png").write_bytes(png())
    lines = (
        f"what is @'my shot.png'?\n{workspace}/my\\ shot.png\nand @gone.png?\n/nonsense\n/quit\n"
    )
    with OpenAIServer([SAY]) as server:
        done = cli("chat", "--endpoint", server.url, "--tools", "none", stdin=lines)
    assert done.returncode == 0, done.stderr
    assert len(server.requests) == 2
    for request in server.requests:
        assert request["messages"][-1]["content"][1]["image_url"]["url"] == url(png())
    assert "there is no picture gone.png" in done.stdout
    assert "no command /nonsense" in done.stdout
