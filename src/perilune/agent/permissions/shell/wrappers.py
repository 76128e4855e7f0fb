"""Commands that run other commands: what they would run, as far as their words say it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from perilune.agent.permissions.shell.words import WILD, Word

Words = tuple[Word, ...]

SHELLS = frozenset(
    {"sh", "bash", "dash", "zsh", "ksh", "mksh", "ash", "fish", "csh", "tcsh", "rbash"}
)

# Options that take a value of their own: short letters, and long names. Then: how many words stand
# before the command.
_WRAPPERS: dict[str, tuple[str, tuple[str, ...], int]] = {
    "env": ("uCS", ("unset", "chdir", "split-string"), 0),
    "sudo": ("ugprtCcDRThU", ("user", "group", "prompt", "role", "type", "chdir", "chroot",
                              "close-from", "host", "other-user", "command-timeout"), 0),
    "doas": ("uC", (), 0),
    "command": ("", (), 0),
    "builtin": ("", (), 0),
    "exec": ("a", (), 0),
    "nohup": ("", (), 0),
    "nice": ("n", ("adjustment",), 0),
    "ionice": ("cnpPu", ("class", "classdata"), 0),
    "chrt": ("TPD", (), 1),
    "taskset": ("", (), 1),
    "time": ("fo", ("format", "output"), 0),
    "timeout": ("ks", ("kill-after", "signal"), 1),
    "setsid": ("", (), 0),
    "stdbuf": ("ioe", ("input", "output", "error"), 0),
    "unbuffer": ("", (), 0),
    "xargs": ("aEeIiLlnPsd", ("arg-file", "delimiter", "eof", "replace", "max-lines", "max-args",
                              "max-procs", "max-chars"), 0),
    "busybox": ("", (), 0),
    "toybox": ("", (), 0),
    "coproc": ("", (), 0),
    "chroot": ("", ("userspec", "groups"), 1),
    "unshare": ("SGRw", ("setuid", "setgid", "root", "wd"), 0),
    "nsenter": ("tSG", ("target", "setuid", "setgid"), 0),
    "setarch": ("", (), 1),
    "strace": ("eosSuaIOXP", ("output",), 0),
    "ltrace": ("eosSuaI", ("output",), 0),
    "systemd-run": ("puMHt", ("unit", "property", "slice", "uid", "gid"), 0),
    "caffeinate": ("tw", (), 0),
    "catchsegv": ("", (), 0),
    "fakeroot": ("ls", (), 0),
    "flock": ("wE", ("timeout", "wait", "conflict-exit-code"), 1),
    "run0": ("u", ("user",), 0),
    "pkexec": ("", ("user",), 0),
    "npx": ("pc", ("package",), 0),
    "bunx": ("", (), 0),
    "uvx": ("", ("from", "with", "python"), 0),
    "noglob": ("", (), 0),
    "nocorrect": ("", (), 0),
}  # fmt: skip
_RUNNERS = frozenset(
    {("uv", "run"), ("poetry", "run"), ("pipenv", "run"), ("pdm", "run"), ("hatch", "run"),
     ("rye", "run"), ("bundle", "exec"), ("npm", "exec"), ("pnpm", "exec"), ("yarn", "exec"),
     ("mise", "exec"), ("conda", "run"), ("direnv", "exec")}
)  # fmt: skip
# Interpreters of other languages: the letters of the options that take code, and the words.
_INTERPRETERS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    (r"python[\d.]*w?|pypy[\d.]*", "c", ()),
    (r"perl[\d.]*", "eE", ()),
    (r"ruby[\d.]*", "e", ()),
    (r"node|nodejs|bun", "ep", ("eval", "print")),
    (r"php[\d.]*", "rBRE", ("run",)),
    (r"lua[\d.]*|luajit|Rscript|osascript|guile|julia|elixir|groovy", "e", ("eval",)),
)
_SHELL_VALUES = frozenset({"-o", "+o", "-O", "+O", "--rcfile", "--init-file"})
_SAID_ONLY = frozenset({"--version", "--help", "-V", "-h"})


@dataclass(slots=True)
class Inside:
    """What a command would run: other commands, scripts of bash, and what cannot be told."""

    commands: list[Words] = field(default_factory=list)
    scripts: list[str] = field(default_factory=list)
    unclear: str = ""


def unwrap(words: Words, stdin: str | None) -> Inside:
    """What the command would run; `stdin` is what it reads, where that stands in the line."""
    name = base_name(words[0].text)
    rest = words[1:]
    if name in SHELLS:
        return _shell(rest, stdin)
    if name == "eval":
        return Inside(scripts=[_joined(rest)]) if rest else Inside()
    if name in ("source", "."):
        return Inside(unclear="a script that does not stand in the line is read")
    if name == "trap":
        handlers = [word for word in rest if not word.text.startswith("-")]
        return Inside(scripts=[handlers[0].text]) if len(handlers) > 1 else Inside()
    if name == "alias":
        values = [word.text.partition("=")[2] for word in rest if "=" in word.text]
        return Inside(scripts=values)
    if name in ("find", "fd", "fdfind"):
        return _find(rest)
    if name in ("su", "runuser", "script", "watch", "parallel", "ssh", "rsh", "entr", "nix-shell"):
        return _by_script(name, rest)
    if name == "git":
        return _git(rest)
    if name in ("awk", "gawk", "mawk", "nawk"):
        program = " ".join(word.text for word in rest)
        runs = re.search(r"system\s*\(|\||getline|@load|-f\b|--file", program)
        return Inside(unclear="awk runs code") if runs else Inside()
    if name in _WRAPPERS:
        return _wrapped(name, rest)
    if rest and (name, rest[0].text) in _RUNNERS:
        return Inside(commands=_after_options(rest[1:], "", (), 0))
    for pattern, letters, long in _INTERPRETERS:
        if re.fullmatch(pattern, name):
            return _interpreter(rest, letters, long, stdin)
    return Inside()


def base_name(name: str) -> str:
    """`/bin/rm` -> `rm`; a wild end stays wild."""
    return name.rstrip("/").rpartition("/")[2]


def _joined(words: Words) -> str:
    return " ".join(word.text for word in words)


def _shell(rest: Words, stdin: str | None) -> Inside:
    """`sh -c SCRIPT`, `bash -lc SCRIPT`, `bash <<< SCRIPT`; a file's content is not known."""
    place = 0
    takes_script = False
    while place < len(rest):
        word = rest[place].text
        if word in _SAID_ONLY:
            return Inside()
        if word in _SHELL_VALUES:
            place += 2
            continue
        if word.startswith(("-", "+")) and word not in ("-", "--"):
            if WILD in word:
                return Inside(unclear="the options of a shell are not known")
            takes_script = takes_script or (word[0] == "-" and word[1] != "-" and "c" in word[1:])
            takes_script = takes_script or word == "--command"
            place += 1
            continue
        if word in ("-", "--"):
            place += 1
        break
    operands = rest[place:]
    if takes_script:
        return Inside(scripts=[operands[0].text]) if operands else Inside()
    if any(word.text == "-s" for word in rest[:place]) or not operands:
        if stdin is not None:
            return Inside(scripts=[stdin])
        return Inside(unclear="a shell reads what does not stand in the line")
    if operands[0].text in ("/dev/stdin", "/dev/fd/0", "/proc/self/fd/0") and stdin is not None:
        return Inside(scripts=[stdin])
    return Inside(unclear="a script that does not stand in the line is run")


def _find(rest: Words) -> Inside:
    inside = Inside()
    place = 0
    while place < len(rest):
        word = rest[place].text
        place += 1
        if word in ("-exec", "-execdir", "-ok", "-okdir", "-x", "-X", "--exec", "--exec-batch"):
            end = place
            while end < len(rest) and rest[end].text not in (";", "+"):
                end += 1
            if place < end:
                inside.commands.append(rest[place:end])
            place = end
        elif WILD in word and not rest[place - 1].simple:
            inside.unclear = "the words of find are not known"
    return inside


def _by_script(name: str, rest: Words) -> Inside:
    """Commands that give their words, or the value of `-c`, to a shell."""
    for number, word in enumerate(rest):
        if name in ("su", "runuser", "script") and (
            word.text in ("--command", "--session-command")
            or re.fullmatch(r"-[a-zA-Z]*c", word.text)
        ):
            return Inside(scripts=[rest[number + 1].text]) if number + 1 < len(rest) else Inside()
        if word.text.startswith("--command="):
            return Inside(scripts=[word.text.partition("=")[2]])
        if name == "nix-shell" and word.text in ("--run", "--command"):
            return Inside(scripts=[rest[number + 1].text]) if number + 1 < len(rest) else Inside()
    if name in ("su", "script", "nix-shell"):
        return Inside(unclear="a shell reads what does not stand in the line")
    if name in ("ssh", "rsh"):
        candidates = _after_options(rest, "bcDEeFIiJLlmOopQRSWw", (), 1)
    elif name == "parallel":
        candidates = _after_options(rest, "jnNaIdSLs", ("jobs", "delay", "colsep", "arg-file"), 0)
    elif name == "watch":
        candidates = _after_options(rest, "nq", ("interval", "equexit"), 0)
    elif name == "runuser":
        candidates = _after_options(rest, "ugGcsw", ("user", "group", "shell"), 0)
    else:
        candidates = _after_options(rest, "", (), 0)
    # The words after `:::` are arguments; the script that the rest makes says enough of them.
    return Inside(commands=candidates, scripts=[_joined(each) for each in candidates])


def _git(rest: Words) -> Inside:
    """An alias that begins with `!` is a script; so are some settings."""
    for number, word in enumerate(rest):
        if word.text == "-c" or word.text.startswith(("-c", "--config-env", "alias.")):
            value = word.text + (
                _joined(rest[number + 1 : number + 2]) if word.text == "-c" else ""
            )
            if re.search(
                r"alias\.|=\s*!|command|pager|editor|fsmonitor|hookspath|external|textconv|askpass"
                r"|driver|filter|gpg|helper|" + WILD,
                value,
                re.IGNORECASE,
            ):
                return Inside(unclear="a setting of git may run a command")
        if word.text.startswith("--exec"):
            return Inside(unclear="git runs a command of its own")
    names = [word.text for word in rest if not word.text.startswith("-")]
    if names[:1] == ["config"] and any(
        re.search(r"(?i)alias\.|command|pager|editor|fsmonitor|hookspath", each) for each in names
    ):
        return Inside(unclear="a setting of git may run a command")
    place = next((n for n, word in enumerate(rest) if word.text == "foreach"), None)
    if names[:1] == ["submodule"] and place is not None:
        return Inside(scripts=[_joined(rest[place + 1 :])])
    place = next((n for n, word in enumerate(rest) if word.text == "run"), None)
    if names[:1] == ["bisect"] and place is not None and place + 1 < len(rest):
        return Inside(commands=[rest[place + 1 :]])
    return Inside()


def _wrapped(name: str, rest: Words) -> Inside:
    letters, long, before = _WRAPPERS[name]
    inside = Inside()
    if name == "command" and rest and re.fullmatch(r"-p?[vV]+p?", rest[0].text):
        return inside  # asks where a command is
    if name == "env":
        for number, word in enumerate(rest):
            if word.text in ("-S", "--split-string") and number + 1 < len(rest):
                inside.scripts.append(rest[number + 1].text)
            elif word.text.startswith("--split-string="):
                inside.scripts.append(word.text.partition("=")[2])
            elif re.match(r"-[a-zA-Z]*S.", word.text):
                inside.scripts.append(word.text.partition("S")[2])
    if name == "flock" and any(word.text in ("-c", "--command") for word in rest):
        inside.scripts.append(rest[-1].text)
    inside.commands = _after_options(rest, letters, long, before)
    if name == "coproc" and len(rest) > 1:
        inside.commands.append(rest[1:])  # `coproc NAME command`
    if name == "xargs":  # its input may add words
        inside.commands = [(*words, Word(WILD)) for words in inside.commands]
    return inside


def _after_options(rest: Words, letters: str, long: tuple[str, ...], before: int) -> list[Words]:
    """The command after a wrapper's options, assignments and `before` words.

    Where an option is not known its value may be the next word, or it may have none: both readings
    are given.
    """
    found: list[Words] = []
    starts = {0}
    seen: set[int] = set()
    while starts:
        place = starts.pop()
        if place in seen or place >= len(rest):
            continue
        seen.add(place)
        word = rest[place].text
        if word == "--":
            starts.add(place + 1)
            if place + 1 < len(rest):
                _take(rest, place + 1, before, found)
        elif word.startswith("-") and len(word) > 1:
            name = word[2:] if word.startswith("--") else ""
            if name:
                known = name in long
                alone = "=" in name
            else:
                known = word[-1] in letters and not any(each in letters for each in word[1:-1])
                alone = any(each in letters for each in word[1:-1]) or word[1:].isdigit()
            if known:
                starts.add(place + 2)
            else:
                starts.add(place + 1)
                if not alone and name and place + 2 < len(rest):
                    starts.add(place + 2)  # a long option that we do not know
        elif re.match(r"[A-Za-z_]\w*\+?=", word):
            starts.add(place + 1)
        else:
            _take(rest, place, before, found)
    return list(dict.fromkeys(found))


def _take(rest: Words, place: int, before: int, found: list[Words]) -> None:
    place += before
    while place < len(rest) and re.match(r"[A-Za-z_]\w*\+?=", rest[place].text):
        place += 1
    if place < len(rest):
        found.append(rest[place:])


def _interpreter(rest: Words, letters: str, long: tuple[str, ...], stdin: str | None) -> Inside:
    """Code of another language in the line, or on standard input, is not looked into."""
    unclear = Inside(unclear="code of another language stands in the line")
    for word in rest:
        text = word.text
        if text in _SAID_ONLY:
            return Inside()
        if text == "-":
            return unclear
        if not text.startswith("-"):
            return Inside()
        if text.startswith("--"):
            if text[2:].partition("=")[0] in long:
                return unclear
        elif any(letter in text[1:] for letter in letters):
            return unclear
        elif text.startswith("-m"):
            return Inside()
    return unclear
