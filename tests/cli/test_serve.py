"""`perilune serve`: where an option comes from, and what is refused before anything is loaded."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer.main
from click.testing import CliRunner

from perilune.cli import serve
from perilune.errors import UsageError
from perilune.serve.server import listen
from perilune.serve.settings import Settings, option_fields


@pytest.fixture
def chosen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Run the command up to its settings: `chosen(*flags, **environment)` -> (model, values)."""
    seen: list[Any] = []
    monkeypatch.setattr(serve, "run_server", lambda *given: seen.append(given))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))

    def run(*flags: str, **environment: str) -> tuple[Path | None, Any]:
        command = typer.main.get_command(serve.app)
        done = CliRunner().invoke(command, list(flags), env=environment)
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        assert done.exit_code == 0, done.output
        model, _, values = seen.pop()
        return model, values

    return run


def test_defaults_are_those_of_the_settings(chosen: Any) -> None:
    model, values = chosen()
    assert model is None
    given = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    assert Settings.from_options(given) == Settings()


def test_every_option_has_an_environment_twin(chosen: Any) -> None:
    examples = {"str": "127.9.9.9", "bool": "1", "Path": "/tmp/x", "tuple": "one two"}
    for field, _ in option_fields():
        kind = str(field.type).partition("[")[0].split(" ")[0]
        name = serve.environment_name(field.name)
        least = field.metadata.get("least")
        example = examples[kind] if least is None else str(least + 2)
        _, values = chosen(**{name: example})
        default = list(field.default) if isinstance(field.default, tuple) else field.default
        if default is not True:
            assert values[field.name] != default, name
    assert chosen(PERILUNE_API_KEY="a-key-of-mine")[1]["api_key"] == ["a-key-of-mine"]
    assert chosen(PERILUNE_MODEL="/m")[0] == Path("/m")


def test_what_is_nearer_wins(chosen: Any, tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('[serve]\nport = 1111\nmax-n = 3\napi_key = ["from-the-file"]\n')
    user = tmp_path / "perilune" / "config.toml"
    user.parent.mkdir()
    user.write_text("[serve]\nport = 2222\n[other]\nx = 1\n")
    assert chosen()[1]["port"] == 2222
    _, values = chosen("--config", str(file))
    assert (values["port"], values["max_n"], values["api_key"]) == (1111, 3, ["from-the-file"])
    _, values = chosen("--config", str(file), PERILUNE_SERVE_PORT="3333")
    assert values["port"] == 3333
    _, values = chosen("--config", str(file), "--port", "4444", PERILUNE_SERVE_PORT="3333")
    assert values["port"] == 4444


def test_bad_files_and_numbers_are_wrong_usage(chosen: Any, tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    for text, what in (("[serve]\nprot = 1", "'prot' is not an option"), ("[", "cannot be read")):
        file.write_text(text)
        with pytest.raises(UsageError, match=what):
            chosen("--config", str(file))
    for flags in (["--port", "70000"], ["--max-n", "0"], ["--drain-seconds", "-1"]):
        done = CliRunner().invoke(typer.main.get_command(serve.app), flags)
        assert done.exit_code == 2


def test_models_must_be_named_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from contextlib import ExitStack

    with ExitStack() as stack:
        with pytest.raises(UsageError, match="not a folder"):
            serve.find_model(tmp_path / "absent", False, stack)
        with pytest.raises(UsageError, match="not both"):
            serve.find_model(tmp_path, True, stack)
        assert serve.find_model(tmp_path, False, stack) == tmp_path
        monkeypatch.setattr(serve, "EMBEDDED", tmp_path / "absent")
        with pytest.raises(UsageError, match="no model is named") as error:
            serve.find_model(None, False, stack)
        assert "--demo" in error.value.remedy
        (tmp_path / "config.json").write_text("{}")
        monkeypatch.setattr(serve, "EMBEDDED", tmp_path)
        assert serve.find_model(None, False, stack) == tmp_path
        demo = serve.find_model(None, True, stack)
        assert (demo / "config.json").is_file()


def test_a_taken_port_says_so() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=f"cannot listen on 127.0.0.1:{port}") as error:
            listen("127.0.0.1", port)
        assert "--port" in error.value.remedy


def test_an_open_door_is_refused_before_anything_is_loaded() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "perilune", "serve", "--demo", "--host", "0.0.0.0"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2 and "no API key" in done.stderr
    assert "tensors" not in done.stderr


def test_names_and_other_lists_from_flags_and_file(chosen: Any, tmp_path: Path) -> None:
    model, values = chosen("DIR", "--served-model-name", "a", "b/c", "d", "--port", "0")
    assert model == Path("DIR") and values["served_model_name"] == ["a", "b/c", "d"]
    model, values = chosen("--served-model-name", "a", "DIR")
    assert model == Path("DIR") and values["served_model_name"] == ["a"]
    assert chosen(PERILUNE_SERVE_SERVED_MODEL_NAME="a b")[1]["served_model_name"] == ["a", "b"]
    file = tmp_path / "mine.toml"
    file.write_text('served-model-name = "one name"\ncors-origin = "http://localhost:3000"\n')
    _, values = chosen("--config", str(file))
    assert values["served_model_name"] == ["one name"]
    assert values["cors_origin"] == ["http://localhost:3000"]
