"""A shell line -> every command that it may run, through a real grammar of bash: see `line.py`."""

from __future__ import annotations

from perilune.agent.permissions.shell.line import ShellCommand, ShellLine, read_line
from perilune.agent.permissions.shell.words import WILD, Word

__all__ = ["WILD", "ShellCommand", "ShellLine", "Word", "read_line"]
