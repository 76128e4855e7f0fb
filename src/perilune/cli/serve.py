"""`perilune serve`: a model on the wire.

The flags are made from the options of `serve.settings`, with an environment twin each
(`PERILUNE_SERVE_...`) and the same names in a configuration file. What is nearer wins: flag,
environment, --config or the user's file, default.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any, get_args

import click
import typer
import typer.core

import perilune
from perilune.errors import PeriluneError, UsageError
from perilune.serve.settings import Settings, option_fields

app = typer.Typer(add_completion=False)
EMBEDDED = Path(perilune.__file__).parent / "assets" / "nano"


def environment_name(field: str) -> str:
    return f"PERILUNE_SERVE_{field.upper()}"


def run_server(model: Path | None, demo: bool, values: dict[str, Any]) -> None:
    """Build the settings, find the model, and serve until told to end."""
    given: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    settings = Settings.from_options(given)
    check_settings(settings)
    with ExitStack() as stack:
        folder = find_model(model, demo, stack)
        status = asyncio.run(_serve(folder, settings, demo))
    if status:
        raise typer.Exit(status)


def check_settings(settings: Settings) -> None:
    """Raises UsageError for a public address without a key, or a bad key, before anything is
    written or loaded.
    """
    from perilune.serve.guard import check_exposure
    from perilune.serve.keys import Keys

    check_exposure(settings, Keys.from_settings(settings))


def find_model(model: Path | None, demo: bool, stack: ExitStack) -> Path:
    """The folder to serve. Raises UsageError, saying how to name a model."""
    if demo and model is not None:
        raise UsageError("give either a model or --demo, not both")
    if demo:
        from perilune.cli.generate import write_demo_checkpoint

        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="perilune-demo-"))
        return write_demo_checkpoint(Path(folder) / "demo")
    if model is not None:
        if not model.is_dir():
            raise UsageError(f"{model} is not a folder", remedy="Give a checkpoint folder")
        return model
    if (EMBEDDED / "config.json").is_file():
        return EMBEDDED
    raise UsageError(
        "no model is named, and this installation has no embedded one",
        remedy="Name a checkpoint folder: perilune serve DIR (or PERILUNE_MODEL=DIR); "
        "or try a tiny random model: perilune serve --demo",
    )


async def _serve(folder: Path, settings: Settings, demo: bool) -> int:
    from perilune.serve.build import build_service
    from perilune.serve.server import address, listen, serve, set_up_log

    set_up_log(as_json=settings.json)
    bound = listen(settings.host, settings.port)
    service = build_service(folder, settings)
    url = address(bound)
    if not settings.json:
        print(f"Loading {folder.name}; listening on {url}", file=sys.stderr)

    def on_ready() -> None:
        if settings.json:
            ready = {"event": "ready", "url": url, "model": service.model_name, "pid": os.getpid()}
            print(json.dumps(ready), flush=True)
            return
        noise = " What this tiny random model says is noise." if demo else ""
        print(f"{service.model_name} is served at {url}/v1.{noise}", flush=True)

    return await serve(service, bound, on_ready)


# --- flags from settings -------------------------------------------------------------------------


def _read_config(context: click.Context, parameter: Any, path: Path | None) -> Path | None:
    """Put a file's values where the defaults are looked up. Runs before the other flags."""
    chosen = path or _user_file()
    if chosen is None:
        return None
    try:
        table = tomllib.loads(chosen.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"the configuration {chosen} cannot be read: {error}") from None
    table = table.get("serve", table if path is not None else {})
    known = {field.name for field, _ in option_fields()} | {"model", "demo"}
    values = {key.replace("-", "_"): value for key, value in table.items()}
    if unknown := sorted(set(values) - known):
        raise UsageError(
            f"{chosen}: {unknown[0]!r} is not an option of serve",
            remedy="perilune serve --help lists them",
        )
    several = {f.name for f, _ in option_fields() if isinstance(f.default, tuple)}
    context.default_map = {  # a lone text is one value, not a list of its letters
        key: [value] if key in several and isinstance(value, str) else value
        for key, value in values.items()
    }
    return path


def _user_file() -> Path | None:
    home = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    path = Path(home) / "perilune" / "config.toml"
    return path if path.is_file() else None


def _parameters() -> Iterator[inspect.Parameter]:
    """The command's parameters, as typer reads them."""

    def parameter(name: str, kind: Any, info: Any, default: Any) -> inspect.Parameter:
        return inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=default,
            annotation=Annotated[kind, info],
        )

    yield parameter(
        "model", Path | None,
        typer.Argument(
            envvar="PERILUNE_MODEL", metavar="[MODEL]",
            help="Checkpoint folder. Default: the embedded model.",
        ), None,
    )  # fmt: skip
    yield parameter(
        "config", Path | None,
        typer.Option(
            "--config", envvar="PERILUNE_SERVE_CONFIG", is_eager=True, callback=_read_config,
            metavar="FILE.toml",
            help="Options from a file, at its top or in [serve]. "
            "Default: ~/.config/perilune/config.toml, [serve].",
        ), None,
    )  # fmt: skip
    yield parameter(
        "demo", bool,
        typer.Option("--demo", envvar="PERILUNE_SERVE_DEMO", help="Serve a tiny random model."),
        False,
    )  # fmt: skip
    for field, kind in option_fields():
        default: Any = field.default
        flag = "--" + field.name.replace("_", "-")
        names = [environment_name(field.name)]
        if field.name == "api_key":
            names.append("PERILUNE_API_KEY")
        options: dict[str, Any] = {"help": field.metadata["help"], "envvar": names}
        for ours, theirs in (("least", "min"), ("most", "max")):
            if ours in field.metadata:
                options[theirs] = field.metadata[ours]
        if field.metadata.get("secret"):
            options["show_default"] = False
        if kind == tuple[str, ...]:
            kind, default = list[str], list(default)
        declared = [flag] if bool not in (kind, *get_args(kind)) else [f"{flag}/--no-{flag[2:]}"]
        yield parameter(field.name, kind, typer.Option(*declared, **options), default)


def _make_command() -> Any:
    def command(**values: Any) -> None:
        values.pop("config")
        run_server(values.pop("model"), values.pop("demo"), values)

    parameters = list(_parameters())
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    command.__doc__ = "Serve a model over the OpenAI and Anthropic APIs."
    return command


class _Serve(typer.core.TyperCommand):
    """Takes vLLM's form too: `serve MODEL --served-model-name A B C`, up to the next flag."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, more_names(args))


def more_names(args: list[str]) -> list[str]:
    """Each name behind `--served-model-name` with a flag of its own.

    A word behind the first is a name only where MODEL has been given before: otherwise it is MODEL.
    """
    flag, spread = "--served-model-name", list[str]()
    names, model_given = False, False
    for at, word in enumerate(args):
        before = args[at - 1] if at else ""
        if word.startswith("-"):
            names = word == flag or word.startswith(flag + "=")
        elif names and model_given and before != flag:
            spread.append(flag)
        elif not before.startswith("--") or "=" in before or before in _SWITCHES:
            model_given = True
        spread.append(word)
    return spread


_SWITCHES = frozenset(  # flags without a value
    f"--{no}{field.name.replace('_', '-')}"
    for field, _ in option_fields()
    if isinstance(field.default, bool)
    for no in ("", "no-")
) | {"--demo"}


app.command(name="serve", cls=_Serve)(_make_command())
__all__ = ["PeriluneError", "app", "environment_name", "find_model", "run_server"]
