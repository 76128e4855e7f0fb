"""A shell line -> the commands in it, wherever they stand: chains, pipes, blocks, loops, functions,
substitutions, here-documents, and what wrappers such as `env` and `sh -c` would run.

The grammar is tree-sitter's for bash. What it, or we, cannot tell is said in `unclear`: a syntax
that it does not read, code in another language, a script that does not stand in the line.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING

from perilune.agent.permissions.shell.words import WILD, Word, read_words

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tree_sitter import Node, Parser, Tree

LONGEST_LINE = 200_000  # bytes
MAX_COMMANDS = 2_000
MAX_NESTING = 6  # of `sh -c 'sh -c ...'`

_WORDS = frozenset(
    {"word", "number", "string", "raw_string", "ansi_c_string", "translated_string",
     "concatenation", "simple_expansion", "expansion", "command_substitution",
     "process_substitution", "arithmetic_expansion", "brace_expression", "extglob_pattern",
     "variable_name", "regex", "test_operator"}
)  # fmt: skip
_CHAINS = frozenset(
    {"program", "list", "pipeline", "negated_command", "command", "comment", "command_name",
     "string_content", "special_variable_name"}
)  # fmt: skip
# Words of the syntax that the grammar takes for commands here and there: `! if a; then b; fi`.
_BEFORE_A_COMMAND = frozenset({"{", "!", "if", "then", "elif", "else", "while", "until", "do"})
_AFTER_COMMANDS = frozenset({"}", "fi", "done", "esac"})
_NO_COMMANDS = frozenset({"for", "case", "select", "function", "[[", "]]", "in"})
_COMPOUNDS = frozenset({"!", "{", "[[", "if", "while", "until", "for", "case", "select"})
_MAX_READINGS = 8
# White space for the grammar, parts of words for bash, so that `ls\v# ...` is no comment there.
_NO_BLANKS = re.compile(r"[\v\f]|\r(?!\n)|\\\r")
_ON_ONE_LINE = frozenset({"command", "redirected_statement", "file_redirect"})
_KEEP_THEIR_TEXT = frozenset({"string", "translated_string", "heredoc_body", "expansion"})
# What ends in a command, where its redirections are given to the whole of it: `a && b > f c`.
_ENDS_IN_A_COMMAND = frozenset({"list", "pipeline", "negated_command"})
_OPAQUE = frozenset({"expansion", "command_substitution", "process_substitution",
                     "arithmetic_expansion"})  # fmt: skip


@dataclass(frozen=True, slots=True)
class ShellCommand:
    """One simple command: its words, and its source as it was written.

    `outer` is the command that would run it (`sudo`, `xargs`), if another one does.
    """

    words: tuple[Word, ...]
    source: str
    outer: ShellCommand | None = None

    @property
    def name(self) -> str:
        return self.words[0].text if self.words else ""


@dataclass(slots=True)
class ShellLine:
    """`plain`: a chain of simple commands and nothing else; no block, substitution, assignment or
    redirection. `unclear`: why not all commands are known."""

    commands: list[ShellCommand] = field(default_factory=list)
    plain: bool = True
    unclear: list[str] = field(default_factory=list)


@lru_cache(maxsize=256)
def read_line(source: str) -> ShellLine:
    """The commands of a line. Raises nothing, whatever the line is. Do not change the result."""
    line = ShellLine()
    _read_into(line, source, None, 0)
    if "\\\n" in source:
        # The shell joins such lines before it looks at words; the grammar parts words there. In
        # single quotes it does not, so both readings count.
        _read_into(line, source.replace("\\\n", ""), None, 0)
    return line


def _read_into(line: ShellLine, source: str, outer: ShellCommand | None, depth: int) -> None:
    if WILD in source:
        line.unclear.append("parts of a script are not known")
        return
    # The grammar takes the end of a line for a part of the next word where a backslash follows.
    data = re.sub(r"\n(?=\\)", "\n ", source).encode("utf-8", "replace")
    if _NO_BLANKS.search(source):
        line.unclear.append("the grammar parts words where bash does not")
    if len(data) > LONGEST_LINE or depth > MAX_NESTING:
        line.unclear.append("the line is too long" if depth <= MAX_NESTING else "nested too deeply")
        return
    tree, timed = _parse(data)
    if timed:
        line.commands.append(ShellCommand((Word("time"),), "time", outer))
    if tree.root_node.has_error:
        line.unclear.append("it is not bash that the grammar reads")
    _Walk(line, outer, depth).walk(tree.root_node)


def _parse(data: bytes) -> tuple[Tree, bool]:
    """The tree, and whether `time` was left out.

    The grammar takes `! case a in ...` and `time for i in ...` for commands named `case` and
    `time`. `!` and `time` change nothing about what runs, so they are left out there. Now and then
    it reads on over the end of a line as if it were a blank; there, `;` takes its place.
    """
    tree, timed = _parser().parse(data), False
    for _ in range(_MAX_READINGS):
        if tree.root_node.has_error and b"<<" in data:
            break  # what is taken for a prefix may be the mark of a here-document
        changes = _misread(tree)
        if not changes:
            break
        for start, end, text in changes:
            timed = timed or data[start:end] == b"time"
            data = data[:start] + text * (end - start) + data[end:]
        tree = _parser().parse(data)
    return tree, timed


def _misread(tree: Tree) -> list[tuple[int, int, bytes]]:
    """The places of `!` and `time` before a compound and of ends of lines within a command, each
    with what to put there, byte by byte."""
    found: list[tuple[int, int, bytes]] = []
    data, start = tree.root_node.text or b"", tree.root_node.start_byte
    work = [tree.root_node]
    while work:
        node = work.pop()
        work += node.children
        if node.type == "negated_command":
            words = _words(node.children[-1])
            if words and _begins_a_compound(words[0]):
                found.append((node.children[0].start_byte, node.children[0].end_byte, b" "))
        elif node.type == "command":
            found += [(each.start_byte, each.end_byte, b" ") for each in _times(node)]
        if node.type in _ON_ONE_LINE and not any(c.type == "comment" for c in node.children):
            for place, gap in _gaps(node, data, start):
                end = gap.find(b"\n")
                if end >= 0 and gap[end - 1 : end] != b"\\":
                    found.append((place + end, place + end + 1, b";"))
    return found


def _begins_a_compound(word: Node) -> bool:
    return not _COMPOUNDS.isdisjoint(_text(word).split(None, 1)[:1])


def _times(command: Node) -> list[Node]:
    """`time time -p --`, however often, where a compound comes next."""
    words = _words(command)
    names = [_text(word) for word in words]
    end = 0
    while end < len(names) and names[end] == "time":
        end += 1
        end += names[end : end + 1] == ["-p"]
        end += names[end : end + 1] == ["--"]
    compound = end < len(words) and (
        words[end].type == "subshell" or _begins_a_compound(words[end])
    )
    return words[:end] if compound else []


def _words(command: Node) -> list[Node]:
    """The words that a command begins with, and the subshell behind them."""
    words: list[Node] = []
    for child in command.children if command.type == "command" else []:
        for node in child.children if child.type == "ERROR" else [child]:
            if node.type not in ("command_name", "word", "concatenation", "subshell"):
                return words
            words.append(node)
    return words


@lru_cache(maxsize=1)
def _parser() -> Parser:
    import tree_sitter_bash
    from tree_sitter import Language, Parser

    return Parser(Language(tree_sitter_bash.language()))


class _Walk:
    """Goes through one tree, without recursion, and adds what it finds to the line."""

    def __init__(self, line: ShellLine, outer: ShellCommand | None, depth: int) -> None:
        self._line = line
        self._outer = outer
        self._depth = depth

    def walk(self, root: Node) -> None:
        # (node, what its standard input is where that is known, words that follow a redirection)
        work: list[tuple[Node, str | None, list[Word]]] = [(root, None, [])]
        data, start = root.text or b"", root.start_byte
        while work:
            node, stdin, extra = work.pop()
            if node.type not in _KEEP_THEIR_TEXT and _skips(node, data, start):
                self._line.unclear.append("the grammar skips what bash does not")
            kind = node.type
            heir: Node | None = None  # the child that they go on to
            if kind == "command":
                self._command(node, stdin, extra)
            elif kind in ("declaration_command", "unset_command", "test_command"):
                self._builtin(node)
                self._line.plain = False
            elif kind == "redirected_statement":
                heir = node.children[0] if node.children else None
                own = self._redirected(node)
                stdin, extra = own[0] if stdin is None else stdin, own[1] + extra
            elif kind in _ENDS_IN_A_COMMAND:
                heir = node.children[-1] if node.children else None
            elif kind == "function_definition":
                self._line.plain = False
            elif node.is_named and kind not in _CHAINS and kind not in _WORDS:
                self._line.plain = self._line.plain and _harmless(node)
            elif kind in _OPAQUE:
                self._line.plain = False
            elif kind == "word" and re.search(r"(?<!\\)(?:\\\\)*\s", _text(node), re.ASCII):
                self._line.unclear.append("white space stands in a word")
            if len(self._line.commands) > MAX_COMMANDS:
                self._line.unclear.append("it has too many commands")
                return
            for child in reversed(node.children):
                work.append((child, stdin, extra) if child == heir else (child, None, []))

    def _command(self, node: Node, stdin: str | None, extra: list[Word]) -> None:
        own: list[Node] = []
        after: list[Word] = []
        given: str | None = None  # as standard input; redirections behind the command come later
        for child in node.children:
            if child.type == "variable_assignment":
                self._line.plain = False
            elif child.type == "command_name" or child.type in _WORDS:
                own.append(child)
            elif child.type.endswith("redirect"):
                given = self._stdin(child, given)
                after += _following(child)
        words = [*read_words(own), *after, *extra]
        if not words:
            return
        if not all(word.simple for word in words):
            self._line.plain = False
        command = ShellCommand(tuple(words), _text(node), self._outer)
        self.add(command, given if stdin is None else stdin)

    def _builtin(self, node: Node) -> None:
        words = [Word(_text(node).split(None, 1)[0])]
        words += read_words([child for child in node.children if child.type in _WORDS])
        self._line.commands.append(ShellCommand(tuple(words), _text(node), self._outer))

    def add(self, command: ShellCommand, stdin: str | None = None) -> None:
        """Keep a command, and what it would run."""
        from perilune.agent.permissions.shell.wrappers import unwrap

        self._line.commands.append(command)
        if self._depth > MAX_NESTING:
            self._line.unclear.append("nested too deeply")
            return
        name = command.words[0].text
        if name in _BEFORE_A_COMMAND or name in _AFTER_COMMANDS or name in _NO_COMMANDS:
            self._line.plain = False
            if name in _BEFORE_A_COMMAND and len(command.words) > 1:
                rest = command.words[1:]
                text = " ".join(word.text for word in rest)
                _Walk(self._line, self._outer, self._depth + 1).add(ShellCommand(rest, text))
            elif name in _NO_COMMANDS or len(command.words) > 1:
                self._line.unclear.append("it is not bash that the grammar reads")
            return
        if not command.words[0].fixed:
            self._line.unclear.append("which command it is, only a run can tell")
        inside = unwrap(command.words, stdin)
        if inside.unclear:
            self._line.unclear.append(inside.unclear)
        for words in inside.commands:
            words = _without_assignments(words)
            text = " ".join(word.text for word in words)
            _Walk(self._line, command, self._depth + 1).add(ShellCommand(words, text, command))
        for script in inside.scripts:
            _read_into(self._line, script, command, self._depth + 1)

    def _redirected(self, node: Node) -> tuple[str | None, list[Word]]:
        """The text that a statement is given as its standard input, if it stands in the line, and
        the words of its command that stand behind a redirection."""
        stdin: str | None = None
        extra: list[Word] = []
        for child in node.children:
            if child.type.endswith("redirect"):
                extra += _following(child)
                stdin = self._stdin(child, stdin)
        last = node
        while last.children and last.type in _ENDS_IN_A_COMMAND | {"redirected_statement"}:
            last = last.children[0 if last.type == "redirected_statement" else -1]
        if extra and (last.type.endswith("redirect") or last.type == "variable_assignment"):
            # `> a > b cat` and `! X=1 > f cat` have no command of their own in the grammar
            self._line.plain = False
            words = _without_assignments(tuple(extra))
            self.add(ShellCommand(words, _text(node), self._outer), stdin)
            return stdin, []
        if extra and last.type != "command":
            self._line.unclear.append("words follow a redirection, and no command is there")
        return stdin, extra

    def _stdin(self, redirect: Node, before: str | None) -> str | None:
        """What a command reads after a redirection: a text of the line, `WILD` for what does not
        stand in it, or what it read before: `3<<E` and `> f` leave that as it is."""
        after: str | None = WILD
        if redirect.type == "herestring_redirect":
            after = self._herestring(redirect)
        elif redirect.type == "heredoc_redirect":
            after = self._heredoc(redirect)
        else:
            self._line.plain = self._line.plain and _harmless(redirect)
        number = next((_text(c) for c in redirect.children if c.type == "file_descriptor"), "")
        reads = any(not c.is_named and "<" in c.type for c in redirect.children)
        if not (int(number) == 0 if number.isdecimal() else reads and not number):
            after = before
        for child in redirect.children:  # what stands behind a here-document is part of it
            if child.type.endswith("redirect"):
                after = self._stdin(child, after)
        return after

    def _herestring(self, node: Node) -> str:
        self._line.plain = False
        words = read_words([child for child in node.children if child.type in _WORDS])
        return words[-1].text if words else WILD

    def _heredoc(self, node: Node) -> str:
        self._line.plain = False
        start = next((_text(c) for c in node.children if c.type == "heredoc_start"), "")
        if not re.fullmatch(r"""[\w.-]+|'[\w .-]+'|"[\w .-]+"|\\[\w.-]+""", start):
            self._line.unclear.append("the end of a here-document is not clear")
        body = next((c for c in node.children if c.type == "heredoc_body"), None)
        if body is None:
            return ""
        expanded = any(child.type != "heredoc_content" for child in body.children)
        return WILD if expanded else _text(body)


def _skips(node: Node, data: bytes, start: int) -> bool:
    """Whether white space that bash does not take for such stands between the parts: a backslash
    and a blank, or the end of a line within a command."""
    ends = rb"\\[^\n]|(?<!\\)\n" if node.type in _ON_ONE_LINE else rb"\\[^\n]"
    return any(re.search(ends, gap) for _, gap in _gaps(node, data, start))


def _gaps(node: Node, data: bytes, start: int) -> Iterator[tuple[int, bytes]]:
    """What stands between the parts of a node, with its place; `data` begins at `start`."""
    end = node.start_byte
    for child in node.children:
        if child.start_byte > end:
            yield end, data[end - start : child.start_byte - start]
        end = child.end_byte


def _without_assignments(words: tuple[Word, ...]) -> tuple[Word, ...]:
    while len(words) > 1 and re.match(r"[A-Za-z_]\w*\+?=", words[0].text):
        words = words[1:]
    return words


def _following(redirect: Node) -> list[Word]:
    """The words behind a redirection's own, which belong to the command: `ls > f -l`."""
    words = read_words([child for child in redirect.children if child.type in _WORDS])
    if redirect.type != "heredoc_redirect":
        return words[1:]
    for child in redirect.children:
        if child.type.endswith("redirect"):
            words += _following(child)
    return words


def _harmless(node: Node) -> bool:
    """A redirection that writes no file: `2>&1`, `> /dev/null`; or a part of one."""
    if node.type in ("file_descriptor", "heredoc_start", "heredoc_end"):
        return True
    if node.type != "file_redirect":
        return False
    text = re.sub(r"\s", "", _text(node))
    return re.fullmatch(r"\d*>&\d|(?:\d*|&)>>?/dev/null|\d*</dev/null", text) is not None


def _text(node: Node) -> str:
    return (node.text or b"").decode("utf-8", "replace")
