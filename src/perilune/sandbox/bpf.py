"""A small assembler for classic BPF, the machine language of seccomp filters.

Source: Linux `Documentation/userspace-api/seccomp_filter.rst` and `<linux/bpf_common.h>`. A program
is a list of 8-byte instructions `{u16 code; u8 jump_true; u8 jump_false; u32 k}`; jumps go forward
only, so labels are resolved in one pass from the back.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

LOAD_WORD = 0x20  # BPF_LD | BPF_W | BPF_ABS: accumulator = 32 bits of seccomp_data at offset k
JUMP_EQUAL = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
JUMP_GREATER_EQUAL = 0x35  # BPF_JMP | BPF_JGE | BPF_K
JUMP_ANY_BIT = 0x45  # BPF_JMP | BPF_JSET | BPF_K
RETURN = 0x06  # BPF_RET | BPF_K

LONGEST_JUMP = 255


@dataclass
class Assembler:
    """Collects instructions; `assemble` turns labels into distances."""

    _lines: list[tuple[int, int, str | None, str | None]] = field(default_factory=list)
    _labels: dict[str, int] = field(default_factory=dict)

    def load(self, offset: int) -> None:
        self._lines.append((LOAD_WORD, offset, None, None))

    def jump(self, code: int, k: int, *, true: str | None = None, false: str | None = None) -> None:
        """A conditional jump to labels; None goes on with the next instruction."""
        self._lines.append((code, k, true, false))

    def ret(self, action: int) -> None:
        self._lines.append((RETURN, action, None, None))

    def label(self, name: str) -> None:
        if name in self._labels:
            raise ValueError(f"label {name} is set twice")
        self._labels[name] = len(self._lines)

    def assemble(self) -> bytes:
        """The program. Raises `ValueError` for an unknown label or one that is too far away."""
        return b"".join(
            struct.pack("<HBBI", code, self._distance(here, true), self._distance(here, false), k)
            for here, (code, k, true, false) in enumerate(self._lines)
        )

    def _distance(self, here: int, label: str | None) -> int:
        if label is None:
            return 0
        if label not in self._labels:
            raise ValueError(f"label {label} is not set")
        distance = self._labels[label] - here - 1
        if not 0 <= distance <= LONGEST_JUMP:
            raise ValueError(f"label {label} is {distance} instructions away")
        return distance
