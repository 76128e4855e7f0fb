"""Commands of the model run here: behind a boundary, with bounds, or not at all."""

from __future__ import annotations

from perilune.sandbox.bubblewrap import Mount
from perilune.sandbox.limits import Limits, SandboxResult
from perilune.sandbox.opening import open_sandbox
from perilune.sandbox.process import SandboxProcess
from perilune.sandbox.sandbox import Sandbox, SandboxKind

__all__ = [
    "Limits",
    "Mount",
    "Sandbox",
    "SandboxKind",
    "SandboxProcess",
    "SandboxResult",
    "open_sandbox",
]
