"""`perilune corpus`: index folders of your own, and search them and the almanac."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from perilune.search.library import Progress, Report

app = typer.Typer(
    add_completion=False, no_args_is_help=True, help="Index folders of your own, and search them."
)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
MOST_PROBLEMS = 20
MOST_SKIPPED = 5  # names, for each reason


@app.command()
def add(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Text, Markdown, HTML, PDF.")],
    name: Annotated[
        str | None, typer.Option("--name", help="Name of the corpus. Default: the folder's.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Index a folder under a name, or bring its index up to date.

    Files that have not changed are not read again; files that are gone are dropped. A file that
    cannot be read is named, and the rest is indexed. What is skipped (other kinds of files, hidden
    ones, links) is counted and named by its reason.
    """
    from perilune.search.library import Library

    with _bar(folder) as progress:
        report = Library().add(folder, name, progress)
    if as_json:
        print(json.dumps(asdict(report), indent=2, ensure_ascii=False))
    else:
        _print(report)


@app.command("ls")
def list_corpora(as_json: AsJson = False) -> None:
    """List the corpora, the built-in almanac first."""
    from perilune.search.almanac.almanac import PATH, open_almanac
    from perilune.search.library import Library, Summary

    almanac = Summary("almanac", "(built in)", len(open_almanac()), PATH.stat().st_size)
    summaries = [almanac, *Library().summaries()]
    if as_json:
        print(json.dumps([asdict(each) for each in summaries], indent=2, ensure_ascii=False))
        return
    width = max(len(each.name) for each in summaries)
    for each in summaries:
        size = f"{each.documents:>8,} documents {each.bytes / 1e6:>8.1f} MB"
        print(f"{each.name:<{width}} {size}  {each.problem or each.folder}")


@app.command("rm")
def remove(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME", help="Name of the corpus, as `perilune corpus ls` shows it."
        ),
    ],
) -> None:
    """Remove a corpus: its index only, not the folder."""
    from perilune.search.library import Library

    Library().remove(name)
    print(f"removed the corpus {name}; its folder is as it was")


@app.command()
def search(
    query: Annotated[
        list[str], typer.Argument(metavar="QUERY...", help="Search words, or a question.")
    ],
    name: Annotated[
        list[str] | None,
        typer.Option("--name", help="Search this corpus only ('almanac' is one). Repeatable."),
    ] = None,
    count: Annotated[
        int, typer.Option("--count", "-n", min=1, max=100, help="Number of results.")
    ] = 8,
    as_json: AsJson = False,
) -> None:
    """Search the almanac and your corpora, as an agent does. Exits with 1 when nothing is found."""
    from perilune.search.providers import LibrarySearch

    hits = LibrarySearch().search_now(" ".join(query), count, name)
    if as_json:
        print(json.dumps([asdict(hit) for hit in hits], indent=2, ensure_ascii=False))
    for number, hit in enumerate([] if as_json else hits, 1):
        print(f"{number}. {hit.title or '(no title)'}\n   {hit.url}\n   {hit.excerpt}")
    if not hits:
        print("perilune: nothing found", file=sys.stderr)
        raise typer.Exit(1)


def _print(report: Report) -> None:
    for each in report.problems[:MOST_PROBLEMS]:
        print(f"perilune: {_in_a_line(each.path)}: {each.problem}", file=sys.stderr)
    if (more := len(report.problems) - MOST_PROBLEMS) > 0:
        print(f"perilune: {more} more could not be read (--json lists all)", file=sys.stderr)
    for why, count in report.skipped.items():
        names = [each.path for each in report.skipped_files if each.problem == why]
        shown = ", ".join(_in_a_line(name) for name in names[:MOST_SKIPPED])
        others = f" and {count - MOST_SKIPPED} more" if count > MOST_SKIPPED else ""
        print(f"perilune: {count} skipped ({why}): {shown}{others}", file=sys.stderr)
    parts = [
        f"{number} {what}"
        for what, number in (
            ("added", report.added), ("changed", report.changed), ("removed", report.removed),
            ("unchanged", report.unchanged), ("not readable", len(report.problems)),
            ("skipped", sum(report.skipped.values())),
        )
        if number
    ]  # fmt: skip
    print(f"{report.name}: {', '.join(parts) or 'no text, Markdown, HTML or PDF in it'}")


def _in_a_line(name: str) -> str:
    """A foreign name without what would move the cursor."""
    return "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in name)


@contextmanager
def _bar(folder: Path) -> Iterator[Progress | None]:
    """A bar on stderr, None where that is not a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(f"Reading {folder.name}", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
