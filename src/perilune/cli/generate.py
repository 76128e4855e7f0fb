"""`perilune generate`: one prompt, one answer, by the engine, or by the reference generation.

The answer goes to stdout, all else (thinking, progress, speed) to stderr, so that the verb can
stand in a pipe.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, redirect_stdout
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import typer

from perilune.cli import standard_input
from perilune.cli.engine_option import DEVICE, Device
from perilune.cli.terminal import Terminal
from perilune.config import Family, read_config
from perilune.errors import RequestError, UsageError
from perilune.formats.int4 import INT4

if TYPE_CHECKING:
    from perilune.chat.deltas import Delta
    from perilune.chat.tokenizer import Tokenizer

DEMO_PROMPT = "The Moon is"
DEMO_TOKENS = 48

app = typer.Typer(add_completion=False)


class Dtype(StrEnum):
    """What to compute in."""

    BFLOAT16 = "bfloat16"
    FLOAT32 = "float32"


@app.command()
def generate(
    model: Annotated[
        Path | None,
        typer.Option(envvar="PERILUNE_MODEL", help="Checkpoint folder; without one, --demo."),
    ] = None,
    prompt: Annotated[
        str | None, typer.Option(help="Text to continue as it is; - reads it from stdin.")
    ] = None,
    message: Annotated[
        str | None,
        typer.Option(
            help="Message to answer in the chat format, and below it what is piped in; "
            "- reads it from stdin."
        ),
    ] = None,
    system: Annotated[str | None, typer.Option(help="System prompt for --message.")] = None,
    thinking: Annotated[
        bool, typer.Option(help="Think before answering, where the model can choose.")
    ] = True,
    max_tokens: Annotated[
        int, typer.Option(min=1, help="Maximum number of tokens to generate.")
    ] = 1024,
    temperature: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            help="Sampling temperature; 0 is greedy. Default: 0 for --prompt, the model card's for "
            "--message.",
        ),
    ] = None,
    top_p: Annotated[
        float | None, typer.Option(help="Sample from the likeliest tokens up to this mass.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Makes the random choices repeatable.")] = None,
    reference: Annotated[
        bool,
        typer.Option(
            "--reference", help="Use the reference in plain PyTorch: slow, for comparison."
        ),
    ] = False,
    dtype: Annotated[
        Dtype | None,
        typer.Option(help="Type that the reference computes in. Default: the stored type."),
    ] = None,
    device: Device = DEVICE,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object at the end instead of a stream.")
    ] = False,
    no_stdin: Annotated[
        bool, typer.Option("--no-stdin", help="Do not add what is piped in to the message.")
    ] = False,
    demo: Annotated[
        bool, typer.Option("--demo", help="Write a tiny random model and generate with it.")
    ] = False,
) -> None:
    """Continue a prompt, or answer a message, with a local model."""
    if prompt is not None and message is not None:
        raise UsageError("give either --prompt or --message, not both")
    if system is not None and message is None:
        raise UsageError("--system goes with --message")
    terminal = Terminal()
    if message is not None:
        message = _message(message, terminal, no_stdin=no_stdin)
    with ExitStack() as stack:
        if demo or model is None:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="perilune-demo-"))
            model = write_demo_checkpoint(Path(folder) / "tiny")
            terminal.note(
                "That is a tiny model, written for this run only: what it says is noise. "
                "For real answers give --model DIR."
            )
            prompt = DEMO_PROMPT if prompt is None and message is None else prompt
            max_tokens = min(max_tokens, DEMO_TOKENS)
        if message is not None:
            turn = encode_message(model, message, system, thinking=thinking)
        elif prompt is not None:
            turn = encode_prompt(model, _text(prompt))
        else:
            raise UsageError("nothing to do", remedy="Give --prompt TEXT or --message TEXT")
        if temperature is not None:
            turn.temperature = temperature
        if top_p is not None:
            turn.top_p = top_p
        turn.max_tokens, turn.seed = max_tokens, seed
        if reference or dtype is not None:  # the engine chooses its own arithmetic
            way: Callable[..., str] = partial(by_reference, dtype=dtype, device=device)
        else:
            way = partial(by_engine, device=device)
        answer = speak(model, turn, way, None if as_json else terminal)
    if as_json:
        print(json.dumps(answer, ensure_ascii=False, indent=2))


class Parser(Protocol):
    """Token ids -> deltas: `chat.ChatParser`, or `PlainText`."""

    def feed(self, token_id: int) -> list[Delta]: ...
    def finish(self) -> list[Delta]: ...


@dataclass(slots=True)
class Turn:
    """What the model is given, how its answer is read, and how tokens are chosen."""

    prompt_ids: list[int]
    parser: Parser
    stop_ids: frozenset[int]
    temperature: float = 0.0
    top_p: float = 1.0
    max_tokens: int = 1024
    seed: int | None = None

    @property
    def sampling(self) -> dict[str, Any]:
        return {
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "seed": self.seed,
        }


def encode_message(folder: Path, message: str, system: str | None, *, thinking: bool) -> Turn:
    """A conversation of one message, in the format of the checkpoint's family."""
    from perilune.chat.format import ChatFormat
    from perilune.engine.conversation import recommended_sampling

    chat = ChatFormat.from_pretrained(folder)
    messages = [{"role": "user", "content": message}]
    if system is not None:
        messages.insert(0, {"role": "system", "content": system})
    ids = chat.encode(messages, thinking=thinking)
    sampling = recommended_sampling(chat.family, thinking=thinking)
    parser = chat.parser(thinking=thinking)
    return Turn(ids, parser, chat.stop_ids, sampling.temperature, sampling.top_p)


def encode_prompt(folder: Path, prompt: str) -> Turn:
    """Text to go on with as it stands: no roles, and every token of the answer is shown."""
    from perilune.chat.tokenizer import Tokenizer

    stop_ids = frozenset(read_config(folder).eos_token_ids)
    tokenizer = Tokenizer.from_pretrained(folder)
    return Turn(tokenizer.encode(prompt), PlainText(tokenizer, stop_ids), stop_ids)


class PlainText:
    """A parser for which every id but a stop id is content."""

    def __init__(self, tokenizer: Tokenizer, stop_ids: frozenset[int]) -> None:
        self._decoder = tokenizer.stream_decoder()
        self._stop_ids = stop_ids

    def feed(self, token_id: int) -> list[Delta]:
        return _content("" if token_id in self._stop_ids else self._decoder.feed(token_id))

    def finish(self) -> list[Delta]:
        return _content(self._decoder.finish())


def _content(text: str) -> list[Delta]:
    from perilune.chat.deltas import ContentDelta

    return [ContentDelta(text)] if text else []


def by_engine(
    folder: Path,
    turn: Turn,
    on_loaded: Callable[[], None],
    on_token: Callable[[int], None],
    *,
    device: str,
) -> str:
    """Generate with the engine (the C kernels where they can run the model) -> finish reason."""
    from perilune.engine.load import EngineOptions, load_engine
    from perilune.engine.sampling_params import SamplingParams

    engine = load_engine(folder, EngineOptions(max_sequences=1, device=device))
    on_loaded()
    try:
        engine.add_request(turn.prompt_ids, SamplingParams(**turn.sampling))
        while True:
            for output in engine.step():
                for token in output.tokens:
                    on_token(token)
                if output.error is not None:
                    raise RequestError(output.error)
                if output.finish_reason is not None:
                    return str(output.finish_reason)
    finally:
        engine.close()


def by_reference(
    folder: Path,
    turn: Turn,
    on_loaded: Callable[[], None],
    on_token: Callable[[int], None],
    *,
    dtype: Dtype | None,
    device: str,
) -> str:
    """Generate with the reference, in plain PyTorch -> finish reason."""
    import torch

    from perilune.model import generation
    from perilune.weights.load import load_model

    network = load_model(
        folder, dtype=None if dtype is None else getattr(torch, dtype), device=device
    )
    on_loaded()
    return generation.generate(
        network, turn.prompt_ids, stop_ids=turn.stop_ids, on_token=on_token, **turn.sampling
    ).finish_reason


def speak(
    folder: Path,
    turn: Turn,
    generate_by: Callable[[Path, Turn, Callable[[], None], Callable[[int], None]], str],
    terminal: Terminal | None,
) -> dict[str, Any]:
    """Load, generate, show the answer as it comes (given a terminal); returns what --json prints.

    Whatever can be refused is refused before the weights are read.
    """
    from perilune.chat.turn import assemble
    from perilune.model.generation import check_request

    check_request(read_config(folder).text, turn.prompt_ids, **turn.sampling)
    deltas: list[Delta] = []
    token_ids: list[int] = []
    times = [time.perf_counter()]  # of the begin, of the end of the load, of each token

    def show(new: list[Delta]) -> None:
        deltas.extend(new)
        if terminal is not None:
            for delta in new:
                _show(terminal, delta)

    def on_loaded() -> None:
        times.append(time.perf_counter())

    def on_token(token_id: int) -> None:
        times.append(time.perf_counter())
        token_ids.append(token_id)
        show(turn.parser.feed(token_id))

    try:
        finish_reason = generate_by(folder, turn, on_loaded, on_token)
        show(turn.parser.finish())
    finally:
        if terminal is not None:
            terminal.end()
    load, prefill = times[1] - times[0], times[2] - times[1]
    new, decode = len(token_ids), times[-1] - times[2]
    rate = (new - 1) / decode if decode > 0 else None
    if terminal is not None:
        speed = "" if rate is None else f", {rate:.1f} tokens/s"
        terminal.note(
            f"{new} tokens ({finish_reason}){speed}; prompt of {len(turn.prompt_ids)} "
            f"in {prefill:.2f} s, load {load:.1f} s"
        )
    return {
        "model": str(folder),
        "message": assemble(deltas),
        "finish_reason": finish_reason,
        "token_ids": token_ids,
        "usage": {"prompt_tokens": len(turn.prompt_ids), "completion_tokens": new},
        "sampling": turn.sampling,
        "seconds": {"load": load, "prefill": prefill, "decode": decode},
        "tokens_per_second": rate,
    }


def _show(terminal: Terminal, delta: Delta) -> None:
    from perilune.chat import deltas

    match delta:
        case deltas.ContentDelta(text):
            terminal.content(text)
        case deltas.ReasoningDelta(text) | deltas.ToolCallArguments(_, text):
            terminal.thinking(text)
        case deltas.ToolCallStart(_, _, name):
            terminal.thinking(f"\ncalls {name} ")
        case deltas.Truncated(where, _):
            terminal.note(f"the answer ends inside its {where.replace('_', ' ')}")


def _text(argument: str) -> str:
    return standard_input.read_all() if argument == "-" else argument


def _message(argument: str, terminal: Terminal, *, no_stdin: bool) -> str:
    """The message, and below it what is piped in: whole, for nobody here could read a file."""
    if argument == "-" or no_stdin:
        return _text(argument)
    piped = standard_input.piped(terminal.note)
    if piped is None:
        return argument
    terminal.note(piped.said(len(piped.text), what="message"))
    return piped.added_to(argument, None, most=len(piped.text))


def write_demo_checkpoint(folder: Path) -> Path:
    """A tiny K2.5 with random weights and a tokenizer, in the published INT4 layout."""
    from perilune.cli.models import new

    with redirect_stdout(sys.stderr):
        new(folder, like=Family.K25, storage=INT4)
    return folder
