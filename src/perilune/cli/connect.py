"""`perilune connect`: point Claude Code, Kimi Code, Codex or an OpenAI client at a server."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from perilune.cli.client_settings import CLIENTS, Target, settings_for
from perilune.errors import UsageError

app = typer.Typer(add_completion=False)


@app.command()
def connect(
    client: Annotated[str, typer.Argument(help=f"One of {', '.join(CLIENTS)}.")],
    base_url: Annotated[
        str, typer.Option(envvar="PERILUNE_BASE_URL", help="Address of the server.")
    ] = "http://127.0.0.1:8000",
    model: Annotated[
        str | None, typer.Option(help="Name of the model. Default: the first that it lists.")
    ] = None,
    context: Annotated[
        int | None, typer.Option(min=1, help="Tokens of context. Default: what the server says.")
    ] = None,
    api_key: Annotated[
        str | None,
        typer.Option(
            envvar="PERILUNE_API_KEY",
            help="A key of the server. Default: none.",
            show_default=False,
        ),
    ] = None,
    write: Annotated[
        bool, typer.Option("--write", help="Write the client's settings file, not only print it.")
    ] = False,
    path: Annotated[
        Path | None, typer.Option(help="Settings file. Default: the client's own.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Print a client's settings for a server, or write them.

    What is printed for claude and openai is for a shell: eval "$(perilune connect claude)".
    """
    from perilune.agent.models.endpoint_url import read_endpoint_url

    url = read_endpoint_url(base_url).root
    if client not in CLIENTS:
        raise UsageError(
            f"{client!r} is not a client", remedy=f"Choose one of: {', '.join(CLIENTS)}"
        )
    if model is None or context is None:
        listed = ask_server(url, api_key, model)
        model, context = model or listed["id"], context or listed.get("max_model_len")
        if not isinstance(context, int):
            raise UsageError(f"{url} does not say the model's context", remedy="Give --context")
    settings = settings_for(client, Target(url, model, context, api_key), path)
    if write:
        write_private(settings.path, settings.merge(read_text(settings.path)))
    if as_json:
        print(
            json.dumps(
                {
                    "client": client,
                    "path": str(settings.path),
                    "written": write,
                    "settings": settings.shown,
                    "start": settings.start,
                }
            )
        )
    elif write:
        print(f"perilune: wrote {settings.path}; start it with: {settings.start}", file=sys.stderr)
    else:
        print(settings.shown, end="")
        print(f"# for {settings.path} (--write puts it there): {settings.start}", file=sys.stderr)


def ask_server(url: str, api_key: str | None, model: str | None) -> dict[str, Any]:
    """The entry of its model list, of `model` or the first that every client takes (no slash).

    Raises UsageError.
    """
    import httpx

    headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
    try:
        reply = httpx.get(f"{url}/v1/models", headers=headers, timeout=10)
        reply.raise_for_status()
        listed = reply.json()["data"]
        entries = [entry for entry in listed if model is None or entry["id"] == model]
        entries.sort(key=lambda entry: "/" in str(entry["id"]))
    except httpx.HTTPStatusError as error:
        raise UsageError(
            f"{url}/v1/models answers {error.response.status_code}",
            remedy="Give a key of the server: --api-key, or PERILUNE_API_KEY",
        ) from None
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{url} does not list its models: {error}",
            remedy="Start the server (perilune serve), or give --model and --context",
        ) from None
    if not entries:
        raise UsageError(
            f"{url} serves no model {model!r}",
            remedy="It serves: " + ", ".join(str(entry["id"]) for entry in listed),
        )
    return dict(entries[0])


def read_text(path: Path) -> str | None:
    try:
        return path.read_text("utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from None


def write_private(path: Path, text: str) -> None:
    """Replace a file whole, readable for its owner only: it holds a key. Raises UsageError."""
    path = path.resolve()  # a link stays a link
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error}") from None
