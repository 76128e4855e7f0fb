"""Grammars in the forms of other servers -> those of the grammar library.

GBNF is llama.cpp's form; SGLang's and vLLM's EBNF (xgrammar's) is the same with continuation lines.
Structural tags are pieces with a schema inside of free text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import llguidance
from llguidance.gbnf_to_lark import GbnfToLarkError, gbnf_to_lark, is_lark_syntax

from perilune.engine.json_schema import constrain
from perilune.errors import GrammarError

MAX_TAGS = 128


def lark_of_gbnf(text: str) -> str:
    """Lark stays as it is. Raises GrammarError (param "grammar") for what is neither."""
    if is_lark_syntax(text):
        return text
    joined = re.sub(r"[ \t]*\r?\n[ \t]*\|", " |", text)  # xgrammar lets alternatives go on so
    try:
        return gbnf_to_lark(joined)
    except GbnfToLarkError as error:
        raise GrammarError(f"the grammar cannot be read: {error}", param="grammar") from None
    except RecursionError:
        raise GrammarError("the grammar is nested too deep", param="grammar") from None
    except Exception as error:  # the converter raises plain ones for rules that are not there
        raise GrammarError(
            f"the grammar cannot be read: {str(error)[:200]}",
            param="grammar",
            remedy="Rules are `NAME ::= ...`, and the first one to be read is `root`",
        ) from None


def structural_tags(definition: Mapping[str, Any]) -> str:
    """`{"structures": [{"begin", "schema", "end"}], "triggers": [...]}`: where the text comes to a
    trigger, a structure of it follows. Raises GrammarError (param "grammar")."""
    structures, triggers = definition.get("structures"), definition.get("triggers")
    if not isinstance(structures, list) or not 0 < len(structures) <= MAX_TAGS:
        raise _bad(f"structures must be a list of 1 to {MAX_TAGS}")
    if (
        not isinstance(triggers, list)
        or not triggers
        or not all(isinstance(trigger, str) and trigger for trigger in triggers)
    ):
        raise _bad("triggers must be a list of texts")
    rest = " & ".join(f"~/(.|\\n)*{_regex(trigger)}(.|\\n)*/" for trigger in triggers)
    tags = " | ".join(f"tag_{n}" for n in range(len(structures)))
    lines = [
        "%llguidance {}",
        f"start: ({tags})* REST",
        f"REST: TEXT & {rest}",  # no trigger without its structure
        "TEXT: /(.|\\n)*/",
    ]
    for n, structure in enumerate(structures):
        if not isinstance(structure, Mapping):
            raise _bad(f"structures[{n}] must be an object")
        begin, end, schema = (structure.get(key) for key in ("begin", "end", "schema"))
        if not isinstance(begin, str) or not isinstance(end, str):
            raise _bad(f"structures[{n}] needs begin and end, which are text")
        trigger = next((trigger for trigger in triggers if begin.startswith(trigger)), None)
        if trigger is None:
            raise _bad(f"structures[{n}].begin does not begin with a trigger")
        if not isinstance(schema, Mapping):
            raise _bad(f"structures[{n}].schema must be an object")
        held = json.dumps({**_object(constrain(schema).schema), "x-guidance": _COMPACT})
        parts = [_text(begin[len(trigger) :]), f"%json {held}", _text(end)]
        lines.append(f"tag_{n}_begin[lazy]: TEXT {_text(trigger)}")
        lines.append(f"tag_{n}: tag_{n}_begin {' '.join(filter(None, parts))}")
    return llguidance.LLMatcher.grammar_from_lark("\n".join(lines) + "\n")


_COMPACT = {"whitespace_flexible": False}


def _object(schema: Mapping[str, Any] | bool) -> Mapping[str, Any]:
    return schema if isinstance(schema, Mapping) else {}


def _text(text: str) -> str:
    return json.dumps(text, ensure_ascii=False) if text else ""


def _regex(text: str) -> str:
    return "".join(c if c.isascii() and c.isalnum() else f"\\x{{{ord(c):x}}}" for c in text)


def _bad(what: str) -> GrammarError:
    return GrammarError(f"the structural tag: {what}", param="grammar")
