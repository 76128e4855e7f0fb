"""The clients that are tried, with the versions that ran, and how each is pointed at a server."""

from __future__ import annotations

import json
import subprocess

from scripts.clients.client import LAST_WORDS, OBJECT, PROGRAMS, TASK, Client, Setting

NO_PRICES = (("LITELLM_LOCAL_MODEL_COST_MAP", "True"),)  # litellm fetches them otherwise


def write_opencode(setting: Setting) -> None:
    config = {
        "$schema": "https://opencode.ai/config.json",
        "autoupdate": False,
        "share": "disabled",
        "provider": {
            "perilune": {
                "npm": "@ai-sdk/openai-compatible",
                "options": {"baseURL": f"{setting.url}/v1", "apiKey": "none"},
                "models": {setting.model: {"limit": {"context": 131072, "output": 8192}}},
            }
        },
    }
    (setting.work / "opencode.json").write_text(json.dumps(config))


def write_continue(setting: Setting) -> None:
    (setting.home / "config.yaml").write_text(
        "name: local\nversion: 1.0.0\nschema: v1\nmodels:\n"
        f"  - name: perilune\n    provider: openai\n    model: {setting.model}\n"
        f"    apiBase: {setting.url}/v1\n    apiKey: none\n    roles: [chat]\n"
        "    capabilities: [tool_use]\n"
    )


def write_cline(setting: Setting) -> None:
    address = f"{setting.url}/v1"
    subprocess.run(
        ["cline", "auth", "-p", "openai", "-k", "none", "-m", setting.model, "-b", address],
        env=setting.environment, cwd=setting.work, stdin=subprocess.DEVNULL, timeout=120,
    )  # fmt: skip


def nothing(setting: Setting) -> None:
    """OPENAI_BASE_URL, OPENAI_API_KEY and OPENAI_MODEL are all that it needs."""


def program(name: str, *packages: str, prints: tuple[str, ...] = (OBJECT,)) -> Client:
    """A library, driven by a small program of ours: a tool round trip, a stream, an object."""
    return Client(
        packages,
        ("python", str(PROGRAMS / name)),
        pip=True,
        environment=NO_PRICES,
        set_up=nothing,
        prints=(LAST_WORDS, *prints),
    )


CLIENTS = {
    "claude": Client(
        ("@anthropic-ai/claude-code@2.1.330",),
        ("claude", "--permission-mode", "acceptEdits", "--allowedTools", "Bash", "-p"),
        environment=(
            ("DISABLE_TELEMETRY", "1"),
            ("DISABLE_ERROR_REPORTING", "1"),
            ("DISABLE_AUTOUPDATER", "1"),
        ),
    ),
    "kimi": Client(
        ("@moonshot-ai/kimi-code@2.1.0",),
        ("kimi", "-m", "perilune", "-p"),
        node=22,
        environment=(("KIMI_DISABLE_TELEMETRY", "1"), ("KIMI_CODE_NO_AUTO_UPDATE", "1")),
    ),
    "codex": Client(
        ("@openai/codex@0.169.0",),
        (
            "codex", "exec", "--profile", "perilune", "--skip-git-repo-check",
            "--dangerously-bypass-approvals-and-sandbox", "-c", "analytics.enabled=false",
            "--disable", "plugins", "--disable", "apps",
        ),
    ),
    "opencode": Client(
        ("opencode-ai@1.18.33",),
        ("opencode", "run", "--pure", "-m", "perilune/tiny"),
        environment=(
            ("OPENCODE_DISABLE_AUTOUPDATE", "1"),
            ("OPENCODE_DISABLE_MODELS_FETCH", "1"),
            ("OPENCODE_DISABLE_DEFAULT_PLUGINS", "1"),
            ("OPENCODE_DISABLE_LSP_DOWNLOAD", "1"),
        ),
        set_up=write_opencode,
    ),
    "cline": Client(
        ("cline@3.0.65",),
        ("cline", "-P", "openai", "-m", "tiny", "--auto-approve", "true", "-t", "240"),
        node=22,
        environment=(("CLINE_TELEMETRY_DISABLED", "1"), ("CLINE_NO_AUTO_UPDATE", "1")),
        set_up=write_cline,
    ),
    "continue": Client(
        ("@continuedev/cli@1.5.47",),
        ("sh", "-c", 'exec cn --config "$HOME/config.yaml" --auto -p "$1"', "sh"),
        node=20,
        environment=(("CONTINUE_ALLOW_ANONYMOUS_TELEMETRY", "0"),),
        set_up=write_continue,
    ),
    "aider": Client(
        ("aider-chat==0.86.2",),
        (
            "aider", "--model", "openai/tiny", "--edit-format", "whole", "--yes-always",
            "--no-git", "--no-check-update", "--no-show-model-warnings", "--analytics-disable",
            "--no-show-release-notes", "--no-detect-urls", "--no-pretty", "--file", "moon.txt",
            "--message",
        ),
        pip=True,
        environment=NO_PRICES,
        set_up=nothing,
    ),
    "mini-swe-agent": Client(
        ("mini-swe-agent==2.4.6",),
        (
            "mini", "--yolo", "--exit-immediately", "--cost-limit", "0", "-m", "openai/tiny",
            "-o", "trajectory.json", "-c", "mini.yaml", "-c", "model.cost_tracking=ignore_errors",
            "-t",
        ),
        pip=True,
        environment=(("MSWEA_CONFIGURED", "true"), ("MSWEA_SILENT_STARTUP", "1"), *NO_PRICES),
        set_up=nothing,
    ),
    "litellm": program("try_litellm.py", "litellm==1.110.2"),
    "llama-index": program(
        "try_llama_index.py", "llama-index-llms-openai-like==0.8.1", "llama-index-core==0.14.25"
    ),
    "smolagents": program("try_smolagents.py", "smolagents[openai]==1.26.0", prints=()),
    "pydantic-ai": program("try_pydantic_ai.py", "pydantic-ai-slim[openai]==2.68.0"),
    "instructor": program("try_instructor.py", "instructor==1.17.0"),
    "dspy": program("try_dspy.py", "dspy==3.4.1"),
    "ai-sdk": Client(
        ("ai@7.0.173", "@ai-sdk/openai-compatible@3.0.92", "zod@4.6.7"),
        ("node", "try_ai_sdk.mjs"),
        node=22,
        set_up=nothing,
        prints=(LAST_WORDS, OBJECT),
    ),
}  # fmt: skip
__all__ = ["CLIENTS", "TASK"]
