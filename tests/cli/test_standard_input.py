"""What is read from standard input, what is not, and that nothing waits for ever."""

from __future__ import annotations

import os
import random
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from perilune.cli import standard_input
from perilune.errors import UsageError


@contextmanager
def stdin(fd: int) -> Iterator[list[str]]:
    """Standard input is this; yields what is said."""
    old = sys.stdin
    sys.stdin = os.fdopen(fd, "r", encoding="utf-8")
    said: list[str] = []
    try:
        yield said
    finally:
        sys.stdin.close()
        sys.stdin = old


def pipe_of(data: bytes) -> int:
    read, write = os.pipe()
    os.write(write, data)
    os.close(write)
    return read


def test_a_pipe_and_a_file_are_read(tmp_path: Path):
    with stdin(pipe_of("Grüße\n".encode())) as said:
        piped = standard_input.piped(said.append)
    assert piped is not None
    assert (piped.text, piped.measure, said) == ("Grüße\n", "8 bytes, 1 line", [])
    path = tmp_path / "f"
    path.write_text("a\nb")
    with stdin(os.open(path, os.O_RDONLY)) as said:
        piped = standard_input.piped(said.append)
    assert piped is not None
    assert piped.measure == "3 bytes, 2 lines"


def test_what_nobody_put_there_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    one, other = socket.socketpair()
    empty = tmp_path / "empty"
    empty.touch()
    for fd in (os.open(os.devnull, os.O_RDONLY), one.detach(), pipe_of(b""),
               os.open(empty, os.O_RDONLY)):  # fmt: skip
        with stdin(fd) as said:
            assert standard_input.piped(said.append) is None
            assert said == []
    other.close()
    monkeypatch.setattr("sys.stdin", None)
    assert standard_input.piped(print) is None


def test_a_file_that_a_loop_reads_is_left_to_it(tmp_path: Path):
    """`while read name; do perilune run ...; done < names` would lose its other names."""
    path = tmp_path / "names"
    path.write_text("one\ntwo\n")
    fd = os.open(path, os.O_RDONLY)
    os.lseek(fd, 4, os.SEEK_SET)
    with stdin(fd) as said:
        assert standard_input.piped(said.append) is None
        assert os.read(fd, 10) == b"two\n"
    assert "another program has read in part" in said[0]


def test_a_pipe_that_nobody_writes_into_is_given_up(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(standard_input, "SAYS_SO_AFTER", 0.2)
    monkeypatch.setattr(standard_input, "SILENT_SECONDS", 0.8)
    read, write = os.pipe()
    began = time.monotonic()
    with stdin(read) as said:
        assert standard_input.piped(said.append) is None
    os.close(write)
    assert time.monotonic() - began < 30
    assert len(said) == 2
    assert "--no-stdin" in said[0]
    assert "going on without it" in said[1]


@pytest.mark.parametrize("data", [b"\x89PNG\r\n\x1a\n...", b"abc\0def", bytes(range(128, 256)) * 9])
def test_what_is_no_text_is_refused(data: bytes):
    with stdin(pipe_of(data)) as said, pytest.raises(UsageError, match="is not text"):
        standard_input.piped(said.append)


def test_wrong_bytes_are_replaced_and_said():
    piped = standard_input.decoded(b"caf\xe9 and more text around it\n")
    assert piped.text.startswith("caf\N{REPLACEMENT CHARACTER}")
    assert "1 bytes that are not UTF-8 were replaced" in piped.said()
    assert standard_input.decoded("Mond".encode("utf-16")).text == "Mond"


def test_an_endless_pipe_is_cut(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(standard_input, "MOST_BYTES", 50_000)
    with stdin(pipe_of(b"y\n" * 30_000)) as said:
        piped = standard_input.piped(said.append)
    assert piped is not None
    assert piped.size == 50_000
    assert "only its first" in piped.said()


def test_random_bytes_are_valid_text_or_refused(tmp_path: Path):
    """Whatever comes, the task is valid Unicode, of bounded size, or our own error is raised."""
    for seed in range(300):
        dice = random.Random(seed)
        words = [b"text ", b"\n", "é😀".encode(), b"```", bytes([dice.randrange(256)]), b"\r\n"]
        data = b"".join(dice.choices(words, k=dice.randrange(4000)))
        try:
            piped = standard_input.decoded(data)
        except UsageError:
            continue
        task = piped.added_to("explain", tmp_path / str(seed), most=2000)
        task.encode("utf-8")
        assert len(task) < 2500, seed
        kept = tmp_path / str(seed) / "stdin.txt"
        assert kept.exists() == (len(piped.text) > 2000), seed
        if kept.exists():
            assert kept.read_bytes().decode("utf-8") == piped.text, seed
