"""Files of other programs: their encoding, mark and line ends are kept, or the tool says not."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from perilune.agent.tools.edit_file import EditFile, _edit
from perilune.agent.tools.grep import Grep
from perilune.agent.tools.outline import Outline
from perilune.agent.tools.read_file import ReadFile
from perilune.agent.tools.rename.tool import Rename
from perilune.agent.tools.write_file import WriteFile
from perilune.agent.workspace.workspace import Workspace
from perilune.errors import ToolError
from perilune.text_file import decode, line_of, lines_of, places_of, replaced
from tests.agent.tools.conftest import Call

CHINESE = "中文的文件，请仔细阅读。\n第二行：价格是一百元。\n"
TEXTS = {
    "gb18030": CHINESE,
    "big5": "這是繁體中文的檔案，請仔細閱讀。\n第二行：價格是一百元。\n",
    "cp932": "これは日本語のファイルです。\n二行目：値段は百円です。\n",
    "cp1252": "Ein Text über große Straßen, naïve résumé.\nZweite Zeile: 5 €.\n",
}
MARKS = {
    "utf-8": b"\xef\xbb\xbf", "utf-16-le": b"\xff\xfe", "utf-16-be": b"\xfe\xff",
    "utf-32-le": b"\xff\xfe\0\0",
}  # fmt: skip


@pytest.mark.parametrize("encoding", TEXTS)
async def test_an_encoding_is_found_named_and_kept(
    call: Call, workspace: Path, encoding: str
) -> None:
    text = TEXTS[encoding]
    file = workspace / "a.txt"
    file.write_bytes(text.encode(encoding))
    read = str((await call(ReadFile(), path="a.txt")).content)
    assert text.splitlines()[1] in read
    assert f"[encoding {decode(file.read_bytes(), 'a.txt').name}]" in read
    second = text.splitlines()[1]
    found = str((await call(Grep(), pattern=second[:3], literal=True)).content)
    assert found == f"a.txt:2: {second}"
    await call(EditFile(), path="a.txt", old=second[:3], new=second[1:2])
    assert file.read_bytes() == text.replace(second[:3], second[1:2]).encode(encoding)


@pytest.mark.parametrize("encoding", MARKS)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
async def test_a_mark_and_line_ends_are_kept(
    call: Call, workspace: Path, encoding: str, end: str
) -> None:
    text = f"x = 1{end}y = 'ü'{end}z = 3{end}"
    file = workspace / "a.py"
    file.write_bytes(MARKS[encoding] + text.encode(encoding))
    read = str((await call(ReadFile(), path="a.py")).content)
    assert read.splitlines()[:3] == ["1  x = 1", "2  y = 'ü'", "3  z = 3"]
    assert "mark (BOM)" in read
    with pytest.raises(ToolError, match="would break"):
        await call(EditFile(), path="a.py", old="x = 1", new="x = (")
    await call(EditFile(), path="a.py", old="x = 1\ny", new="x = 2\nw = 0\ny")
    expected = text.replace("x = 1", f"x = 2{end}w = 0")
    assert file.read_bytes() == MARKS[encoding] + expected.encode(encoding)
    await call(WriteFile(), path="a.py", content="a = 'é'\nb = 2\n")
    assert file.read_bytes() == MARKS[encoding] + f"a = 'é'{end}b = 2{end}".encode(encoding)


async def test_mixed_line_ends_are_kept_place_by_place(call: Call, workspace: Path) -> None:
    file = workspace / "a.txt"
    file.write_bytes(b"one\r\ntwo\nthree\nfour\r\nfive\rsix")
    result = await call(EditFile(), path="a.txt", old="two\nthree\n", new="2\n2b\n3\n")
    assert file.read_bytes() == b"one\r\n2\n2b\n3\nfour\r\nfive\rsix"
    assert "mixed line ends" in str(result.content)
    await call(EditFile(), path="a.txt", old="one\n", new="zero\none\n")
    assert file.read_bytes() == b"zero\r\none\r\n2\n2b\n3\nfour\r\nfive\rsix"
    await call(EditFile(), path="a.txt", old="four\nfive\nsix", new="4\nfive\nsix\nseven")
    assert file.read_bytes() == b"zero\r\none\r\n2\n2b\n3\n4\r\nfive\rsix\rseven"


async def test_a_character_that_the_encoding_lacks_is_refused(call: Call, workspace: Path) -> None:
    file = workspace / "a.txt"
    file.write_bytes(TEXTS["cp1252"].encode("cp1252"))
    with pytest.raises(ToolError, match=r"has no '中'.*nothing was changed.*UTF-8 first"):
        await call(EditFile(), path="a.txt", old="Text", new="中")
    assert file.read_bytes() == TEXTS["cp1252"].encode("cp1252")
    said = str((await call(WriteFile(), path="a.txt", content="中\n")).content)
    assert "encoding was not kept" in said
    assert file.read_bytes() == "中\n".encode()


async def test_what_a_file_says_of_itself_counts(call: Call, workspace: Path) -> None:
    for name, head, encoding in (
        ("a.py", "# -*- coding: gbk -*-\n", "gbk"),
        ("b.py", "#!/usr/bin/python\n# vim: set fileencoding=latin-1 :\n", "latin-1"),
        ("c.xml", '<?xml version="1.0" encoding="Shift_JIS"?>\n', "shift_jis"),
        ("d.html", '<html><head><meta charset="big5"></head>\n', "big5"),
        ("e.html", '<meta http-equiv="Content-Type" content="text/html; charset=windows-1251">\n',
         "cp1251"),
    ):  # fmt: skip
        word = {"latin-1": "größe", "cp1251": "слово", "shift_jis": "値"}.get(encoding, "中")
        data = (head + f"x = '{word}'\n").encode(encoding)
        (workspace / name).write_bytes(data)
        assert word in str((await call(ReadFile(), path=name)).content)
        await call(EditFile(), path=name, old="x = ", new=f"y = '{word}' or ")
        expected = (head + f"y = '{word}' or '{word}'\n").encode(encoding)
        assert (workspace / name).read_bytes() == expected
        await call(WriteFile(), path=f"new-{name}", content=head + word + "\n")
        assert (workspace / f"new-{name}").read_bytes() == (head + word + "\n").encode(encoding)


async def test_grep_names_what_it_cannot_search(call: Call, workspace: Path) -> None:
    (workspace / "gbk.txt").write_bytes(CHINESE.encode("gbk"))
    (workspace / "odd.txt").write_bytes(b"\x01\x02\x81\xff needle")
    for number in range(14):
        (workspace / f"p{number:02}.png").write_bytes(b"\x89PNG\0\0needle")
    (workspace / "large.txt").write_bytes(b"needle\n" * 700_000)
    said = str((await call(Grep(), pattern="价格|needle")).content)
    assert "gbk.txt:2: 第二行：价格" in said
    assert "[not searched, unknown encoding: odd.txt]" in said
    assert "[not searched, over 4 MiB: large.txt]" in said
    assert re.search(r"\[not searched, binary: p00\.png.* and 4 more\]", said)


async def test_a_guess_takes_no_text_beyond_ascii(call: Call, workspace: Path) -> None:
    data = "你好".encode("gbk") + b" x"
    (workspace / "a.txt").write_bytes(data)
    assert "perhaps" in str((await call(ReadFile(), path="a.txt")).content)
    with pytest.raises(ToolError, match="not sure"):
        await call(EditFile(), path="a.txt", old="x", new="中")
    await call(EditFile(), path="a.txt", old="x", new="y")
    assert (workspace / "a.txt").read_bytes() == "你好".encode("gbk") + b" y"


async def test_rename_keeps_encodings_and_names_what_it_cannot_read(
    call: Call, workspace: Path
) -> None:
    head = "# -*- coding: gbk -*-\r\n# 中文\r\n"
    (workspace / "a.py").write_bytes((head + "def old():\r\n    return 1\r\n").encode("gbk"))
    (workspace / "b.py").write_bytes(b"\xef\xbb\xbffrom a import old\r\nold()\n")
    (workspace / "c.py").write_bytes(b"# \x01\x81\xff old\n")
    said = str((await call(Rename(), path="a.py", name="old", new_name="new")).content)
    assert (workspace / "a.py").read_bytes() == (head + "def new():\r\n    return 1\r\n").encode(
        "gbk"
    )
    assert (workspace / "b.py").read_bytes() == b"\xef\xbb\xbffrom a import new\r\nnew()\n"
    assert "cannot be read" in said and "c.py" in said


async def test_line_numbers_agree(call: Call, workspace: Path) -> None:
    """Form feeds, VT, U+2028, NEL and lone CRs: every tool counts lines as Python does."""
    text = "a = '\u2028\x0b\x85'\n\x0c\nb = 1\r\nc = 2\rdef here(): pass\n"
    (workspace / "a.py").write_bytes(text.encode())
    assert "5: def here()" in str((await call(Outline(), path="a.py")).content)
    assert (await call(Grep(), pattern="here")).content == "a.py:5: def here(): pass"
    assert "5  def here(): pass" in str((await call(ReadFile(), path="a.py")).content)
    edited = await call(EditFile(), path="a.py", old="def here()", new="def there()")
    assert "at line 5" in str(edited.content)


# --- properties ---

LETTERS = {
    "utf-8": "aé中😀", "utf-16-le": "aé中😀", "utf-16-be": "aé中😀", "utf-32-le": "aé😀",
    "gb18030": "中文件请仔细阅读第二行价格一百元", "big5": "這是繁體中文的檔案請仔細閱讀第二行價格",
    "cp932": "これは日本語のファイルです値段百円", "cp1252": "äöüßéèñç",
}  # fmt: skip


@st.composite
def stored_files(draw: st.DrawFn) -> tuple[bytes, str, str]:
    """A file's bytes, its text and its encoding."""
    encoding = draw(st.sampled_from(sorted(LETTERS)))
    word = st.text(LETTERS[encoding] + "abc =", max_size=8)
    ends = st.sampled_from(draw(st.sampled_from([["\n"], ["\r\n"], ["\r"], ["\n", "\r\n", "\r"]])))
    text = "".join(draw(st.lists(st.tuples(word, ends).map("".join), max_size=8))) + draw(word)
    mark = MARKS.get(encoding, b"")
    if encoding == "utf-8" and draw(st.booleans()):
        mark = b""
    return mark + text.encode(encoding), text, encoding


@settings(max_examples=400, deadline=None)
@given(stored_files(), st.data())
def test_bytes_outside_an_edit_are_as_they_were(
    tmp_path_factory: pytest.TempPathFactory, file: tuple[bytes, str, str], data: st.DataObject
) -> None:
    raw, text, encoding = file
    try:
        shown = decode(raw, "a.txt")
    except ToolError:
        return  # refused, so nothing is written
    plain = re.sub("\r\n|\r", "\n", shown.text)
    assume(plain)
    start = data.draw(st.integers(0, len(plain) - 1))
    old = plain[start : start + data.draw(st.integers(1, 12))]
    new = data.draw(st.text(LETTERS[encoding] + "xyz\n", max_size=12))
    workspace = Workspace(tmp_path_factory.mktemp("w"))
    (workspace.root / "a.txt").write_bytes(raw)
    try:
        _edit(workspace, "a.txt", old, new, False)
    except ToolError:
        assert (workspace.root / "a.txt").read_bytes() == raw
        return
    after = (workspace.root / "a.txt").read_bytes()
    ((first, last),) = places_of(shown.text, old)
    before_it = shown.mark + shown.text[:first].encode(shown.encoding)
    behind_it = shown.text[last:].encode(shown.encoding)
    assert raw.startswith(before_it) and raw.endswith(behind_it)
    assert after.startswith(before_it) and after.endswith(behind_it)
    inserted = after[len(before_it) : len(after) - len(behind_it)].decode(shown.encoding)
    assert re.sub("\r\n|\r", "\n", inserted) == new
    used = set(re.findall("\r\n|\r|\n", shown.text)) or {"\n"}
    if {"\r", "\n"} <= used:
        used.add("\r\n")  # between a CR and an LF nothing else keeps the lines apart
    assert set(re.findall("\r\n|\r|\n", inserted)) <= used
    if shown.sure:
        assert shown.text == text or encoding not in ("utf-8", "utf-16-le", "utf-16-be")


@pytest.mark.parametrize(
    ("raw", "old", "new"),
    [
        ("\r=\n", "\n=\n", "\n\n"),
        ("a\rb\n", "b", "\n"),
        ("a\rb\nc", "b", "\nx\n"),
        ("\r\r\n", "\n", "\n\n"),
    ],
)
def test_lines_of_mixed_ends_stay_apart(raw: str, old: str, new: str) -> None:
    """A CR that comes to stand before an LF would be one end of a line and not two."""
    place = places_of(raw, old)[0]
    made = replaced(raw, [place], new)
    plain = (
        re.sub("\r\n|\r", "\n", raw[: place[0]]) + new + re.sub("\r\n|\r", "\n", raw[place[1] :])
    )
    assert lines_of(made) == lines_of(plain)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes_are_read_back_exactly_or_refused(raw: bytes) -> None:
    try:
        file = decode(raw, "a.txt")
    except ToolError:
        return
    if file.exact:
        assert file.encode() == raw
    else:
        with pytest.raises(ToolError, match="would not come out"):
            file.with_text("a", "a.txt")


BREAKS = st.text("ab\n\r\x0b\x0c\x1c\x85\u2028\u2029 ", max_size=20)


@settings(max_examples=300, deadline=None)
@given(BREAKS)
def test_lines_are_pythons(text: str) -> None:
    universal = re.sub("\r\n|\r", "\n", text).split("\n")
    assert lines_of(text) == (universal[:-1] if universal[-1] == "" else universal)
    for at in range(len(text) + 1):
        if text[at - 1 : at + 1] != "\r\n":
            assert line_of(text, at) == re.sub("\r\n|\r", "\n", text[:at]).count("\n") + 1
    source = f"x = '''{text}'''\ny = 1\n"
    tree = ast.parse(source)
    assert tree.body[1].lineno == line_of(source, source.rindex("y = 1"))


@settings(max_examples=200, deadline=None)
@given(BREAKS, BREAKS)
def test_replacing_all_by_itself_changes_nothing(text: str, old: str) -> None:
    places = places_of(text, old)
    for start, end in places:
        assert re.sub("\r\n|\r", "\n", text[start:end]) == re.sub("\r\n|\r", "\n", old)
    plain = re.sub("\r\n|\r", "\n", old)
    assert replaced(text, places, plain) == text
