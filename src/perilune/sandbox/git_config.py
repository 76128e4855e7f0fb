"""Reads git's configuration files, to tell which settings make git run something or read elsewhere.

The reader takes all that git takes; a line that it does not understand counts as dangerous.
Source: `git-config(1)`, "Syntax" and "Variables".
"""

from __future__ import annotations

import re
from fnmatch import fnmatchcase

Setting = tuple[str, str]
"""A full name in lower case (the middle part as it is), and its value."""

UNREADABLE: Setting = ("?", "a line that cannot be read")

_SECTION = re.compile(r'\s*\[\s*([A-Za-z0-9.-]+)(?:\s+"((?:[^"\\\n]|\\.)*)")?\s*\]')
_NAME = re.compile(r"\s*([A-Za-z][A-Za-z0-9-]*)[ \t]*")

# What git itself writes, and what only says how things are shown or named.
HARMLESS = (
    "advice.*",
    "branch.*.description",
    "branch.*.merge",
    "branch.*.pushremote",
    "branch.*.rebase",
    "branch.*.remote",
    "color.*",
    "column.*",
    "commit.gpgsign",
    "core.abbrev",
    "core.autocrlf",
    "core.bare",
    "core.commentchar",
    "core.eol",
    "core.filemode",
    "core.ignorecase",
    "core.logallrefupdates",
    "core.precomposeunicode",
    "core.quotepath",
    "core.repositoryformatversion",
    "core.safecrlf",
    "core.sharedrepository",
    "core.sparsecheckout",
    "core.sparsecheckoutcone",
    "core.symlinks",
    "core.untrackedcache",
    "core.whitespace",
    "diff.algorithm",
    "diff.renames",
    "extensions.objectformat",
    "extensions.partialclone",
    "extensions.refstorage",
    "extensions.relativeworktrees",
    "extensions.worktreeconfig",
    "fetch.*",
    "gc.auto",
    "gc.autodetach",
    "gc.pruneexpire",
    "gc.reflogexpire",
    "gc.reflogexpireunreachable",
    "index.*",
    "init.defaultbranch",
    "log.*",
    "maintenance.*",
    "merge.conflictstyle",
    "merge.ff",
    "pull.*",
    "push.*",
    "rebase.autosquash",
    "rebase.autostash",
    "remote.*.fetch",
    "remote.*.mirror",
    "remote.*.partialclonefilter",
    "remote.*.promisor",
    "remote.*.prune",
    "remote.*.push",
    "remote.*.pushurl",
    "remote.*.tagopt",
    "remote.*.url",
    "remote.pushdefault",
    "rerere.*",
    "status.*",
    "submodule.*.active",
    "submodule.*.branch",
    "submodule.*.ignore",
    "submodule.*.url",
    "submodule.active",
    "tag.sort",
    "user.email",
    "user.name",
)


def read_settings(text: str) -> list[Setting]:
    """All settings of a configuration file, in order; `UNREADABLE` for what is none."""
    found: list[Setting] = []
    section = ""
    rest = text.removeprefix("\ufeff").replace("\r\n", "\n")
    while rest:
        stripped = rest.lstrip()
        if not stripped:
            break
        if stripped[0] in "#;":
            rest = stripped.partition("\n")[2]
        elif stripped[0] == "[":
            match = _SECTION.match(stripped)
            if match is None:
                return [*found, UNREADABLE]
            middle = re.sub(r"\\(.)", r"\1", match[2]) if match[2] is not None else None
            section = match[1].lower() + (f".{middle}" if middle is not None else "")
            rest = stripped[match.end() :]
        else:
            match = _NAME.match(stripped)
            if match is None or not section:
                return [*found, UNREADABLE]
            rest = stripped[match.end() :]
            value = "true"
            if rest.startswith("="):
                value, rest, whole = _value(rest[1:])
                if not whole:
                    return [*found, UNREADABLE]
            elif rest and rest[0] not in "\n#;":
                return [*found, UNREADABLE]
            found.append((f"{section}.{match[1].lower()}", value))
    return found


def dangerous_settings(text: str) -> list[Setting]:
    """The settings that may name a program, another file or another folder."""
    return [
        (name, value)
        for name, value in read_settings(text)
        if not any(fnmatchcase(name, pattern) for pattern in HARMLESS)
        or (name.endswith("url") and "::" in value)  # a transport by name, such as ext::
    ]


def setting(text: str, name: str) -> str:
    """The last value of a setting, or nothing."""
    return next((value for key, value in reversed(read_settings(text)) if key == name), "")


def harmless_text(text: str) -> str:
    """A configuration file with the harmless settings of another."""
    dangerous = dangerous_settings(text)
    lines = []
    for name, value in read_settings(text):
        if (name, value) in dangerous:
            continue
        section, _, key = name.rpartition(".")
        first, dot, middle = section.partition(".")
        head = f"[{first} {quoted(middle)}]" if dot else f"[{first}]"
        lines.append(f"{head}\n\t{key} = {quoted(value)}\n")
    return "".join(lines)


def quoted(value: str) -> str:
    """A value as git reads it back."""
    text = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{text}"'


def _value(text: str) -> tuple[str, str, bool]:
    """A value, what follows its line, and whether it could be read."""
    out: list[str] = []
    in_quotes, at, kept = False, 0, 0  # kept: without the blanks at the end, but quoted ones
    while at < len(text):
        letter = text[at]
        if letter == "\\":
            after = text[at + 1 : at + 2]
            if after not in ("\n", "\\", '"', "n", "t", "b"):
                return "", "", False
            if after != "\n":
                out.append({"n": "\n", "t": "\t", "b": "\b"}.get(after, after))
            at += 2
            kept = len(out) if after != "\n" else kept
            continue
        if letter == "\n":
            break
        if letter == '"':
            in_quotes = not in_quotes
        elif letter in "#;" and not in_quotes:
            end = text.find("\n", at)
            at = len(text) if end < 0 else end
            break
        elif in_quotes or letter not in " \t\r\f\v":
            out.append(letter)
            kept = len(out)
        elif out:
            out.append(letter)
        at += 1
    return "".join(out[:kept]), text[at + 1 :], not in_quotes
