"""The file tools and the tools over syntax trees: what they do, and with bad input."""

from __future__ import annotations

from pathlib import Path

import pytest

from perilune.agent.tool import ToolContext
from perilune.agent.tools import load_tools
from perilune.agent.tools.edit_file import EditFile
from perilune.agent.tools.find import Find
from perilune.agent.tools.globs import glob_pattern
from perilune.agent.tools.grep import Grep
from perilune.agent.tools.outline import Outline
from perilune.agent.tools.read_file import ReadFile
from perilune.agent.tools.rename.tool import Rename
from perilune.agent.tools.syntax import syntax_problem
from perilune.agent.tools.write_file import WriteFile
from perilune.errors import ToolError
from tests.agent.tools.conftest import Call

# --- read_file ---


async def test_read_shows_numbered_lines(call: Call, workspace: Path) -> None:
    (workspace / "a.txt").write_text("".join(f"line {n}\n" for n in range(1, 31)))
    result = await call(ReadFile(), path="a.txt", start=9, lines=2)
    assert result.content == " 9  line 9\n10  line 10\n[lines 9 to 10 of 30]"
    whole = str((await call(ReadFile(), path="/workspace/a.txt")).content)
    assert whole.count("\n") == 29
    assert whole.endswith("30  line 30")


async def test_read_bounds_what_it_shows(call: Call, workspace: Path) -> None:
    (workspace / "long.txt").write_text("x" * 50_000 + "\n" + "y" * 1000 + "\n" * 3000)
    text = str((await call(ReadFile(), path="long.txt", lines=2000)).content)
    assert len(text) < 20_000
    assert "48000 more characters" in text
    assert "of 3001]" in text


async def test_read_lists_a_folder(call: Call, workspace: Path) -> None:
    assert "empty" in str((await call(ReadFile(), path=".")).content)
    (workspace / "b").mkdir()
    (workspace / "a.txt").write_text("")
    assert (await call(ReadFile(), path=".")).content == "a.txt\nb/"
    assert "empty" in str((await call(ReadFile(), path="a.txt")).content)


async def test_read_reaches_kept_outputs_and_nothing_beside(
    call: Call, context: ToolContext
) -> None:
    assert context.outputs is not None
    kept = context.outputs / "call_1.txt"
    kept.write_text("the whole output")
    assert "the whole output" in str((await call(ReadFile(), path=str(kept))).content)
    (context.outputs / "link").symlink_to("/etc/passwd")
    (context.outputs.parent / "journal").write_text("private")
    for path in (context.outputs / "link", context.outputs / ".." / "journal"):
        with pytest.raises(ToolError):
            await call(ReadFile(), path=str(path))


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"path": ""},
        {"path": 3},
        {"path": "a", "start": 0},
        {"path": "a", "lines": "many"},
        {"path": "a", "other": 1},
        {"path": "absent.txt"},
        {"path": "../x"},
    ],
)
async def test_read_with_bad_input(call: Call, arguments: dict[str, object]) -> None:
    with pytest.raises(ToolError):
        await call(ReadFile(), **arguments)


async def test_read_past_the_end(call: Call, workspace: Path) -> None:
    (workspace / "a.txt").write_text("one\n")
    with pytest.raises(ToolError, match="has 1 lines"):
        await call(ReadFile(), path="a.txt", start=2)


# --- write_file ---


async def test_write_makes_and_replaces(call: Call, workspace: Path) -> None:
    result = await call(WriteFile(), path="new/a.txt", content="ünï\n")
    assert result.files == ["new/a.txt"]
    assert str(result.content).startswith("made new/a.txt: 1 lines, 6 bytes")
    result = await call(WriteFile(), path="new/a.txt", content="")
    assert "replaced" in str(result.content)
    assert (workspace / "new" / "a.txt").read_text() == ""


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("a.py", "def f(:\n"),
        ("a.json", "{'a': 1}"),
        ("a.yaml", "a: [1\n"),
        ("a.toml", "a = \n"),
        ("b.py", "x = 1\0"),
        ("c.json", "[" * 100_000),
    ],
)
async def test_write_says_what_does_not_parse(
    call: Call, workspace: Path, path: str, content: str
) -> None:
    result = await call(WriteFile(), path=path, content=content)
    assert "does not parse" in str(result.content)
    assert (workspace / path).read_text() == content


def test_syntax_of_good_files() -> None:
    for path, text in {
        "a.py": "x = '\\d'\n",
        "a.json": '{"a": [1, null]}',
        "a.yml": "a: !!python/object:os.system [x]\n---\nb: 1\n",
        "a.toml": "a = 1\n",
        "a.txt": "def f(:",
    }.items():
        assert syntax_problem(path, text) == ""


async def test_yaml_makes_no_objects(call: Call, workspace: Path) -> None:
    evil = "!!python/object/apply:os.system ['touch made']\n"
    await call(WriteFile(), path="a.yaml", content=evil)
    assert not Path("made").exists()


# --- edit_file ---


async def test_edit_replaces_one_place(call: Call, workspace: Path) -> None:
    file = workspace / "a.py"
    file.write_text("a = 1\nb = 2\nc = 1\n")
    result = await call(EditFile(), path="a.py", old="b = 2\n", new="b = 3\n")
    assert file.read_text() == "a = 1\nb = 3\nc = 1\n"
    assert "line 2" in str(result.content)
    assert result.files == ["a.py"]


async def test_edit_refuses_the_ambiguous_and_the_absent(call: Call, workspace: Path) -> None:
    file = workspace / "a.py"
    file.write_text("value = 1\nother = 1\n")
    with pytest.raises(ToolError, match="2 times \\(lines 1, 2\\)"):
        await call(EditFile(), path="a.py", old="= 1", new="= 2")
    with pytest.raises(ToolError, match=r"nearest is line 1: 'value = 1'"):
        await call(EditFile(), path="a.py", old="value =  1", new="x")
    with pytest.raises(ToolError, match="the same"):
        await call(EditFile(), path="a.py", old="x", new="x")
    with pytest.raises(ToolError):
        await call(EditFile(), path="a.py", old="", new="x")
    assert file.read_text() == "value = 1\nother = 1\n"
    await call(EditFile(), path="a.py", old="= 1", new="= 2", all=True)
    assert file.read_text() == "value = 2\nother = 2\n"


async def test_edit_refuses_to_break_a_file_that_parses(call: Call, workspace: Path) -> None:
    for name, old, new, text in (
        ("a.py", "def f():", "def f(:", "def f():\n    pass\n"),
        ("a.json", "}", "", '{"a": 1}'),
        ("a.toml", "1", "", "a = 1\n"),
        ("a.yaml", "1", "[", "a: 1\n"),
    ):
        (workspace / name).write_text(text)
        with pytest.raises(ToolError, match="would break"):
            await call(EditFile(), path=name, old=old, new=new)
        assert (workspace / name).read_text() == text


async def test_edit_may_mend_a_broken_file_step_by_step(call: Call, workspace: Path) -> None:
    (workspace / "a.py").write_text("def f(:\ndef g(:\n    pass\n")
    result = await call(EditFile(), path="a.py", old="def f(:\n", new="")
    assert "still does not parse" in str(result.content)
    await call(EditFile(), path="a.py", old="def g(:", new="def g():")
    assert syntax_problem("a.py", (workspace / "a.py").read_text()) == ""


async def test_edit_keeps_line_ends(call: Call, workspace: Path) -> None:
    (workspace / "a.txt").write_bytes(b"one\r\ntwo\r\nthree\r\n")
    await call(EditFile(), path="a.txt", old="one\ntwo", new="1\n2")
    assert (workspace / "a.txt").read_bytes() == b"1\r\n2\r\nthree\r\n"


# --- find, grep ---


@pytest.fixture
def tree(workspace: Path) -> Path:
    for path, text in {
        "a.py": "import os\nNeedle = 1\n",
        "src/b.py": "needle\n",
        "src/deep/c.txt": "no\nneedle needle\nno\n",
        ".git/config": "needle\n",
        "node_modules/x.js": "needle\n",
        "binary.bin": "needle\0",
    }.items():
        (workspace / path).parent.mkdir(parents=True, exist_ok=True)
        (workspace / path).write_text(text)
    return workspace


async def test_find_by_glob(call: Call, tree: Path) -> None:
    async def paths(**arguments: object) -> list[str]:
        text = str((await call(Find(), **arguments)).content)
        return [line.split("  (")[0] for line in text.splitlines()]

    assert await paths(pattern="*.py") == ["a.py", "src/b.py"]
    assert await paths(pattern="src/**/*.txt") == ["src/deep/c.txt"]
    assert await paths(pattern="*", path="src") == ["src/b.py", "src/deep/c.txt"]
    assert await paths(pattern="*.{py,txt}") == ["a.py", "src/b.py", "src/deep/c.txt"]
    assert await paths(pattern="config", path=".git") == [".git/config"]
    assert "[2 more" in str((await call(Find(), pattern="*", limit=2)).content)
    assert "no file fits" in str((await call(Find(), pattern="*.rs")).content)
    with pytest.raises(ToolError):
        await call(Find(), path="..")


@pytest.mark.parametrize(
    ("glob", "fits", "fails"),
    [
        ("*.py", "a/b/c.py", "a.pyc"),
        ("a/*.py", "a/b.py", "a/b/c.py"),
        ("**/a/*", "x/y/a/b", "a/b/c"),
        ("a?[0-9].txt", "ab1.txt", "abc.txt"),
        ("[!a].py", "b.py", "a.py"),
        ("a+(b).py", "a+(b).py", "aab.py"),
        ("src/**", "src/a/b", "lib/a"),
    ],
)
def test_globs(glob: str, fits: str, fails: str) -> None:
    assert glob_pattern(glob).fullmatch(fits)
    assert not glob_pattern(glob).fullmatch(fails)


async def test_grep(call: Call, tree: Path) -> None:
    result = await call(Grep(), pattern="needle")
    assert str(result.content).splitlines() == [
        "src/b.py:1: needle",
        "src/deep/c.txt:2: needle needle",
        "[not searched, binary: binary.bin]",
    ]
    result = await call(Grep(), pattern="NEEDLE", ignore_case=True, glob="*.py")
    assert str(result.content).splitlines() == ["a.py:2: Needle = 1", "src/b.py:1: needle"]
    result = await call(Grep(), pattern="needle needle", path="src/deep/c.txt", context=1)
    assert "c.txt:1- no\nsrc/deep/c.txt:2: needle needle\nsrc/deep/c.txt:3- no" in str(
        result.content
    )
    (tree / "a.py").write_text("f(x)\n")
    assert "a.py:1" in str((await call(Grep(), pattern="f(x)", literal=True)).content)
    assert "no line fits" in str((await call(Grep(), pattern="absent")).content)


async def test_grep_with_bad_input(call: Call, workspace: Path) -> None:
    with pytest.raises(ToolError, match="not a regular expression"):
        await call(Grep(), pattern="(")
    with pytest.raises(ToolError):
        await call(Grep(), pattern="x", path="../..")
    (workspace / "a.txt").write_text("a" * 40 + "b\n")
    with pytest.raises(ToolError, match="nested repetitions"):
        await call(Grep(), pattern="^(a|a)*$(?<=c)|((a+)+)+c")


# --- outline, rename ---


async def test_outline(call: Call, workspace: Path) -> None:
    (workspace / "a.py").write_text(
        "LIMIT = 3\nif True:\n    def f(x: int, *, y=2) -> str:\n        'Do it.'\n"
        "class A(Base, metaclass=M):\n    async def m(self): ...\n"
    )
    text = str((await call(Outline(), path="a.py")).content)
    assert text.splitlines() == [
        "a.py",
        "  1: LIMIT",
        "  3-4: def f(x: int, *, y=2) -> str  # Do it.",
        "  5-6: class A(Base, metaclass=M)",
        "    6-6: async def m(self)",
    ]
    (workspace / "broken.py").write_text("def (")
    assert "cannot be parsed" in str((await call(Outline())).content)
    with pytest.raises(ToolError, match="no Python file"):
        (workspace / "x.txt").write_text("")
        await call(Outline(), path="x.txt")


PACKAGE = {
    "pkg/__init__.py": "from .core import old\n",
    "pkg/core.py": (
        '__all__ = ["old", "Thing"]\n\n\ndef old(x):  # old\n    return old2(x, old=1)\n\n\n'
        "def old2(x, old):\n    return old\n\n\nclass Thing:\n    old = 5\n\n"
        "    def go(self):\n        return self.again() + old(1)\n\n"
        "    def again(self):\n        return 1\n"
    ),
    "pkg/sub/__init__.py": "",
    "pkg/sub/user.py": (
        "from ..core import old\nfrom pkg.core import old as other\nimport pkg.core as c\n"
        "from pkg import core\nprint(old(1), other(2), c.old(3), core.old(4), x.old)\n"
    ),
    "app.py": "import pkg\nfrom pkg import old\nprint(pkg.old(1), old(2), dict(old=3), 'old')\n",
    "else.py": "def old():\n    pass\n\n\nold()\n",
    "broken.py": "old (\n",
}


@pytest.fixture
def package(workspace: Path) -> Path:
    for path, text in PACKAGE.items():
        (workspace / path).parent.mkdir(parents=True, exist_ok=True)
        (workspace / path).write_text(text)
    return workspace


async def test_rename_follows_imports_and_scopes(call: Call, package: Path) -> None:
    result = await call(Rename(), path="pkg/core.py", name="old", new_name="fresh")
    assert set(result.files) == {"pkg/__init__.py", "pkg/core.py", "pkg/sub/user.py", "app.py"}
    assert (package / "pkg/__init__.py").read_text() == "from .core import fresh\n"
    assert (package / "pkg/core.py").read_text() == (
        '__all__ = ["fresh", "Thing"]\n\n\ndef fresh(x):  # old\n    return old2(x, old=1)\n\n\n'
        "def old2(x, old):\n    return old\n\n\nclass Thing:\n    old = 5\n\n"
        "    def go(self):\n        return self.again() + fresh(1)\n\n"
        "    def again(self):\n        return 1\n"
    )
    assert (package / "pkg/sub/user.py").read_text() == (
        "from ..core import fresh\nfrom pkg.core import fresh as other\nimport pkg.core as c\n"
        "from pkg import core\nprint(fresh(1), other(2), c.fresh(3), core.fresh(4), x.old)\n"
    )
    assert (package / "app.py").read_text() == (
        "import pkg\nfrom pkg import fresh\nprint(pkg.fresh(1), fresh(2), dict(old=3), 'old')\n"
    )
    assert (package / "else.py").read_text() == PACKAGE["else.py"]
    assert "do not parse" in str(result.content)


async def test_rename_a_method_lists_what_it_cannot_tell(call: Call, package: Path) -> None:
    (package / "use.py").write_text(
        "from pkg.core import Thing\nThing.again(t)\nsomething().again()\n"
    )
    result = await call(Rename(), path="pkg/core.py", name="Thing.again", new_name="once_more")
    assert "self.once_more()" in (package / "pkg/core.py").read_text()
    assert "def once_more(self)" in (package / "pkg/core.py").read_text()
    assert "Thing.once_more(t)\nsomething().again()" in (package / "use.py").read_text()
    assert "use.py:3: something().again" in str(result.content)


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ({"path": "pkg/core.py", "name": "absent", "new_name": "x"}, "does not define"),
        ({"path": "pkg/sub/user.py", "name": "old", "new_name": "x"}, "does not define"),
        ({"path": "pkg/core.py", "name": "old", "new_name": "old2"}, "already used"),
        ({"path": "pkg/core.py", "name": "old", "new_name": "class"}, "word of the language"),
        ({"path": "pkg/core.py", "name": "old", "new_name": "old"}, "the old one"),
        ({"path": "pkg/core.py", "name": "old", "new_name": "a b"}, "do not fit"),
        ({"path": "absent.py", "name": "old", "new_name": "x"}, "no Python file"),
        ({"path": "broken.py", "name": "old", "new_name": "x"}, "does not parse"),
        ({"path": "../x.py", "name": "old", "new_name": "x"}, "out of the workspace"),
    ],
)
async def test_rename_refuses_and_changes_nothing(
    call: Call, package: Path, arguments: dict[str, str], why: str
) -> None:
    with pytest.raises(ToolError, match=why):
        await call(Rename(), **arguments)
    assert {path: (package / path).read_text() for path in PACKAGE} == PACKAGE


def test_reading_tools_may_run_side_by_side_and_writing_ones_not() -> None:
    for tool in load_tools(["all"]):
        assert not (tool.parallel_safe and tool.side_effects), tool.name
