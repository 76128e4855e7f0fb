"""Finding and using control groups, on made-up hierarchies: few machines have both versions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from perilune.sandbox import Limits, cgroup
from perilune.sandbox.cgroup import Cgroup, CgroupKind, cgroup_kind
from perilune.sandbox.limits import MIB


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    cgroup_kind.cache_clear()
    yield
    cgroup_kind.cache_clear()


def hierarchy(
    monkeypatch: pytest.MonkeyPatch, own: dict[str, str], mounts: list[tuple[str, str, Path, str]]
) -> None:
    """Pretend that /proc/self says this."""
    monkeypatch.setattr(cgroup, "_own_groups", lambda: own)
    monkeypatch.setattr(
        cgroup, "_mounts", lambda: [(k, r, m, set(o.split(","))) for k, r, m, o in mounts]
    )
    # Plain folders keep their files, so the groups cannot be removed again.
    monkeypatch.setattr(Cgroup, "remove", lambda self: None)


def group(path: Path, controllers: str) -> Path:
    path.mkdir(parents=True)
    (path / "cgroup.subtree_control").write_text(controllers)
    return path


def test_version_2_takes_the_nearest_ancestor_that_hands_both_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    group(tmp_path / "user.slice", "cpu memory pids")
    near = group(tmp_path / "user.slice" / "app.slice", "memory pids")
    group(near / "shell.scope", "")
    group(near / "shell.scope" / "inner", "memory")
    hierarchy(
        monkeypatch,
        {"": "/user.slice/app.slice/shell.scope/inner"},
        [("cgroup2", "/", tmp_path, "rw")],
    )
    kind = cgroup_kind()
    assert (kind.version, kind.bounds_memory) == ("v2", True)
    assert kind.parents == {"memory": near, "pids": near}

    made = Cgroup(kind, Limits(memory=64 * MIB, processes=10))
    (folder,) = made.folders.values()
    assert folder.parent == near
    assert (folder / "memory.max").read_text() == str(64 * MIB)
    assert (folder / "memory.swap.max").read_text() == "0"
    assert (folder / "pids.max").read_text() == "12"
    assert made.join_files == [folder / "cgroup.procs"]
    assert not made.out_of_memory
    (folder / "memory.events").write_text("low 0\noom 2\noom_kill 1\n")
    assert made.out_of_memory


def test_version_1_uses_the_controllers_that_it_may(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    memory, pids = tmp_path / "memory", tmp_path / "pids"
    (memory / "job").mkdir(parents=True)
    pids.mkdir()
    hierarchy(
        monkeypatch,
        {"memory": "/docker/abc/job", "pids": "/", "cpu": "/"},
        [
            ("cgroup", "/docker/abc", memory, "rw,memory"),
            ("cgroup", "/", pids, "rw,pids"),
            ("cgroup", "/", tmp_path / "cpu", "rw,cpu"),
            ("cgroup2", "/", tmp_path, "rw"),
        ],
    )
    kind = cgroup_kind()
    assert kind.parents == {"memory": memory / "job", "pids": pids}
    made = Cgroup(kind, Limits(memory=64 * MIB, processes=10))
    assert (made.folders[memory / "job"] / "memory.limit_in_bytes").read_text() == str(64 * MIB)
    assert (made.folders[pids] / "pids.max").read_text() == "12"
    assert len(made.join_files) == 2
    assert str(kind) == "v1 (memory, pids)"


def test_none_where_nothing_is_handed_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    group(tmp_path / "init.scope", "cpu")
    hierarchy(monkeypatch, {"": "/init.scope"}, [("cgroup2", "/", tmp_path, "rw")])
    kind = cgroup_kind()
    assert (kind.version, kind.bounds_memory) == ("none", False)
    assert str(kind).startswith("none (")


def test_a_group_that_nobody_can_join_is_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As for a user whose shell was started in another user's part of the tree."""
    group(tmp_path / "app.slice", "memory pids")
    hierarchy(monkeypatch, {"": "/app.slice"}, [("cgroup2", "/", tmp_path, "rw")])
    monkeypatch.setattr(
        Cgroup, "join_files", property(lambda self: [Path("/proc/self/no/cgroup.procs")])
    )
    assert cgroup_kind().version == "none"


def test_a_group_without_bounds_is_made_of_what_is_given(tmp_path: Path) -> None:
    kind = CgroupKind("v2", {"memory": tmp_path, "pids": tmp_path})
    (folder,) = Cgroup(kind, Limits(memory=None)).folders.values()
    assert not (folder / "memory.max").exists()
