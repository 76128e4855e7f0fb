"""git in the sandbox: it works where the workspace is a checkout, and nothing of what it obeys on
the host can be written from there."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from perilune.sandbox import Sandbox
from perilune.sandbox.git_folders import find_checkout, stands_for
from perilune.sandbox.host_git import committer_of, run_git
from perilune.sandbox.protected import ENVIRONMENT_VARIABLE
from tests.sandbox.conftest import opened

NAMED = ["-c", "user.name=Host", "-c", "user.email=host@example.org"]
LOCAL = ["-c", "protocol.file.allow=always", "-c", "safe.directory=*"]


def git(where: Path, *words: str) -> str:
    """git on the host, with no configuration but the repository's."""
    environment = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "LC_ALL": "C"}
    done = subprocess.run(
        ["git", "-C", str(where), *NAMED, *LOCAL, *words],
        capture_output=True, text=True, env=environment, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(autouse=True)
def homes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERILUNE_HOME", str(tmp_path / "home"))
    config = tmp_path / "gitconfig"
    config.write_text('[user]\n\tname = Ada \\"L\\" King\n\temail = ada@example.org\n')
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(config))


@pytest.fixture
def repository(outside: Path) -> Path:
    """A checkout with files around and in `sub`, an untracked secret, and a link out of it."""
    top = outside / "repo"
    (top / "sub" / "deep").mkdir(parents=True)
    (top / "lib" / "inner").mkdir(parents=True)
    for name in ("a.txt", "sub/b.txt", "sub/deep/c.txt", "lib/d.txt", "lib/inner/e.txt"):
        (top / name).write_text(name)
    (top / "link").symlink_to("/etc/shadow")
    git(top, "init", "-q", "-b", "main", ".")
    git(top, "add", ".")
    git(top, "commit", "-q", "-m", "one")
    (top / "secret").write_text("sesame")
    (top / "lib" / "inner" / "secret").write_text("sesame")
    return top


def shell(sandbox: Sandbox, workspace: Path, script: str) -> str:
    """What a script prints, which must succeed."""
    result = sandbox.run(["bash", "-ec", script], workspace=workspace, merge_stderr=True)
    assert result.ok, result.stdout + result.explanation
    return result.stdout


WORK = """
git status --short; git diff; git log --oneline > /dev/null
echo more >> {file}; git diff | grep -q more
echo new > new.txt; git add new.txt; git commit -q -m two
git commit -q -a -m three; git status --short
git log -2 --format='%an <%ae> %s'
"""
LOGGED = 'Ada "L" King <ada@example.org> three\nAda "L" King <ada@example.org> two\n'


def test_a_checkout(sandbox: Sandbox, repository: Path) -> None:
    printed = shell(sandbox, repository, WORK.format(file="a.txt") + "git stash list; git gc -q")
    assert printed == "?? lib/inner/secret\n?? secret\n" * 2 + LOGGED
    assert git(repository, "log", "--format=%s") == "three\ntwo\none\n"
    printed = shell(
        sandbox, repository,
        "git checkout -q -b other; echo x > a.txt; git stash -q; git stash pop -q;"
        "git commit -qam x; git checkout -q main; git merge -q other; git branch -d other;"
        "git worktree add -q wt; cd wt; git commit -q --allow-empty -m in; git log -1 --format=%s",
    )  # fmt: skip
    assert printed.endswith("in\n")
    assert "in" in shell(sandbox, repository, "cd wt; git log -1 --format=%s")


def test_a_folder_of_a_checkout(bubblewrap: Sandbox, repository: Path) -> None:
    """What lies around it is neither lost by a commit nor shown, but for what git knows."""
    printed = shell(bubblewrap, repository / "sub", WORK.format(file="b.txt"))
    assert printed == LOGGED
    assert git(repository, "status", "--short") == "?? lib/inner/secret\n?? secret\n"
    assert git(repository, "show", "--stat", "--format=", "HEAD~1", "HEAD").count("sub/") == 2
    listed = shell(bubblewrap, repository / "sub", "cd ..; find . -path ./.git -prune -o -print")
    assert "secret" not in listed
    assert "./lib/inner/e.txt" in listed
    result = bubblewrap.run(
        ["sh", "-c", "cat ../link; echo x > ../a.txt; echo x > ../lib/new; rm ../lib/d.txt"],
        workspace=repository / "sub",
    )
    assert not result.ok
    assert git(repository, "status", "--short") == "?? lib/inner/secret\n?? secret\n"
    assert shell(bubblewrap, repository / "sub", "cat /workspace/b.txt").startswith("sub/b.txt")


def test_a_folder_of_a_checkout_can_be_read_behind_landlock(repository: Path) -> None:
    landlock = opened("landlock")
    script = "git status --short -uno; git log --format=%s; git diff --stat"
    assert shell(landlock, repository / "sub", script) == "one\n"
    assert not landlock.run(["git", "commit", "--allow-empty", "-m", "x"],
                            workspace=repository / "sub").ok  # fmt: skip


def test_a_linked_worktree(bubblewrap: Sandbox, repository: Path, outside: Path) -> None:
    linked, other = outside / "linked", outside / "other"
    git(repository, "worktree", "add", "-q", str(linked))
    git(repository, "worktree", "add", "-q", str(other))
    assert shell(bubblewrap, linked, WORK.format(file="a.txt")) == LOGGED
    assert git(linked, "status", "--short") == ""
    assert git(repository, "log", "linked", "--format=%s") == "three\ntwo\none\n"
    # The working trees of the others are not there, and still they are not pruned.
    bubblewrap.run(["git", "worktree", "prune"], workspace=linked)
    assert str(other) in git(repository, "worktree", "list")
    assert git(other, "status", "--short") == ""
    assert not bubblewrap.run(["ls", str(repository / "a.txt")], workspace=linked).ok
    deep = shell(bubblewrap, linked / "sub", "git status --short; git log -1 --format=%s")
    assert deep == "three\n"


def test_a_submodule(bubblewrap: Sandbox, repository: Path, outside: Path) -> None:
    top = outside / "super"
    top.mkdir()
    git(top, "init", "-q", ".")
    git(top, "submodule", "--quiet", "add", str(repository), "module")
    git(top, "commit", "-q", "-m", "super")
    assert shell(bubblewrap, top / "module", WORK.format(file="a.txt")) == LOGGED
    assert git(top / "module", "log", "--format=%s") == "three\ntwo\none\n"
    assert "module" in git(top, "status", "--short")
    inner = "git status --short; cd module; git commit -q --allow-empty -m in"
    assert shell(bubblewrap, top, inner) == " M module\n"


def test_a_copy_of_a_linked_worktree_or_folder_reads_and_does_not_commit(
    bubblewrap: Sandbox, repository: Path, outside: Path
) -> None:
    linked = outside / "linked"
    git(repository, "worktree", "add", "-q", str(linked))
    for number, origin in enumerate((linked, repository / "sub")):
        copy = outside / f"copy{number}"
        shutil.copytree(origin, copy, symlinks=True)
        stands_for(copy, origin)
        script = "git status --short; echo x > made; git status --short; git log -1 --format=%s"
        assert shell(bubblewrap, copy, script) == "?? made\none\n"
        assert (copy / "made").exists()
        assert not bubblewrap.run(["git", "add", "made"], workspace=copy).ok
        assert not (origin / "made").exists()


def test_a_foreign_git_directory_is_not_shown(
    bubblewrap: Sandbox, repository: Path, outside: Path
) -> None:
    """A `.git` file can name anything; what it names must name it back."""
    folder = outside / "folder"
    folder.mkdir()
    (folder / ".git").write_text(f"gitdir: {repository}/.git\n")
    assert find_checkout(folder) is None
    assert not bubblewrap.run(["git", "log"], workspace=folder).ok
    assert not bubblewrap.run(["ls", f"{repository}/.git"], workspace=folder).ok
    linked = outside / "linked"
    git(repository, "worktree", "add", "-q", str(linked))
    (folder / ".git").write_text((linked / ".git").read_text())
    assert find_checkout(folder) is None
    assert find_checkout(linked) is not None


def test_without_a_name_a_commit_says_so(
    sandbox: Sandbox, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "none"))
    monkeypatch.setenv("HOME", str(tmp_path))
    unnamed = opened(sandbox.kind)
    result = unnamed.run(["git", "commit", "--allow-empty", "-m", "x"], workspace=repository)
    assert not result.ok
    assert "Please tell me who you are" in result.stderr
    environment = {"GIT_AUTHOR_NAME": "A", "GIT_AUTHOR_EMAIL": "a@b"} | {
        "GIT_COMMITTER_NAME": "A", "GIT_COMMITTER_EMAIL": "a@b"
    }  # fmt: skip
    assert unnamed.run(
        ["git", "commit", "--allow-empty", "-m", "x"], workspace=repository, environment=environment
    ).ok


def test_credentials_stay_outside(sandbox: Sandbox, repository: Path, tmp_path: Path) -> None:
    with (tmp_path / "gitconfig").open("a") as config:
        config.write('[credential]\n\thelper = store\n[url "https://k:secret@x/"]\n\tinsteadOf=y')
        config.write("\n[core]\n\tsshCommand = secret\n")
    shown = opened(sandbox.kind).run(["git", "config", "--list"], workspace=repository).stdout
    assert "ada@example.org" in shown
    assert "secret" not in shown and "credential" not in shown


# --- what git obeys ---

ATTACKS = {
    "hook": "echo x > .git/hooks/pre-commit",
    "hook by link": "ln -s .git/hooks h; echo x > h/pre-commit",
    "hook by hard link": "echo x > x; ln x .git/hooks/pre-commit",
    "hooks put aside": "mv .git/hooks .git/old; mkdir .git/hooks; echo x > .git/hooks/pre-commit",
    "hooks removed": "rm -rf .git/hooks; mkdir .git/hooks; echo x > .git/hooks/pre-commit",
    "setting": "git config core.fsmonitor 'touch x'",
    "setting by hand": "printf '[core]\\n\\tfsmonitor = x\\n' >> .git/config",
    "configuration replaced": "printf '[core]\\n\\tfsmonitor = x\\n' > c; mv -f c .git/config",
    "configuration by hard link": "ln .git/config c && printf '[core]\\npager = x\\n' >> c",
    "git put aside": "mv .git .g; cp -r .g .git; printf '[core]\\nfsmonitor = x\\n' >> .git/config",
    "git removed": "rm -rf .git; git init -q .; git config core.fsmonitor x",
    "git a file": "mv .git .g; echo 'gitdir: .g' > .git; printf '[core]\\npager=x\\n' >> .g/config",
    "git a link": "mv .git .g; ln -s .g .git; printf '[core]\\npager = x\\n' >> .g/config",
    "common folder": "git init -q e; git -C e config core.fsmonitor x; "
    "echo ../e/.git > .git/commondir",
    "worktree's settings": "printf '[core]\\nfsmonitor = x\\n' > .git/config.worktree; "
    "git config extensions.worktreeConfig true",
    "a new repository": "git init -q e; cd e; git config core.fsmonitor x",
    "a new hook": "git init -q e; cd e/.git/hooks; echo x > pre-commit; chmod +x pre-commit",
    "a bare repository": "git init -q --bare e; git -C e config core.fsmonitor x",
    "hooks elsewhere": "git init -q e; git -C e config core.hooksPath ../h",
    "included": "git init -q e; git -C e config include.path ../../c",
    "an alias": "git init -q e; git -C e config alias.st '!x'",
    "a filter": "git init -q e; git -C e config filter.x.clean x",
    "a transport": "git init -q e; git -C e config remote.o.url 'ext::sh -c x'",
    "hidden among many": "for i in $(seq 80); do git init -q --bare \"!$i\"; done; "
    "git init -q e; git -C e config core.fsmonitor x",
}  # fmt: skip
OBEYED = ("fsmonitor", "pager", "hookspath", "include", "alias", "filter", "ext::")


def obeyed(folder: Path) -> list[str]:
    """What git on the host would obey, in any git directory below a folder, found by git itself."""
    found = []
    for head in folder.rglob("HEAD"):
        place = head.parent
        said = subprocess.run(
            ["git", "-c", "safe.directory=*", "--git-dir", str(place), "config", "--list"],
            capture_output=True, text=True, env={"PATH": os.environ["PATH"], "HOME": "/none"},
        )  # fmt: skip
        found += [line for line in said.stdout.lower().splitlines() if line.startswith(OBEYED)
                  or any(each in line for each in OBEYED)]  # fmt: skip
        hooks = list(place.glob("hooks/*"))
        found += [each.name for each in hooks if not each.name.endswith((".sample", ".set-aside"))]
        found += [each.name for each in place.glob("commondir") if place.parent.name != "worktrees"]
    return found


@pytest.mark.parametrize("attack", ATTACKS)
def test_what_git_obeys_is_not_left_behind(sandbox: Sandbox, repository: Path, attack: str) -> None:
    head = git(repository, "rev-parse", "HEAD")
    before = (repository / ".git" / "config").read_text()
    result = sandbox.run(["bash", "-c", ATTACKS[attack]], workspace=repository)
    assert obeyed(repository) == [], result
    if sandbox.kind == "bubblewrap":
        # Here the repository itself was never changed, not for a moment.
        assert (repository / ".git" / "config").read_text() == before
        if "removed" not in attack:  # to lose work is allowed: `trace undo` brings it back
            assert git(repository, "rev-parse", "HEAD") == head


def test_a_running_command_finds_hooks_and_settings_read_only(
    bubblewrap: Sandbox, repository: Path
) -> None:
    """By mounts, so there is no moment in which it is otherwise."""
    (repository / ".git" / "hooks" / "pre-commit").write_text("mine")
    nested = repository / "lib" / "nested"
    git(repository, "init", "-q", str(nested))
    script = """
    for each in . lib/nested; do
      for path in config hooks/new hooks/pre-commit; do
        if echo x >> $each/.git/$path; then echo "wrote $each/.git/$path"; fi
      done
      if mv $each/.git $each/old; then echo "moved $each/.git"; fi
    done
    if mv lib old; then echo moved lib; fi
    if mv lib/nested old; then echo moved nested; fi
    """
    result = bubblewrap.run(["bash", "-c", script], workspace=repository)
    assert result.stdout == ""


def test_hooks_that_the_configuration_names_are_read_only_too(
    bubblewrap: Sandbox, repository: Path
) -> None:
    (repository / "hooks").mkdir()
    (repository / "shared.gitconfig").write_text("[alias]\n\tst = status\n")
    git(repository, "config", "core.hooksPath", "hooks")
    git(repository, "config", "include.path", "../shared.gitconfig")
    script = "echo x > hooks/pre-commit; echo x >> shared.gitconfig; mv hooks h; true"
    bubblewrap.run(["bash", "-c", script], workspace=repository)
    assert list((repository / "hooks").iterdir()) == []
    assert "st = status" in (repository / "shared.gitconfig").read_text()
    assert "x" not in (repository / "shared.gitconfig").read_text().split()


def test_a_missing_hooks_folder_cannot_be_made(bubblewrap: Sandbox, repository: Path) -> None:
    shutil.rmtree(repository / ".git" / "hooks")
    script = "mkdir -p .git/hooks && echo x > .git/hooks/pre-commit"
    assert not bubblewrap.run(["bash", "-c", script], workspace=repository).ok
    assert obeyed(repository) == []


def test_a_fresh_folder_becomes_a_repository(sandbox: Sandbox, workspace: Path) -> None:
    shell(sandbox, workspace, "git init -q -b main .; echo x > a; git add a; git commit -q -m one")
    assert git(workspace, "log", "--format=%an %s") == 'Ada "L" King one\n'
    assert not list(workspace.rglob("*.set-aside"))
    shell(sandbox, workspace, "git commit -q --allow-empty -m two")
    result = sandbox.run(["git", "config", "user.name", "other"], workspace=workspace)
    assert result.ok == (sandbox.kind == "landlock")


def test_what_was_taken_back_is_said(bubblewrap: Sandbox, workspace: Path) -> None:
    script = "git init -q .; git config core.fsmonitor x; mkdir .vscode; touch .vscode/tasks.json"
    result = bubblewrap.run(["bash", "-c", script], workspace=workspace)
    said = "\n".join(result.notices)
    assert ".git/config was taken back" in said and "core.fsmonitor = x" in said
    assert ".vscode/tasks.json was changed" in said
    assert bubblewrap.run(["true"], workspace=workspace).notices == ()


def test_the_table_can_be_loosened(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, "git-config")
    loosened = opened("bubblewrap")
    assert loosened.run(["git", "config", "core.pager", "less"], workspace=repository).ok
    assert "less" in git(repository, "config", "core.pager")
    assert not loosened.run(["sh", "-c", "echo > .git/hooks/x"], workspace=repository).ok


# --- git on the host ---


@pytest.fixture
def trapped(outside: Path) -> Iterator[tuple[Path, Path]]:
    from tests.planted import plant

    planted = plant(outside / "trapped", outside / "marker")
    yield planted.folder, planted.marker


def test_git_on_the_host_runs_nothing_of_the_repository(
    trapped: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, marker = trapped
    monkeypatch.chdir(folder)
    monkeypatch.setenv("GIT_PAGER", str(folder / "evil.sh"))
    monkeypatch.setenv("GIT_EXTERNAL_DIFF", str(folder / "evil.sh"))
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", "core.fsmonitor")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", str(folder / "evil.sh"))
    monkeypatch.setenv("PATH", f".::{folder}:{os.environ['PATH']}")
    assert run_git(["ls-files", "-z"], folder) == b"README.md\0"
    assert committer_of(folder).name == 'Ada "L" King'
    assert not marker.exists()
    for command in ("status", "diff", "log", "commit", "fetch", "-c", "submodule"):
        with pytest.raises(ValueError, match="may run"):
            run_git([command], folder)
