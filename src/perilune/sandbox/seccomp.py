"""The seccomp filter of the sandbox, built by our own assembler; no libseccomp.

A deny list: what reaches past the sandbox (kernel modules, mounts, namespaces, other processes'
memory, clocks, io_uring, which could open sockets behind the filter's back) fails with EPERM, and a
socket of any family but AF_UNIX with EAFNOSUPPORT. No file becomes set-user-ID or set-group-ID: in
the workspace it would run as the workspace's owner, whoever starts it outside. Threads,
subprocesses, pipes and other file work are untouched. Syscall numbers: `asm/unistd_64.h` (x86-64)
and `asm-generic/unistd.h` (aarch64).
"""

from __future__ import annotations

import errno
import platform
from functools import cache

from perilune.errors import SandboxError
from perilune.sandbox.bpf import (
    JUMP_ANY_BIT,
    JUMP_EQUAL,
    JUMP_GREATER_EQUAL,
    Assembler,
)

ALLOW = 0x7FFF0000  # SECCOMP_RET_ALLOW
KILL_PROCESS = 0x80000000  # SECCOMP_RET_KILL_PROCESS
_ERRNO = 0x00050000  # SECCOMP_RET_ERRNO | errno

ARCHITECTURES: dict[str, int] = {  # AUDIT_ARCH_*
    "x86_64": 0xC000003E,
    "aarch64": 0xC00000B7,
}

# name: (x86-64, aarch64); None where the architecture never had the call.
_DENIED: dict[str, tuple[int | None, int | None]] = {
    # the kernel itself
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "create_module": (174, None),
    "query_module": (178, None),
    "get_kernel_syms": (177, None),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "reboot": (169, 142),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "syslog": (103, 116),
    "lookup_dcookie": (212, 18),
    "_sysctl": (156, None),
    "iopl": (172, None),
    "ioperm": (173, None),
    "modify_ldt": (154, None),
    "uselib": (134, None),
    "vserver": (236, None),
    # file systems and namespaces
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "setns": (308, 268),
    "unshare": (272, 97),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "fanotify_init": (300, 262),
    "fanotify_mark": (301, 263),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "acct": (163, 89),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "nfsservctl": (180, 42),
    "sysfs": (139, None),
    "ustat": (136, None),
    # other processes and keys
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "pidfd_getfd": (438, 438),
    "kcmp": (312, 272),
    "move_pages": (279, 239),
    "migrate_pages": (256, 238),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    # the machine's clock, name and terminal
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "clock_adjtime": (305, 266),
    "adjtimex": (159, 171),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "vhangup": (153, 58),
}
# Looked at with their arguments.
_CHECKED: dict[str, tuple[int, int]] = {
    "socket": (41, 198),
    "socketpair": (53, 199),
    "clone": (56, 220),
    "clone3": (435, 435),
    "ioctl": (16, 29),
    "personality": (135, 92),
    "openat2": (437, 437),
}
# Calls that give a file its mode: (x86-64, aarch64), which argument is the mode, and which, if
# any, are the flags that say whether a file is made at all.
_MODES: dict[str, tuple[int | None, int | None, int, int | None]] = {
    "chmod": (90, None, 1, None),
    "fchmod": (91, 52, 1, None),
    "fchmodat": (268, 53, 2, None),
    "fchmodat2": (452, 452, 2, None),
    "creat": (85, None, 1, None),
    "mknod": (133, None, 1, None),
    "mknodat": (259, 33, 2, None),
    "open": (2, None, 2, 1),
    "openat": (257, 56, 3, 2),
}

_AF_UNIX = 1
_CLONE_NEW_ANY = 0x7E020000  # CLONE_NEWNS | NEWCGROUP | NEWUTS | NEWIPC | NEWUSER | NEWPID | NEWNET
_TERMINAL_INJECTION = (0x5412, 0x541C)  # TIOCSTI, TIOCLINUX
_HARMLESS_PERSONALITIES = (0x0, 0xFFFFFFFF)  # Linux itself; a question
_X32_BIT = 0x40000000
_SET_ID = 0o6000  # S_ISUID | S_ISGID
_CREATES = 0x40 | 0x400000  # O_CREAT | __O_TMPFILE

# struct seccomp_data { int nr; u32 arch; u64 instruction_pointer; u64 args[6]; }, little-endian
_NUMBER, _ARCHITECTURE = 0, 4
_ARGUMENTS = (16, 24, 32, 40)


def denied_names(machine: str) -> dict[str, int]:
    """Name -> number of every syscall that is always refused on `machine`."""
    column = list(ARCHITECTURES).index(machine)
    return {name: n for name, both in _DENIED.items() if (n := both[column]) is not None}


def checked_names(machine: str) -> dict[str, int]:
    """Name -> number of every syscall that is refused for some arguments."""
    column = list(ARCHITECTURES).index(machine)
    return {name: both[column] for name, both in _CHECKED.items()} | {
        name: n for name, each in _MODES.items() if (n := each[column]) is not None
    }


@cache
def filter_program(machine: str = "") -> bytes:
    """The filter as bytes for `bwrap --seccomp` or `prctl(PR_SET_SECCOMP)`.

    `machine` is "x86_64" or "aarch64", default this one. Raises `SandboxError` for any other.
    """
    machine = machine or platform.machine()
    if machine not in ARCHITECTURES:
        raise SandboxError(
            f"there is no system call filter for {machine} processors",
            remedy=f"The sandbox is for {' and '.join(ARCHITECTURES)}.",
        )
    program = Assembler()
    program.load(_ARCHITECTURE)
    program.jump(JUMP_EQUAL, ARCHITECTURES[machine], true="known architecture")
    program.ret(KILL_PROCESS)  # 32-bit calls on a 64-bit kernel have other numbers
    program.label("known architecture")
    program.load(_NUMBER)
    if machine == "x86_64":
        program.jump(JUMP_GREATER_EQUAL, _X32_BIT, true="no such call")
    for number in denied_names(machine).values():
        program.jump(JUMP_EQUAL, number, true="refused")
    checked = checked_names(machine)
    program.jump(JUMP_EQUAL, checked["socket"], true="socket")
    program.jump(JUMP_EQUAL, checked["socketpair"], true="socket")
    program.jump(JUMP_EQUAL, checked["clone"], true="clone")
    # Their flags lie behind a pointer; libc falls back to clone, and programs to openat.
    program.jump(JUMP_EQUAL, checked["clone3"], true="no such call")
    program.jump(JUMP_EQUAL, checked["openat2"], true="no such call")
    program.jump(JUMP_EQUAL, checked["ioctl"], true="ioctl")
    program.jump(JUMP_EQUAL, checked["personality"], true="personality")
    for name, (_, _, mode, flags) in _MODES.items():
        if name in checked:
            program.jump(JUMP_EQUAL, checked[name], true=f"mode {mode} flags {flags}")
    program.ret(ALLOW)

    for mode, flags in dict.fromkeys(each[2:] for name, each in _MODES.items() if name in checked):
        program.label(f"mode {mode} flags {flags}")
        if flags is not None:
            program.load(_ARGUMENTS[flags])
            program.jump(JUMP_ANY_BIT, _CREATES, false="allowed")
        program.load(_ARGUMENTS[mode])
        program.jump(JUMP_ANY_BIT, _SET_ID, true="refused", false="allowed")

    program.label("socket")
    program.load(_ARGUMENTS[0])
    program.jump(JUMP_EQUAL, _AF_UNIX, true="allowed")
    program.ret(_ERRNO | errno.EAFNOSUPPORT)

    program.label("clone")
    program.load(_ARGUMENTS[0])
    program.jump(JUMP_ANY_BIT, _CLONE_NEW_ANY, true="refused", false="allowed")

    program.label("ioctl")
    program.load(_ARGUMENTS[1])
    for request in _TERMINAL_INJECTION:
        program.jump(JUMP_EQUAL, request, true="refused")
    program.ret(ALLOW)

    program.label("personality")
    program.load(_ARGUMENTS[0])
    for persona in _HARMLESS_PERSONALITIES:
        program.jump(JUMP_EQUAL, persona, true="allowed")

    program.label("refused")
    program.ret(_ERRNO | errno.EPERM)
    program.label("no such call")
    program.ret(_ERRNO | errno.ENOSYS)
    program.label("allowed")
    program.ret(ALLOW)
    return program.assemble()
