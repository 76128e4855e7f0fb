"""Reads hostile files one after the other and prints how memory grew: see test_hostile.py."""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path

from perilune.chat.media.reader import MediaReader
from perilune.errors import MediaError

ROOM = 1 << 30  # of address space: whoever asks for more fails at once


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def address_space() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * resource.getpagesize()


def main(folder: Path) -> None:
    jobs = json.load(sys.stdin)
    reader = MediaReader()
    list(reader.open((folder / "good.jpg").read_bytes(), "image").load())
    if "video" in jobs.values():
        import av  # noqa: F401
    if sys.platform == "linux":
        most = address_space() + ROOM
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    before = peak()
    kinds = {}
    for name, kind in jobs.items():
        try:
            list(reader.open((folder / name).read_bytes(), kind).load())
            kinds[name] = "taken"
        except MediaError as error:
            kinds[name] = error.kind.value
    json.dump({"kinds": kinds, "growth": peak() - before}, sys.stdout)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
