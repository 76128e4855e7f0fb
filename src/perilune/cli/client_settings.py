"""The settings that point a client at a server: what they are, where they go, how they are merged.

Sources: the clients themselves, as of Claude Code 2.1.330, Kimi Code 2.1.0, Codex 0.169.0 and
OpenAI's SDK 3.54.
"""

from __future__ import annotations

import json
import os
import shlex
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perilune.errors import UsageError

BEGIN = "# >>> perilune connect >>>"
END = "# <<< perilune connect <<<"
NO_KEY = "none"  # clients want a key even where the server does not


@dataclass(frozen=True, slots=True)
class Target:
    """A server: its address without `/v1`, the model's name and tokens of context."""

    url: str
    model: str
    context: int
    api_key: str | None = None


@dataclass(frozen=True, slots=True)
class ClientSettings:
    """Settings of one client. `merge`: text of the file (None: there is none) -> its new text."""

    client: str
    shown: str  # to be read, or run by a shell
    path: Path
    start: str  # the command that uses them
    merge: Callable[[str | None], str]


def settings_for(client: str, target: Target, path: Path | None = None) -> ClientSettings:
    """Raises UsageError for an unknown client, or a model name that the client cannot use."""
    make = CLIENTS.get(client)
    if make is None:
        raise UsageError(
            f"{client!r} is not a client", remedy=f"Choose one of: {', '.join(CLIENTS)}"
        )
    return make(target, path)


def _claude(target: Target, path: Path | None) -> ClientSettings:
    if "/" in target.model:
        raise UsageError(
            f"Claude Code takes no model name with a slash, such as {target.model!r}",
            remedy="Serve it under another one: perilune serve --served-model-name NAME",
        )
    environment = {
        "ANTHROPIC_BASE_URL": target.url,
        "ANTHROPIC_AUTH_TOKEN": target.api_key or NO_KEY,
        "ANTHROPIC_MODEL": target.model,
        "ANTHROPIC_DEFAULT_OPUS_MODEL": target.model,
        "ANTHROPIC_DEFAULT_SONNET_MODEL": target.model,
        "ANTHROPIC_DEFAULT_HAIKU_MODEL": target.model,
        "CLAUDE_CODE_MAX_CONTEXT_TOKENS": str(target.context),
        # A line of its system prompt that changes would keep the prefix cache from ever hitting.
        "CLAUDE_CODE_ATTRIBUTION_HEADER": "0",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    }

    def merge(old: str | None) -> str:
        settings = _json_object(old, file)
        before = settings.get("env")
        settings["env"] = {**(before if isinstance(before, Mapping) else {}), **environment}
        return json.dumps(settings, indent=2, ensure_ascii=False) + "\n"

    home = os.environ.get("CLAUDE_CONFIG_DIR")
    file = path or (Path(home) if home else Path.home() / ".claude") / "settings.json"
    return ClientSettings("claude", _exports(environment), file, "claude", merge)


def _kimi(target: Target, path: Path | None) -> ClientSettings:
    capabilities = '["thinking", "tool_use"]'
    text = (
        "[providers.perilune]\n"
        'type = "kimi"\n'
        f"base_url = {_toml(target.url + '/v1')}\n"
        f"api_key = {_toml(target.api_key or NO_KEY)}\n"
        "\n"
        "[models.perilune]\n"
        'provider = "perilune"\n'
        f"model = {_toml(target.model)}\n"
        f"max_context_size = {target.context}\n"
        f"capabilities = {capabilities}\n"
    )
    home = os.environ.get("KIMI_CODE_HOME")
    file = path or (Path(home) if home else Path.home() / ".kimi-code") / "config.toml"
    default = 'default_model = "perilune"\n'  # it does not start without one, even with -m

    def merge(old: str | None) -> str:
        new = _block(old, text, file)
        return new if "default_model" in tomllib.loads(new) else f"{default}\n{new}"

    return ClientSettings("kimi", f"{default}\n{text}", file, "kimi -m perilune", merge)


def _codex(target: Target, path: Path | None) -> ClientSettings:
    text = (
        f"model = {_toml(target.model)}\n"
        'model_provider = "perilune"\n'
        f"model_context_window = {target.context}\n"
        'web_search = "disabled"\n'  # a tool that only OpenAI's servers have
        "\n"
        "[model_providers.perilune]\n"
        'name = "Perilune"\n'
        f"base_url = {_toml(target.url + '/v1')}\n"
        'wire_api = "responses"\n'
    )
    start = "codex --profile perilune"
    if target.api_key is not None:
        text += 'env_key = "PERILUNE_API_KEY"\n'
        start = f"PERILUNE_API_KEY=... {start}"
    home = os.environ.get("CODEX_HOME")
    file = path or (Path(home) if home else Path.home() / ".codex") / "perilune.config.toml"
    return ClientSettings("codex", text, file, start, lambda old: _own_file(old, text, file))


def _openai(target: Target, path: Path | None) -> ClientSettings:
    environment = {
        "OPENAI_BASE_URL": f"{target.url}/v1",
        "OPENAI_API_KEY": target.api_key or NO_KEY,
        "OPENAI_MODEL": target.model,
    }
    lines = "".join(f"{name}={shlex.quote(value)}\n" for name, value in environment.items())

    def merge(old: str | None) -> str:
        names = tuple(f"{name}=" for name in environment)
        kept = [line for line in (old or "").splitlines() if not line.startswith(names)]
        return "".join(f"{line}\n" for line in kept) + lines

    return ClientSettings(
        "openai", _exports(environment), path or Path(".env"), "any OpenAI client", merge
    )


CLIENTS: dict[str, Callable[[Target, Path | None], ClientSettings]] = {
    "claude": _claude,
    "kimi": _kimi,
    "codex": _codex,
    "openai": _openai,
}


def _exports(environment: Mapping[str, str]) -> str:
    return "".join(f"export {k}={shlex.quote(v)}\n" for k, v in environment.items())


def _block(old: str | None, text: str, file: Path) -> str:
    """The file with our part of it renewed, or added at its end. Raises UsageError."""
    old = old or ""
    before, begun, rest = old.partition(BEGIN + "\n")
    _, ended, after = rest.partition(END + "\n")
    if begun and not ended:
        raise UsageError(f"{file} has a line {BEGIN!r} without {END!r}", remedy="Repair the file")
    if before and not before.endswith("\n\n"):
        before = before.rstrip("\n") + "\n\n"
    new = f"{before}{BEGIN}\n{text}{END}\n{after}"
    try:
        tomllib.loads(new)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(
            f"{file} would no longer be valid: {error}",
            remedy="Remove what it says about `perilune`, or add the printed lines by hand",
        ) from None
    return new


def _own_file(old: str | None, text: str, file: Path) -> str:
    """A file that is ours alone. Raises UsageError for one that somebody else wrote."""
    if old and not old.startswith(BEGIN):
        raise UsageError(
            f"{file} was not written by perilune", remedy="Move it, or name another: --path"
        )
    return f"{BEGIN}\n{text}{END}\n"


def _json_object(old: str | None, file: Path) -> dict[str, Any]:
    if old is None or not old.strip():
        return {}
    try:
        value = json.loads(old)
    except ValueError as error:
        raise UsageError(f"{file} is not JSON: {error}", remedy="Repair or move it") from None
    if not isinstance(value, dict):
        raise UsageError(f"{file} does not hold a JSON object", remedy="Repair or move it")
    return value


def _toml(text: str) -> str:
    """A TOML basic string; JSON's escapes are TOML's, but for DEL."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
