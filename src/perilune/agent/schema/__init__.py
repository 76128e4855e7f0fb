"""JSON schemas of tools, as strangers write them: read once, then arguments are checked in bounded
time. See `read.py` (a document -> nodes), `check.py` (arguments), `pattern.py` (expressions)."""

from __future__ import annotations

from perilune.agent.schema.arguments import read_arguments
from perilune.agent.schema.check import Checked, Problem, check
from perilune.agent.schema.read import ToolSchema, UnusableSchema, read_schema

__all__ = [
    "Checked",
    "Problem",
    "ToolSchema",
    "UnusableSchema",
    "check",
    "read_arguments",
    "read_schema",
]
