"""Pieces of code that an answer shows: what does not parse alone may parse in its place.

A check of code refuses what is wrong, and a piece is not: a method without its class, the branch of
an `if`, JSON with comments, several objects in a row, a template with `{{ }}`, a shell session, a
diff, Python 2. Nor is what the answer itself says to be wrong.
"""

from __future__ import annotations

import ast
import json
import re
import textwrap
import warnings

_FAULT = re.compile(
    r"❌|✗|#\s*(?:bad|wrong|broken|raises?|error|fails?|don't|boom|crash|falsch|fehler|faux|错)|"
    r"\b(?:raises|\w*Error\b|Traceback|Exception|SyntaxError|crash\w*|fails?|failing|broken|wrong|bug\w*|"
    r"incorrect|invalid|instead of|don't|do not|doesn't|avoid|before|old|problem\w*|Python 2|"
    r"fehler\w*|falsch\w*|kaputt|erreur\w*|faux|incorrecto|mal|错误|不要)\b",
    re.I,
)
_PLACEHOLDER = re.compile(r"<[^<>\n]{1,60}>|\{\{.*?\}\}|\{%.*?%\}|\$\{[^}\n]*\}|\.\.\.|…")
_DIFF = re.compile(r"^(?:[-+]{3} |@@ |[-+]\s*\S)", re.M)
_PYTHON_2 = re.compile(
    r"^\s*(?:print\s+[^(=\s]|exec\s+['\"]|except\s+\w+\s*,\s*\w+\s*:|raise\s+\w+,)", re.M
)
_BRANCH = re.compile(r"^(?:else|elif\b.*|except\b.*|finally|case\b.*)\s*.*:\s*(?:#.*)?$")


def shows_a_fault(text: str, before: str, error: str = "") -> bool:
    """Whether a block is said to be wrong: by its own comments, or by the sentence before it.

    `error`: the last line of what it printed. An exception that the answer names is meant to come.
    """
    lines = [each for each in before.strip().splitlines() if each.strip()]
    if _FAULT.search(lines[-1] if lines else ""):
        return True
    comments = "\n".join(re.findall(r"(?:#|//).*", text))
    if _FAULT.search(comments):
        return True
    name = re.match(r"[A-Za-z_.]+", error)
    return bool(name and name[0] in comments + before)


def is_fragment(suffix: str, text: str) -> bool:
    """Whether a text that does not parse may be a piece of one that does, or a template of one.

    `suffix`: of its kind of file, such as `.py`.
    """
    if _is_diff(text):
        return True
    if suffix == ".py":
        return _python_piece(text)
    if suffix == ".json":
        return _json_piece(text)
    return _only_placeholders(suffix, text)


def _is_diff(text: str) -> bool:
    lines = [each for each in text.splitlines() if each.strip()]
    marked = sum(bool(_DIFF.match(each)) for each in lines)
    signs = {each[0] for each in lines}
    return "@@" in text or ({"+", "-"} <= signs and marked >= 2)


def _parses(text: str) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def _python_piece(text: str) -> bool:
    """A piece of a function or class, a session, or a text with places to be filled in."""
    if _PYTHON_2.search(text):
        return True
    lines = textwrap.dedent(_placed(text)).splitlines()
    # Commands of a notebook or shell, and lines of ">>>" sessions.
    lines = [
        re.sub(r"^\s*[%!?$].*$", "pass", re.sub(r"^(?:>>>|\.\.\.) ?", "", each)) for each in lines
    ]
    body = "\n".join(lines)
    readings = [body, f"{body}\n    ...", f"{body}\n        ..."]
    first = next((each.strip() for each in lines if each.strip()), "")
    last = next((each for each in reversed(lines) if each.strip()), "")
    if _BRANCH.match(first):
        opening = (
            "try:\n    ...\n" if first.startswith(("except", "finally")) else "if 0:\n    ...\n"
        )
        opening = "match 0:\n" if first.startswith("case") else opening
        readings += [opening + each for each in tuple(readings)]
    if last.rstrip().endswith(":"):
        margin = len(last) - len(last.lstrip()) + 4
        readings.append(body + "\n" + " " * margin + "...")
    readings += ["async def f():\n" + textwrap.indent(each, "    ") for each in tuple(readings)]
    # A call or list that is shown without its end, or arguments without their call.
    readings += [
        f"f({body}\n)",
        f"[{body}\n]",
        f"{{{body}\n}}",
        f"{body})",
        f"{body}]",
        f"{body}}}",
    ]
    # The first line stands further left than the rest, as when it was copied from within a line.
    shifted = "\n".join([first, *textwrap.dedent("\n".join(lines[1:])).splitlines()])
    return any(map(_parses, [*readings[:-3], shifted])) if _balanced(body) else _cut(body)


def _balanced(text: str) -> bool:
    return all(text.count(a) == text.count(b) for a, b in ("()", "[]", "{}"))


def _cut(text: str) -> bool:
    """Whether a text with open brackets is one that ends in the middle on purpose."""
    return bool(re.search(r"(?:\.\.\.|…|# (?:and so on|etc|more|rest))\s*[)\]}]*\s*$", text))


def _placed(text: str) -> str:
    """Placeholders as values that parse."""
    text = re.sub(r"(?<![\w'\"])<[a-zA-Z][\w \-./|]{0,58}>", "None", text)
    return re.sub(r"\{\{.*?\}\}|\{%.*?%\}|(?<!f)\$\{[^}\n]*\}|…", "None", text)


def _json_piece(text: str) -> bool:
    bare = re.sub(
        r"^\s*(?://|#)[^\n]*$|(?<=[,\[{\s])//[^\n\"]*$|/\*.*?\*/", "", text, flags=re.M | re.S
    )
    bare = re.sub(r"(?<![\"\w])(?:<[^<>\n]+>|\{\{.*?\}\}|\.\.\.|…)(?!\")", "null", bare)
    loose = re.sub(r",(\s*[}\]])", r"\1", bare)
    for reading in (loose, f"{{{loose.strip().rstrip(',')}}}", f"[{loose.strip().rstrip(',')}]"):
        if _is_json(reading):
            return True
    lines = [each for each in loose.splitlines() if each.strip()]
    return len(lines) > 1 and all(map(_is_json, lines))


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _only_placeholders(suffix: str, text: str) -> bool:
    """Whether YAML or TOML parses once its placeholders are filled in."""
    from perilune.agent.tools.syntax import syntax_problem

    filled = _PLACEHOLDER.sub("x", re.sub(r"^\s*\{[{%].*[%}]\}\s*$", "", text, flags=re.M))
    if filled == text:
        return False
    return not syntax_problem(f"x{suffix}", filled) or bool(re.search(r"\{[{%]", text))
