"""One line of text, edited on the terminal: what each key does, and how the line is drawn.

The line stands in one row, which scrolls sideways when the text is longer (as in linenoise). Keys
are those of readline's Emacs mode. It knows no file descriptors: bytes come in, codes go out.
"""

from __future__ import annotations

import codecs
import os
from collections.abc import Callable

PASTE, END_OF_PASTE = "[200~", "\x1b[201~"
NAMED = {
    "[D": "left", "OD": "left", "[C": "right", "OC": "right", "[A": "up", "OA": "up", "[B": "down",
    "OB": "down", "[H": "home", "OH": "home", "[1~": "home", "[7~": "home", "[F": "end",
    "OF": "end", "[4~": "end", "[8~": "end", "[3~": "delete", "b": "word-left", "f": "word-right",
    "[1;5D": "word-left", "[1;5C": "word-right", "[1;3D": "word-left", "[1;3C": "word-right",
}  # fmt: skip
CONTROLS = {
    "\x01": "home", "\x02": "left", "\x05": "end", "\x06": "right", "\x08": "backspace",
    "\x7f": "backspace", "\x0b": "kill-right", "\x15": "kill-left", "\x17": "kill-word",
    "\x0e": "down", "\x10": "up", "\x0c": "clear",
}  # fmt: skip


class LineEditor:
    """Feed it bytes until `done`; then `line` is the text, or None at the end of input."""

    def __init__(
        self,
        prompt: str,
        history: list[str],
        write: Callable[[str], None],
        width: Callable[[], int],
    ) -> None:
        self._prompt = prompt
        self._history = [*history, ""]
        self._place = len(history)
        self._write = write
        self._width = width
        self._text: list[str] = []
        self._cursor = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._escape: str | None = None
        self._pasting: str | None = None
        self.done = False
        self.line: str | None = None

    def feed(self, data: bytes) -> None:
        """More bytes from the keyboard."""
        for char in self._decoder.decode(data):
            if self.done:
                return
            self._key(char)

    def draw(self) -> None:
        """Draw the line, over whatever stands in the cursor's row."""
        room = max(8, self._width() - 1 - _cells(self._prompt))
        shown = [_visible(char) for char in self._text]
        start = 0
        while _cells("".join(shown[start : self._cursor])) > room - 1:
            start += 1
        end = len(shown)
        while _cells("".join(shown[start:end])) > room:
            end -= 1
        right = _cells(self._prompt + "".join(shown[start : self._cursor]))
        self._write(f"\r{self._styled()}{''.join(shown[start:end])}\x1b[K\r\x1b[{right}C")

    def erase(self) -> None:
        """Take the line away, so that something can be printed; `draw` brings it back."""
        self._write("\r\x1b[K")

    def _key(self, char: str) -> None:
        if self._pasting is not None:
            self._paste(char)
        elif self._escape is not None:
            self._escape_key(char)
        elif char == "\x1b":
            self._escape = ""
        elif char in "\r\n":
            self._finish("".join(self._text))
        elif char == "\x04" and not self._text:
            self._finish(None)
        elif char == "\x04":
            self._edit("delete")
        elif char in CONTROLS:
            self._edit(CONTROLS[char])
        elif char.isprintable() or char == "\t":
            self._insert(char)

    def _escape_key(self, char: str) -> None:
        assert self._escape is not None
        self._escape += char
        known = self._escape
        if known == PASTE:
            self._escape, self._pasting = None, ""
        elif known in NAMED:
            self._escape = None
            self._edit(NAMED[known])
        elif known not in ("[", "O") and ("@" <= char <= "~" or len(known) > 16):
            self._escape = None  # a key that does nothing here

    def _paste(self, char: str) -> None:
        assert self._pasting is not None
        self._pasting += char
        if not self._pasting.endswith(END_OF_PASTE):
            return
        text = self._pasting.removesuffix(END_OF_PASTE).replace("\r\n", "\n").replace("\r", "\n")
        self._pasting = None
        self._insert("".join(c for c in text if c.isprintable() or c in "\n\t"))

    def _insert(self, text: str) -> None:
        self._text[self._cursor : self._cursor] = text
        self._cursor += len(text)
        self.draw()

    def _edit(self, name: str) -> None:
        text, at = self._text, self._cursor
        match name:
            case "left":
                self._cursor = max(0, at - 1)
            case "right":
                self._cursor = min(len(text), at + 1)
            case "home":
                self._cursor = 0
            case "end":
                self._cursor = len(text)
            case "word-left":
                self._cursor = self._word_left()
            case "word-right":
                while at < len(text) and not text[at].isalnum():
                    at += 1
                while at < len(text) and text[at].isalnum():
                    at += 1
                self._cursor = at
            case "backspace" if at > 0:
                del text[at - 1]
                self._cursor -= 1
            case "delete":
                del text[at : at + 1]
            case "kill-right":
                del text[at:]
            case "kill-left":
                del text[:at]
                self._cursor = 0
            case "kill-word":
                start = self._word_left()
                del text[start:at]
                self._cursor = start
            case "up" | "down":
                self._recall(-1 if name == "up" else 1)
            case "clear":
                self._write("\x1b[H\x1b[2J")
        self.draw()

    def _word_left(self) -> int:
        at = self._cursor
        while at > 0 and self._text[at - 1].isspace():
            at -= 1
        while at > 0 and not self._text[at - 1].isspace():
            at -= 1
        return at

    def _recall(self, by: int) -> None:
        place = self._place + by
        if not 0 <= place < len(self._history):
            return
        self._history[self._place] = "".join(self._text)
        self._place = place
        self._text = list(self._history[place])
        self._cursor = len(self._text)

    def _finish(self, line: str | None) -> None:
        """The whole line stays on the screen, in as many rows as it needs."""
        self.done, self.line = True, line
        text = "".join(map(_visible, self._text))
        self._write(f"\r{self._styled()}{text}\x1b[K\r\n")

    def _styled(self) -> str:
        return self._prompt if "NO_COLOR" in os.environ else f"\x1b[1;36m{self._prompt}\x1b[0m"


def _visible(char: str) -> str:
    """Line ends of a paste and tabs take one cell each."""
    return {"\n": "\N{SYMBOL FOR NEWLINE}", "\t": " "}.get(char, char)


def _cells(text: str) -> int:
    from rich.cells import cell_len

    return cell_len(text)
