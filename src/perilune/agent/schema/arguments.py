"""The text of a call's arguments -> checked arguments, or an error that the model can use."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NoReturn

from perilune.agent.schema.check import check
from perilune.agent.schema.plain import NotPlain, plain_json
from perilune.agent.schema.read import ToolSchema
from perilune.errors import ToolError

MAX_DEPTH = 64
MAX_VALUES = 1_000_000
_LONGEST_MESSAGE = 2_000


def read_arguments(
    name: str, schema: ToolSchema, text: str, note: Callable[[str], None] | None = None
) -> dict[str, Any]:
    """The arguments of a call of tool `name`, as plain JSON that fits the schema.

    `note` is told what could not be checked. Raises `ToolError` with a message for the model: no
    JSON object, or the first places where the arguments break the schema.
    """
    try:
        arguments = json.loads(text, parse_constant=_no_constant) if text.strip() else {}
        arguments = plain_json(
            arguments, max_depth=MAX_DEPTH, max_values=MAX_VALUES, max_characters=len(text)
        )
    except NotPlain as error:
        raise ToolError(
            f"the arguments of {name} cannot be used: {error}; nothing was run"
        ) from None
    except (ValueError, RecursionError) as error:
        why = "nested too deeply" if isinstance(error, RecursionError) else str(error)[:200]
        raise ToolError(
            f"the arguments of {name} are not valid JSON ({why}); nothing was run. "
            f"You wrote: {text[:500]}"
        ) from None
    if not isinstance(arguments, dict):
        raise ToolError(f"the arguments of {name} must be a JSON object; nothing was run")
    checked = check(schema, arguments)
    if checked.problems:
        lines = "\n".join(f"- {each}" for each in checked.problems)
        message = f"the arguments of {name} do not fit its schema; nothing was run\n{lines}"
        raise ToolError(message[:_LONGEST_MESSAGE])
    if checked.unheld and note is not None:
        note(f"{name}: {checked.unheld}; its arguments were not checked as a whole")
    return arguments


def _no_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is not JSON")
