"""`perilune generate`, as a user runs it, on tiny checkpoints."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from perilune.cli import generate as generate_module
from perilune.cli.generate import app
from perilune.cli.models import new
from perilune.config import Family
from perilune.errors import ChatError, ConfigError, UsageError
from perilune.formats import StorageFormat
from perilune.formats.bf16 import BF16
from perilune.formats.fp8 import FP8
from perilune.formats.int4 import INT4

runner = CliRunner()


@pytest.fixture(scope="module")
def k25(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "k25"
    new(folder, like=Family.K25, storage=INT4, seed=3)
    return folder


def run(*arguments: object, stdin: str | None = None) -> Any:
    return runner.invoke(app, [str(a) for a in arguments], input=stdin)


def test_demo_says_that_it_is_one() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from perilune.cli.main import main; main()",
         "generate", "--demo", "--max-tokens", "8"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("\n")
    assert len(done.stdout) > 1
    assert "random weights" in done.stderr
    assert "what it says is noise" in done.stderr
    assert "--model DIR" in done.stderr
    assert re.search(r"8 tokens \(length\), [\d.]+ tokens/s", done.stderr)
    written = Path(done.stderr.split(":")[0])
    assert written.name == "tiny"
    assert not written.exists()  # it cleans up after itself


def test_without_a_model_it_is_the_demo() -> None:
    done = run("--max-tokens", 2)
    assert done.exit_code == 0
    assert "what it says is noise" in done.stderr


def test_a_prompt_is_continued_greedily(k25: Path) -> None:
    first, second = (
        json.loads(run("--model", k25, "--prompt", "Moon", "--max-tokens", 6, "--json").stdout)
        for _ in range(2)
    )
    assert first["token_ids"] == second["token_ids"]
    assert first["sampling"] == {"max_tokens": 6, "temperature": 0.0, "top_p": 1.0, "seed": None}
    assert first["usage"] == {"prompt_tokens": first["usage"]["prompt_tokens"],
                              "completion_tokens": 6}  # fmt: skip
    assert first["finish_reason"] == "length"
    assert first["message"]["content"]


def test_the_reference_is_asked_for_by_name(k25: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ways: list[str] = []
    for name in ("by_engine", "by_reference"):
        way = getattr(generate_module, name)
        monkeypatch.setattr(
            generate_module, name, lambda *a, n=name, w=way, **k: ways.append(n) or w(*a, **k)
        )
    arguments = ("--model", k25, "--prompt", "Moon", "--max-tokens", 4, "--json")
    for flags in ((), ("--reference",), ("--dtype", "float32")):
        done = json.loads(run(*arguments, *flags).stdout)
        assert len(done["token_ids"]) == 4
        assert done["finish_reason"] == "length"
    assert ways == ["by_engine", "by_reference", "by_reference"]


def test_the_stream_is_what_json_says(k25: Path) -> None:
    arguments = ("--model", k25, "--prompt", "-", "--max-tokens", 12)
    streamed = run(*arguments, stdin="The Moon")
    told = json.loads(run(*arguments, "--json", stdin="The Moon").stdout)
    assert streamed.stdout == told["message"]["content"] + "\n"


def test_a_message_is_asked_in_the_chat_format(k25: Path) -> None:
    from perilune.chat.format import ChatFormat

    arguments = ("--model", k25, "--message", "Hi", "--max-tokens", 5, "--seed", 1, "--json")
    thinking = json.loads(run(*arguments).stdout)
    instant = json.loads(run(*arguments, "--no-thinking", "--system", "Be kind.").stdout)
    chat = ChatFormat.from_pretrained(k25)
    asked = [{"role": "user", "content": "Hi"}]
    assert thinking["usage"]["prompt_tokens"] == len(chat.encode(asked))
    told = [{"role": "system", "content": "Be kind."}, *asked]
    assert instant["usage"]["prompt_tokens"] == len(chat.encode(told, thinking=False))
    assert (thinking["sampling"]["temperature"], thinking["sampling"]["top_p"]) == (1.0, 0.95)
    assert (instant["sampling"]["temperature"], instant["sampling"]["top_p"]) == (0.6, 0.95)
    assert "reasoning_content" in thinking["message"]


def test_thinking_goes_to_stderr(k25: Path) -> None:
    arguments = ("--model", k25, "--message", "Hi", "--max-tokens", 5, "--temperature", 0)
    told = json.loads(run(*arguments, "--json").stdout)["message"]
    done = run(*arguments)
    assert done.stdout.strip() == (told["content"] or "").strip()
    assert told["reasoning_content"] in done.stderr


def test_dtype_is_what_it_computes_in(k25: Path) -> None:
    arguments = ("--model", k25, "--prompt", "a", "--max-tokens", 3)
    assert run(*arguments, "--dtype", "float32").exit_code == 0
    assert run(*arguments, "--dtype", "int3").exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--prompt", "a", "--message", "b"], "not both"),
        (["--prompt", "a", "--system", "b"], "--system goes with --message"),
        ([], "nothing to do"),
        (["--prompt", ""], "prompt is empty"),
        (["--prompt", "a", "--top-p", "0"], "top_p"),
        (["--prompt", "a", "--device", "moon"], "device moon is not available"),
        (["--prompt", "a", "--seed", str(2**64)], "does not fit into 64 bits"),
    ],
)
def test_what_makes_no_sense_is_said_before_anything_is_loaded(
    k25: Path, arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("weights were read")

    monkeypatch.setattr("perilune.weights.load.open_checkpoint", refuse)
    error = run("--model", k25, *arguments).exception
    assert isinstance(error, UsageError)
    assert message in str(error)


def test_wrong_folders_are_named(tmp_path: Path, k25: Path) -> None:
    assert isinstance(run("--model", tmp_path / "no", "--prompt", "a").exception, ConfigError)
    assert isinstance(run("--model", tmp_path / "no", "--message", "a").exception, ConfigError)
    shutil.copy(k25 / "config.json", tmp_path)
    assert isinstance(run("--model", tmp_path, "--prompt", "a").exception, ChatError)


def test_an_error_is_one_line_and_its_remedy(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from perilune.cli.main import main; main()",
         "generate", "--model", str(tmp_path), "--message", "hi"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("perilune: config.json")
    assert "remedy: " in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("family", "storage", "thinking", "temperature", "top_p"),
    [
        (Family.K2, BF16, "--thinking", 0.6, 1.0),
        (Family.K2, FP8, "--thinking", 0.6, 1.0),
        (Family.K2_THINKING, INT4, "--thinking", 1.0, 1.0),
        (Family.K25, INT4, "--thinking", 1.0, 0.95),
        (Family.K25, INT4, "--no-thinking", 0.6, 0.95),
    ],
)
def test_every_member_answers_with_the_sampling_of_its_model_card(
    family: Family,
    storage: StorageFormat,
    thinking: str,
    temperature: float,
    top_p: float,
    tmp_path: Path,
) -> None:
    new(tmp_path / "tiny", like=family, storage=storage)
    done = run(
        "--model", tmp_path / "tiny", "--message", "Hi", thinking, "--max-tokens", 4, "--json"
    )
    assert done.exit_code == 0, done.exception
    answer = json.loads(done.stdout)
    assert len(answer["token_ids"]) == answer["usage"]["completion_tokens"] > 0
    sampling = answer["sampling"]
    assert (sampling["temperature"], sampling["top_p"]) == (temperature, top_p)


def test_what_is_piped_in_is_below_the_message(k25: Path) -> None:
    """`cat poem | perilune generate --message "explain"` left the poem out."""
    words = [sys.executable, "-c", "from perilune.cli.main import main; main()",
             "generate", "--model", str(k25), "--message", "explain", "--max-tokens", "1",
             "--json"]  # fmt: skip
    with_it, without = (
        subprocess.run(
            [*words, *more], input="a poem\n", capture_output=True, text=True, check=True
        )
        for more in ([], ["--no-stdin"])
    )
    assert "standard input: 7 bytes, 1 line, added to the message" in with_it.stderr
    assert "standard input" not in without.stderr
    longer, shorter = (
        json.loads(done.stdout)["usage"]["prompt_tokens"] for done in (with_it, without)
    )
    assert longer > shorter
