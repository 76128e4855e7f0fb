"""The filter's decisions, checked by an interpreter of classic BPF for both architectures."""

from __future__ import annotations

import errno
import re
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perilune.errors import SandboxError
from perilune.sandbox.bpf import JUMP_EQUAL, Assembler
from perilune.sandbox.seccomp import (
    ALLOW,
    ARCHITECTURES,
    KILL_PROCESS,
    checked_names,
    denied_names,
    filter_program,
)

MACHINES = list(ARCHITECTURES)
EPERM = 0x00050000 | errno.EPERM
ENOSYS = 0x00050000 | errno.ENOSYS
NO_FAMILY = 0x00050000 | errno.EAFNOSUPPORT


def decide(program: bytes, architecture: int, number: int, *arguments: int) -> int:
    """Run a filter as the kernel does: seccomp_data in, action out."""
    padded = (*arguments, *([0] * (6 - len(arguments))))
    data = struct.pack("<IIQ6Q", number, architecture, 0, *padded)
    lines = list(struct.iter_unpack("<HBBI", program))
    accumulator, here = 0, 0
    while True:
        code, true, false, k = lines[here]
        here += 1
        if code == 0x20:
            (accumulator,) = struct.unpack_from("<I", data, k)
        elif code == 0x06:
            return k
        else:
            holds = {
                0x15: accumulator == k,
                0x35: accumulator >= k,
                0x45: bool(accumulator & k),
            }[code]
            here += true if holds else false


@pytest.mark.parametrize("machine", MACHINES)
def test_every_denied_call_is_refused(machine: str) -> None:
    program, architecture = filter_program(machine), ARCHITECTURES[machine]
    for name, number in denied_names(machine).items():
        assert decide(program, architecture, number) == EPERM, name


@pytest.mark.parametrize("machine", MACHINES)
@given(number=st.integers(0, 600), argument=st.integers(0, 2**64 - 1))
def test_everything_else_is_allowed(machine: str, number: int, argument: int) -> None:
    special = {*denied_names(machine).values(), *checked_names(machine).values()}
    expected = EPERM if number in denied_names(machine).values() else ALLOW
    if number in special and expected == ALLOW:
        return
    program = filter_program(machine)
    assert decide(program, ARCHITECTURES[machine], number, argument) == expected


@pytest.mark.parametrize("machine", MACHINES)
def test_calls_that_are_looked_at(machine: str) -> None:
    program, architecture = filter_program(machine), ARCHITECTURES[machine]
    number = checked_names(machine)

    def of(name: str, *arguments: int) -> int:
        return decide(program, architecture, number[name], *arguments)

    for name in ("socket", "socketpair"):
        assert of(name, 1) == ALLOW
        assert {of(name, family) for family in (0, *range(2, 50))} == {NO_FAMILY}
    assert of("clone", 0x003D0F00) == ALLOW  # a thread
    assert of("clone", 17) == ALLOW  # a fork
    for flag in (0x20000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000):
        assert of("clone", 17 | flag) == EPERM
    assert of("clone3") == ENOSYS
    assert of("ioctl", 0, 0x5401) == ALLOW
    assert of("ioctl", 0, 0x5412) == EPERM
    assert of("ioctl", 0, 0x541C) == EPERM
    assert of("personality", 0) == ALLOW
    assert of("personality", 0xFFFFFFFF) == ALLOW
    assert of("personality", 0x0040000) == EPERM


@pytest.mark.parametrize("machine", MACHINES)
def test_no_file_gets_a_mode_that_runs_it_as_its_owner(machine: str) -> None:
    program, architecture = filter_program(machine), ARCHITECTURES[machine]
    number = checked_names(machine)
    assert ("open" in number) == (machine == "x86_64")

    def of(name: str, *arguments: int) -> int | None:
        return decide(program, architecture, number[name], *arguments) if name in number else None

    for bits, expected in ((0o1777, ALLOW), (0o4755, EPERM), (0o2755, EPERM), (0o100644, ALLOW)):
        for name in ("chmod", "fchmod", "creat", "mknod"):
            assert of(name, 0o6000, bits, 0o6000) in (expected, None), name
        for name in ("fchmodat", "fchmodat2", "mknodat"):
            assert of(name, 0o6000, 0o6000, bits, 0o6000) == expected, name
        assert of("open", 0o6000, 0x41, bits) in (expected, None)
        assert of("openat", 0o6000, 0o6000, 0x41, bits) == expected
        assert of("openat", 0o6000, 0o6000, 0x410002, bits) == expected  # O_TMPFILE
        # Without O_CREAT the mode is whatever lay in the register.
        assert of("openat", 0o6000, 0o6000, 0x80000, bits) == ALLOW
        assert of("open", 0o6000, 0x80000, bits) in (ALLOW, None)
    assert of("openat2", 0, 0, 0, 24) == ENOSYS


def test_other_architectures_are_killed() -> None:
    x86_32 = 0x40000003
    for machine in MACHINES:
        assert decide(filter_program(machine), x86_32, 1) == KILL_PROCESS
    # x32: 64-bit registers under other numbers
    assert decide(filter_program("x86_64"), ARCHITECTURES["x86_64"], 0x40000000 + 41, 2) == ENOSYS


def test_numbers_agree_with_the_kernel_headers() -> None:
    headers = {
        "x86_64": Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
        "aarch64": Path("/usr/include/asm-generic/unistd.h"),
    }
    seen = 0
    for machine, header in headers.items():
        if not header.exists():
            continue
        pattern = r"#define __NR(?:3264)?_(\w+)\s+(\d+)$"
        numbers = dict(re.findall(pattern, header.read_text(), re.MULTILINE))
        for name, number in (denied_names(machine) | checked_names(machine)).items():
            if name in numbers:
                assert int(numbers[name]) == number, (machine, name)
                seen += 1
    if not seen:
        pytest.skip("no kernel headers here")


def test_an_unknown_processor_is_refused() -> None:
    with pytest.raises(SandboxError, match="riscv64"):
        filter_program("riscv64")


def test_the_assembler_refuses_what_it_cannot_express() -> None:
    program = Assembler()
    program.jump(JUMP_EQUAL, 1, true="nowhere")
    with pytest.raises(ValueError, match="nowhere"):
        program.assemble()
    program = Assembler()
    program.jump(JUMP_EQUAL, 1, true="far")
    for _ in range(300):
        program.ret(ALLOW)
    program.label("far")
    with pytest.raises(ValueError, match="300 instructions"):
        program.assemble()
    with pytest.raises(ValueError, match="twice"):
        program.label("far")
