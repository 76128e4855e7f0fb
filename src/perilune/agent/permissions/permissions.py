"""Which calls may run: allow, ask or deny by pattern, such as `bash(git *)` or `write_file(src/*)`.

A pattern is a tool name (globs are allowed: `mcp_*`), alone or with a glob for the call's subject:
the command of `bash`, the path of a file tool, the URL of `fetch`. Deny beats ask, ask beats allow.

A command line is read with bash's grammar (`shell/`). It is allowed only when every command in it
is allowed, and nothing is redirected, substituted or assigned. A deny or ask pattern hits when any
command in it may match, however it is written or wrapped; what cannot be told counts as a match.
Paths and URLs are compared as what they mean (`subjects.py`). Still, a pattern is a convenience and
no boundary: the sandbox is the boundary.
"""

from __future__ import annotations

import fnmatch
import json
import re
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from perilune.agent.permissions.shell import ShellCommand, read_line
from perilune.agent.permissions.shell.wild import may_match
from perilune.agent.permissions.shell.wrappers import base_name
from perilune.agent.permissions.subjects import forms_of
from perilune.errors import UsageError

Decision = Literal["allow", "ask", "deny"]
SUBJECTS = ("command", "path", "url", "code", "query")
COMMAND_TOOLS = frozenset({"bash"})


@dataclass(frozen=True, slots=True)
class PermissionRequest:
    """A call that a person is asked about."""

    name: str
    subject: str
    arguments: dict[str, Any]


@dataclass(frozen=True, slots=True)
class PermissionAnswer:
    """`always` also allows calls that match this pattern for the rest of the run."""

    allow: bool
    always: str = ""


Approver = Callable[[PermissionRequest], Coroutine[Any, Any, PermissionAnswer]]


@dataclass(frozen=True, slots=True)
class Permissions:
    """The rules of a run; `default` decides where no pattern matches."""

    allow: Sequence[str] = ()
    ask: Sequence[str] = ()
    deny: Sequence[str] = ()
    default: Decision = "allow"

    def __post_init__(self) -> None:
        for pattern in (*self.allow, *self.ask, *self.deny):
            _parse(pattern)

    def decide(
        self,
        name: str,
        arguments: dict[str, Any],
        *,
        also_allowed: Sequence[str] = (),
        also_known_as: Sequence[str] = (),
        workspace: Path | None = None,
    ) -> tuple[Decision, str]:
        """`(decision, rule)`; the rule is the pattern that decided, empty for the default.

        `also_allowed` are patterns that a person allowed during the run; they beat `ask` only.
        `also_known_as`: other names of the tool that patterns may use. With the `workspace`, paths
        are also compared as what their links lead to.
        """
        call = _Call((name, *also_known_as), arguments, workspace)
        if rule := call.may_match(self.deny):
            return "deny", rule
        if rule := call.is_within(also_allowed):
            return "allow", rule
        if rule := call.may_match(self.ask):
            return "ask", rule
        if rule := call.is_within(self.allow):
            return "allow", rule
        return self.default, ""


def subject_of(arguments: dict[str, Any]) -> str:
    """What a pattern in parentheses is compared with."""
    for name in SUBJECTS:
        if isinstance(arguments.get(name), str):
            return str(arguments[name])
    return json.dumps(arguments, ensure_ascii=False, sort_keys=True)


def suggested_rule(name: str, arguments: dict[str, Any]) -> str:
    """The pattern that "always" allows: the same first word of a command, else the tool.

    A line that a first word does not describe is allowed as it stands, and nothing else.
    """
    if name in COMMAND_TOOLS:
        subject = subject_of(arguments)
        line = read_line(subject)
        if line.plain and not line.unclear and len(line.commands) == 1:
            first = line.commands[0].words[0].text
            if re.fullmatch(r"[\w./+-]+", first):
                return f"{name}({first} *)"
        return f"{name}({_escape(subject)})"
    return name


def split_commands(line: str) -> tuple[list[str], bool]:
    """`(commands, plain)` of a shell line; not plain: substitution, redirection, blocks and all
    that cannot be told."""
    read = read_line(line)
    return [each.source for each in read.commands], read.plain and not read.unclear


class _Call:
    """One call as patterns see it."""

    def __init__(
        self, names: Sequence[str], arguments: dict[str, Any], workspace: Path | None
    ) -> None:
        self._names = names
        self._subject = subject_of(arguments)
        self._line = read_line(self._subject) if names[0] in COMMAND_TOOLS else None
        self._arguments = arguments
        self._workspace = workspace

    def may_match(self, patterns: Sequence[str]) -> str:
        """The first pattern that the call matches, or may match; "" for none."""
        for pattern in patterns:
            glob = self._glob_for(pattern)
            if glob is not None and (glob == "*" or self._may_match(glob)):
                return pattern
        return ""

    def is_within(self, patterns: Sequence[str]) -> str:
        """The first of the patterns that together allow the call as a whole; "" for none."""
        globs = [
            (pattern, glob) for pattern in patterns if (glob := self._glob_for(pattern)) is not None
        ]
        for pattern, glob in globs:
            if glob == "*" or (self._line is not None and self._subject == _unescape(glob)):
                return pattern
            if self._line is None and self._within(glob):
                return pattern
        if self._line is None or self._line.unclear or not self._line.plain:
            return ""
        used = [
            next((pattern for pattern, glob in globs if _allows(command, glob)), "")
            for command in self._line.commands
        ]
        return used[0] if used and all(used) else ""

    def _glob_for(self, pattern: str) -> str | None:
        """The pattern's glob for the subject ("*" for any); None where it is of another tool."""
        tool_glob, subject_glob = _parse(pattern)
        if not any(fnmatch.fnmatchcase(name, tool_glob) for name in self._names):
            return None
        return "*" if subject_glob is None else subject_glob

    def _may_match(self, glob: str) -> bool:
        if self._line is not None:
            if self._line.unclear or fnmatch.fnmatchcase(self._subject, glob):
                return True
            return any(_may_be(command, glob) for command in self._line.commands)
        for kind in SUBJECTS:
            value = self._arguments.get(kind)
            if isinstance(value, str):
                forms = forms_of(kind, value, self._workspace)
                if forms.unclear or any(fnmatch.fnmatchcase(each, glob) for each in forms.any_of):
                    return True
        return fnmatch.fnmatchcase(self._subject, glob)

    def _within(self, glob: str) -> bool:
        for kind in SUBJECTS:
            value = self._arguments.get(kind)
            if isinstance(value, str):
                forms = forms_of(kind, value, self._workspace)
                return not forms.unclear and all(
                    any(fnmatch.fnmatchcase(each, glob) for each in alternatives)
                    for alternatives in forms.all_of
                )
        return fnmatch.fnmatchcase(self._subject, glob)


def _may_be(command: ShellCommand, glob: str) -> bool:
    """Whether some run of the command may match: by its name with or without a folder, and as it
    is written. `git *` also matches `git` alone, as one expects."""
    rest = [word.text for word in command.words[1:]]
    texts = {" ".join([name, *rest]) for name in (command.name, base_name(command.name))}
    texts.add(command.source)
    globs = [glob, glob[:-2]] if glob.endswith(" *") else [glob]
    return any(may_match(text, each) for text in texts for each in globs)


def _allows(command: ShellCommand, glob: str) -> bool:
    """Whether every run of the command matches.

    A command that another one runs (`sudo rm`) needs a pattern of its own, or one whose fixed
    beginning reaches into it.
    """
    if not command.words[0].fixed or re.search(r"\s", command.name):
        return False
    if command.outer is not None:
        fixed = re.split(r"[*?[]", glob, maxsplit=1)[0]
        before = command.outer.words[: -len(command.words)]
        start = " ".join([*(word.text for word in before), command.name])
        if fixed.startswith(start) and _allows(command.outer, glob):
            return True
    text = " ".join(word.text for word in command.words)
    return fnmatch.fnmatchcase(text, glob) or (glob.endswith(" *") and text == glob[:-2])


def _parse(pattern: str) -> tuple[str, str | None]:
    match = re.fullmatch(r"([^\s()]+)(?:\((.*)\))?", pattern, re.DOTALL)
    if match is None:
        raise UsageError(
            f"{pattern!r} is not a permission pattern", remedy="Write `tool` or `tool(glob)`."
        )
    return match[1], match[2]


def _escape(text: str) -> str:
    return re.sub(r"([*?[])", r"[\1]", text)


def _unescape(text: str) -> str:
    return re.sub(r"\[([*?[])\]", r"\1", text)
