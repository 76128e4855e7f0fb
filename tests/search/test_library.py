"""The user's corpora: what is indexed, kept up to date and found, and every kind of bad file."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perilune.errors import AgentError, ToolError, UsageError
from perilune.search.doctor import doctor_checks
from perilune.search.files import LARGEST_TEXT, FileReader, Found
from perilune.search.library import Library, Report
from perilune.search.pdf import PdfReader, Unreadable
from perilune.search.providers import LibrarySearch
from tests.search.pdf import pdf


@pytest.fixture
def library(tmp_path: Path) -> Library:
    return Library(tmp_path / "home")


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    folder = tmp_path / "Notes"
    (folder / "sub").mkdir(parents=True)
    (folder / "moon.md").write_text("# Lunar matters\nRegolith is the dust of the Moon.")
    (folder / "sub" / "page.html").write_text(
        "<html><head><title>A page</title></head><body><p>Basalt and breccia.</p></body></html>"
    )
    (folder / "old.txt").write_bytes("Caf\xe9 society, in an old encoding".encode("cp1252"))
    (folder / "paper.pdf").write_bytes(pdf(["Perilune is near", "Apolune is far"]))
    return folder


def problems(report: Report) -> dict[str, str]:
    return {each.path: each.problem for each in report.problems}


def found(library: Library, query: str) -> list[str]:
    return [hit.url for hits in library.search(query, 5) for hit in hits]


def test_all_kinds_are_indexed_and_found(library: Library, notes: Path) -> None:
    report = library.add(notes)
    assert (report.name, report.added, report.problems) == ("notes", 4, [])
    assert found(library, "regolith") == ["corpus:notes/moon.md"]
    assert found(library, "what is breccia?") == ["corpus:notes/sub/page.html"]
    assert found(library, "café") == ["corpus:notes/old.txt"]
    assert found(library, "apolune") == ["corpus:notes/paper.pdf"]
    paper = library.document("corpus:notes/paper.pdf")
    assert paper.text == "[page 1]\nPerilune is near\n\n[page 2]\nApolune is far"
    assert library.document("corpus:notes/moon.md").title == "Lunar matters"
    (summary,) = library.summaries()
    assert (summary.name, summary.folder, summary.documents) == ("notes", str(notes), 4)


def test_only_changes_are_read_again(
    library: Library, notes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library.add(notes)
    reads: list[str] = []
    whole = FileReader.read

    def counted(self: FileReader, folder: Path, file: Found) -> object:
        reads.append(file.path)
        return whole(self, folder, file)

    monkeypatch.setattr(FileReader, "read", counted)
    again = library.add(notes)
    assert (again.unchanged, reads) == (4, [])
    (notes / "moon.md").write_text("# Lunar matters\nNow about craters and rilles.")
    os.utime(notes / "old.txt", (1, 1))  # touched, with the same content
    (notes / "paper.pdf").unlink()
    (notes / "new.txt").write_text("Selenology")
    report = library.add(notes)
    assert sorted(reads) == ["moon.md", "new.txt", "old.txt"]
    assert (report.added, report.changed, report.removed, report.unchanged) == (1, 1, 1, 2)
    assert found(library, "regolith") == []
    assert found(library, "apolune") == []
    assert found(library, "rilles") == ["corpus:notes/moon.md"]


def test_hidden_files_links_and_pipes_are_left_alone(library: Library, notes: Path) -> None:
    (notes / ".git").mkdir()
    (notes / ".git" / "config.txt").write_text("hidden words")
    (notes / "link.txt").symlink_to("/etc/passwd")
    (notes / "loop").symlink_to(notes)
    os.mkfifo(notes / "pipe.txt")
    report = library.add(notes)
    assert (report.added, report.problems) == (4, [])
    assert {each.path: each.problem for each in report.skipped_files} == {
        ".git/": "hidden folder",
        "link.txt": "link",
        "loop/": "link to a folder",
        "pipe.txt": "no regular file",
    }


def test_what_is_skipped_is_counted_and_named(library: Library, notes: Path) -> None:
    for number in range(30):
        (notes / f"letter-{number:02}.docx").write_bytes(b"PK")
    for name in ("sheet.XLSX", "README", "code.py", ".hidden.txt", "odd.\x1b[2J"):
        (notes / name).write_text("words")
    (notes / "gone.txt").symlink_to(notes / "nowhere")
    (notes / "node_modules").mkdir()
    report = library.add(notes)
    assert (report.added, report.problems) == (4, [])
    only = "not read, only text, Markdown, HTML and PDF are"
    assert report.skipped == {
        "folder of installed or made files": 1, "hidden file": 1, f"no known suffix: {only}": 2,
        f".py: {only}": 1, "broken link": 1, f".docx: {only}": 30, f".xlsx: {only}": 1,
    }  # fmt: skip
    assert sum(each.path.endswith(".docx") for each in report.skipped_files) == 20


@settings(max_examples=20, deadline=None)
@given(st.lists(st.text(st.characters(exclude_characters="/\0", codec="utf-8"), min_size=1,
                        max_size=12), max_size=12, unique=True))  # fmt: skip
def test_every_file_is_indexed_or_named(
    tmp_path_factory: pytest.TempPathFactory, names: list[str]
) -> None:
    folder = tmp_path_factory.mktemp("notes")
    made = 0
    for number, name in enumerate(names):
        with contextlib.suppress(OSError):
            suffix = ("", ".txt", ".docx", ".md", ".pdf")[number % 5]
            (folder / f"{name}{suffix}").write_text("words" * (number % 3))
            made += 1
    made = sum(1 for _ in folder.iterdir())
    report = Library(tmp_path_factory.mktemp("home")).add(folder, "n")
    assert report.added + len(report.problems) + sum(report.skipped.values()) == made


@pytest.mark.parametrize("encoding", ["gbk", "big5", "shift_jis", "utf-16"])
def test_texts_of_other_encodings_are_found_by_their_words(
    library: Library, notes: Path, encoding: str
) -> None:
    text = {"gbk": "价格 一百元", "big5": "價格 一百元", "shift_jis": "これは 値段です"}
    words = text.get(encoding, "prix élevé")
    (notes / "foreign.txt").write_bytes(words.encode(encoding))
    library.add(notes)
    assert found(library, words.split()[1]) == ["corpus:notes/foreign.txt"]


def test_each_bad_file_is_named_and_the_rest_is_indexed(library: Library, notes: Path) -> None:
    (notes / "broken.pdf").write_bytes(b"%PDF-1.4\nnothing of a PDF follows")
    (notes / "empty.pdf").write_bytes(pdf([""]))
    (notes / "picture.txt").write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR")
    (notes / "noise.html").write_bytes(bytes(range(1, 32)) * 200)
    (notes / "empty.txt").write_text(" \n")
    with (notes / "huge.txt").open("wb") as file:
        file.truncate(10**9)  # a gigabyte, sparse
    with (notes / "huge.pdf").open("wb") as file:
        file.truncate(10**9)
    report = library.add(notes)
    assert report.added == 4
    seen = problems(report)
    assert "damaged" in seen.pop("broken.pdf")
    assert "no text in the PDF" in seen.pop("empty.pdf")
    assert "binary data" in seen.pop("picture.txt")
    assert "binary data" in seen.pop("noise.html")
    assert "no text" in seen.pop("empty.txt")
    assert seen.pop("huge.txt").startswith("too large: 1.0 GB")
    assert seen.pop("huge.pdf").startswith("too large: 1.0 GB")
    assert seen == {}
    (notes / "broken.pdf").write_bytes(pdf(["Mended"]))
    mended = library.add(notes)
    assert (mended.added, mended.unchanged) == (1, 4)
    assert found(library, "mended") == ["corpus:notes/broken.pdf"]


def test_a_file_that_turns_bad_is_dropped(library: Library, notes: Path) -> None:
    library.add(notes)
    (notes / "moon.md").write_bytes(b"regolith\0")
    assert "binary data" in problems(library.add(notes))["moon.md"]
    assert found(library, "regolith") == []


def test_what_may_not_be_read_is_named(
    library: Library, notes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library.add(notes)
    opened, listed = os.open, os.scandir

    def refuse_open(path: object, *rest: int) -> int:
        if str(path).endswith("moon.md"):
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *rest)  # type: ignore[arg-type]

    def refuse_list(path: object = ".") -> object:
        if str(path).endswith("sub"):
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)  # type: ignore[call-overload]

    (notes / "moon.md").write_text("changed")
    with monkeypatch.context() as patch:  # root may read everything, so the system is played
        patch.setattr(os, "open", refuse_open)
        patch.setattr(os, "scandir", refuse_list)
        report = library.add(notes)
    assert problems(report) == {
        "sub": "no permission to read it",
        "moon.md": "no permission to read it",
    }
    # What cannot be seen now may still be there: it stays in the index.
    assert found(library, "breccia") == ["corpus:notes/sub/page.html"]
    assert library.add(notes).added == 1
    assert found(library, "changed") == ["corpus:notes/moon.md"]


def test_a_file_that_vanishes_or_grows_while_it_is_read(
    notes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = FileReader()
    with pytest.raises(Unreadable, match="it is gone"):
        reader.read(notes, Found("absent.txt", 1, 1))
    with pytest.raises(Unreadable, match="too large"):
        reader.read(notes, Found("moon.md", LARGEST_TEXT + 1, 1))
    status = os.fstat

    def growing(descriptor: int) -> os.stat_result:
        with (notes / "moon.md").open("a") as file:
            file.write("more ")
        return status(descriptor)

    monkeypatch.setattr(os, "fstat", growing)
    with pytest.raises(Unreadable, match="being written"):
        reader.read(notes, Found("moon.md", 10, 1))


def test_one_writer_at_a_time_and_readers_beside_it(library: Library, notes: Path) -> None:
    library.add(notes)
    home = library._folder.parent
    code = f"""
    import time
    from pathlib import Path
    from perilune.search.library import Library
    with Library(Path({str(home)!r}))._writing("notes") as index:
        index._connection.execute("begin immediate")
        print("writing", flush=True)
        time.sleep(60)
    """
    other = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == "writing\n"
        with pytest.raises(UsageError, match="another process is writing the corpus 'notes'"):
            library.add(notes)
        with pytest.raises(UsageError, match="another process"):
            library.remove("notes")
        began = time.monotonic()
        assert found(library, "regolith") == ["corpus:notes/moon.md"]
        assert time.monotonic() - began < 4
    finally:
        other.kill()
        other.wait()
        if other.stdout is not None:
            other.stdout.close()
    assert library.add(notes).unchanged == 4


def test_a_damaged_index_is_said_and_does_not_stop_the_others(
    library: Library, notes: Path, tmp_path: Path
) -> None:
    library.add(notes)
    bad = library._folder / "bad.sqlite"
    bad.write_bytes(b"no database at all " * 500)
    assert {s.name: bool(s.problem) for s in library.summaries()} == {"bad": True, "notes": False}
    assert found(library, "regolith") == ["corpus:notes/moon.md"]
    with pytest.raises(UsageError, match="'bad' cannot be read"):
        library.search("x", 1, ["bad"])
    with pytest.raises(ToolError, match="cannot be read"):
        library.document("corpus:bad/x")
    library.remove("bad")
    assert library.names() == ["notes"]


def test_the_doctor_names_each_corpus(
    notes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PERILUNE_HOME", str(tmp_path / "home"))
    Library().add(notes)
    (tmp_path / "home" / "corpora" / "bad.sqlite").write_bytes(b"no database at all " * 500)
    checks = {check.name: check for check in doctor_checks()}
    assert checks["almanac"].ok
    assert checks["corpus notes"].detail == f"4 documents of {notes}"
    assert "perilune corpus rm bad" in checks["corpus bad"].remedy
    assert not checks["corpus bad"].ok


def test_names(library: Library, notes: Path, tmp_path: Path) -> None:
    other = tmp_path / "other" / "notes"
    other.mkdir(parents=True)
    library.add(notes)
    with pytest.raises(UsageError, match="is an index of"):
        library.add(other)
    assert library.add(other, "other-notes").name == "other-notes"
    for bad in ("almanac", "../x", "", "A b", ".x", "x" * 65):
        with pytest.raises(UsageError, match="cannot be the name"):
            library.add(notes, bad)
    for absent in ("absent", "../notes"):
        with pytest.raises(UsageError, match="there is no corpus"):
            library.remove(absent)
        with pytest.raises(ToolError, match="there is no corpus"):
            library.document(f"corpus:{absent}/x")
    with pytest.raises(ToolError, match="holds no"):
        library.document("corpus:notes/absent.txt")
    with pytest.raises(UsageError, match="cannot be indexed"):
        library.add(tmp_path / "absent")
    with pytest.raises(UsageError, match="is not a folder"):
        library.add(notes / "moon.md")
    library.remove("notes")
    assert library.names() == ["other-notes"]
    assert (notes / "moon.md").exists()


def test_a_home_that_cannot_be_written(notes: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(AgentError, match="cannot be written"):
        Library(tmp_path / "file").add(notes)


def test_progress_reaches_its_end(library: Library, notes: Path) -> None:
    steps: list[tuple[int, int]] = []
    library.add(notes, progress=lambda done, total: steps.append((done, total)))
    assert steps == [(0, 4), (1, 4), (2, 4), (3, 4), (4, 4)]


def test_a_pdf_that_takes_too_long_ends_its_reader_only() -> None:
    reader = PdfReader(timeout=0.0)
    with pytest.raises(Unreadable, match="could not be read within"):
        reader.read(pdf(["slow"]))
    reader = PdfReader()
    assert reader.read(pdf(["quick"]))[1] == "[page 1]\nquick"
    assert reader._process is not None
    reader._process.kill()
    reader._process.wait()
    assert reader.read(pdf(["again"]))[1] == "[page 1]\nagain"
    reader.close()


def test_the_provider_searches_the_almanac_and_the_corpora(library: Library, notes: Path) -> None:
    (notes / "chad.txt").write_text("My trip to Chad: the area was hot.")
    library.add(notes)
    provider = LibrarySearch(library=library)
    assert provider.name == "almanac, notes"
    hits = [hit.url for hit in provider.search_now("Chad area", 4)]
    assert hits[:2] == ["almanac:country/chad", "corpus:notes/chad.txt"]  # it has the very fact
    hits = [hit.url for hit in provider.search_now("hot trip to Chad", 4)]
    assert hits[:2] == ["corpus:notes/chad.txt", "almanac:country/chad"]
    only = provider.search_now("Chad area", 4, ["almanac"])
    assert all(hit.url.startswith("almanac:") for hit in only)
    assert [h.url for h in provider.search_now("Chad area", 4, ["notes"])] == [
        "corpus:notes/chad.txt"
    ]
    with pytest.raises(UsageError, match="there is no corpus"):
        provider.search_now("x", 1, ["absent"])


def test_an_index_survives_a_kill_in_the_middle(library: Library, notes: Path) -> None:
    library.add(notes)
    path = library._folder / "notes.sqlite"
    with sqlite3.connect(path) as database:  # stored, but not yet remembered as read
        database.execute("delete from files where path = 'moon.md'")
    report = library.add(notes)
    assert report.added + report.unchanged == 4
    assert found(library, "regolith") == ["corpus:notes/moon.md"]
