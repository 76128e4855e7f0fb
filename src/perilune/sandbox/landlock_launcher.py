"""Runs inside the landlock boundary as `python -I -S -c SOURCE SETTINGS`; standard library only.

It forks: the child takes on limits, landlock rules and the seccomp filter and becomes the command;
the parent stays as the reaper of the whole tree, kills what is left when the command ends or when
the supervisor dies, and reports the exit code. Never imported by the package.
"""

# Few imports, for each delays the start of every command.
# ruff: noqa: PTH112, PTH116, PTH123, PTH208, SIM105, S606

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import struct
import sys
from typing import Any, NoReturn

PR_SET_PDEATHSIG, PR_SET_SECCOMP, PR_SET_SUBREAPER, PR_SET_NO_NEW_PRIVS = 1, 22, 36, 38
CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1, 2, 4, 8
TRUNCATE, IOCTL_DEVICE = 1 << 14, 1 << 15

libc = ctypes.CDLL(None, use_errno=True)


def check(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def restrict_files_and_network(settings: dict[str, Any]) -> None:
    version = libc.syscall(CREATE_RULESET, None, ctypes.c_size_t(0), 1)
    check(version, "landlock")
    bits = {1: 13, 2: 14, 3: 15, 4: 15}.get(version, 16)
    every_file_right = (1 << bits) - 1
    attributes = struct.pack("<Q", every_file_right)
    if version >= 4:
        attributes += struct.pack("<Q", 3)  # TCP bind and connect, no port allowed
    if version >= 6:
        attributes += struct.pack("<Q", 3)  # abstract sockets and signals stay inside
    size = ctypes.c_size_t(len(attributes))
    rules = check(libc.syscall(CREATE_RULESET, attributes, size, 0), "landlock rule set")
    # Making device nodes stays refused everywhere.
    everything = every_file_right & ~(1 << 6 | 1 << 11)
    reading = EXECUTE | READ_FILE | READ_DIR
    using = READ_FILE | WRITE_FILE | TRUNCATE | IOCTL_DEVICE
    groups = (("writable", everything), ("readable", reading), ("devices", using))
    for group, rights in groups:
        for path in settings[group]:
            try:
                beneath = os.open(path, os.O_PATH | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            allowed = rights & every_file_right
            if not os.path.isdir(path):
                allowed &= EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEVICE
            rule = struct.pack("<Qi", allowed, beneath)
            check(libc.syscall(ADD_RULE, rules, 1, rule, 0), f"landlock rule for {path}")
            os.close(beneath)
    check(libc.syscall(RESTRICT_SELF, rules, 0), "landlock")
    os.close(rules)


def filter_system_calls(program: bytes) -> None:
    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))

    filter_ = Program(len(program) // 8, program)
    check(libc.prctl(PR_SET_SECCOMP, 2, ctypes.byref(filter_), 0, 0), "seccomp")


def own_task_count() -> int:
    """Tasks of this user: RLIMIT_NPROC counts them all where there is no user namespace."""
    count, uid = 0, os.getuid()
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                if os.stat(f"/proc/{name}").st_uid == uid:
                    count += len(os.listdir(f"/proc/{name}/task"))
            except OSError:
                pass
    return count


def limit_resources(rlimits: dict[str, int | None]) -> None:
    for name, value in rlimits.items():
        if value is None:
            continue
        if name == "RLIMIT_NPROC":
            value += own_task_count()
        hard = resource.getrlimit(getattr(resource, name))[1]
        if hard != resource.RLIM_INFINITY:
            value = min(value, hard)
        resource.setrlimit(getattr(resource, name), (value, value))


def become_command(settings: dict[str, Any], ready: int) -> NoReturn:
    try:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        program = os.read(settings["filter_fd"], 1 << 16)
        for descriptor in (settings["filter_fd"], settings["status_fd"]):
            os.close(descriptor)
        os.chdir(settings["workspace"])
        limit_resources(settings["rlimits"])
        check(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
        restrict_files_and_network(settings)
        filter_system_calls(program)
    except OSError as error:
        os.write(2, f"landlock: {error}\n".encode())
        os._exit(1)
    os.write(ready, b"x")
    os.close(ready)
    try:
        os.execvpe(settings["argv"][0], settings["argv"], settings["environment"])
    except OSError as error:
        os.write(2, f"{settings['argv'][0]}: {error.strerror}\n".encode())
        os._exit(127)


def children_of(pid: int) -> list[int]:
    found: list[int] = []
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children") as lines:
                found += [int(child) for child in lines.read().split()]
    except OSError:
        pass
    return found


def kill_descendants() -> None:
    """Stop, then kill, round by round, until there is no child left to wait for."""
    while True:
        found: list[int] = []
        pending = children_of(os.getpid())
        while pending:
            pid = pending.pop()
            found.append(pid)
            signal_quietly(pid, signal.SIGSTOP)
            pending += children_of(pid)
        for pid in found:
            signal_quietly(pid, signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def signal_quietly(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def ended(number: int, frame: object) -> NoReturn:
    kill_descendants()
    os._exit(128 + number)


def main() -> NoReturn:
    settings = json.loads(sys.argv[1])
    os.setsid()
    check(libc.prctl(PR_SET_SUBREAPER, 1, 0, 0, 0), "subreaper")
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != settings["supervisor"]:
        os._exit(1)  # it died before the kernel was asked to tell
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, ended)
    is_ready, ready = os.pipe()
    child = os.fork()
    if child == 0:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
            signal.signal(number, signal.SIG_DFL)
        become_command(settings, ready)
    os.close(ready)
    for descriptor in settings["keep_fds"]:
        os.close(descriptor)
    started = os.read(is_ready, 1) == b"x"
    while True:
        pid, status = os.wait()
        if pid == child:
            break
    kill_descendants()
    code = os.waitstatus_to_exitcode(status)
    code = 128 - code if code < 0 else code
    if started:
        os.write(settings["status_fd"], json.dumps({"exit-code": code}).encode())
    os._exit(code)


if __name__ == "__main__":
    main()
