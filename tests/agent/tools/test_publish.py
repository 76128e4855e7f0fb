"""`publish`: one HTML file that needs nothing else, and opens in Chromium."""

from __future__ import annotations

import os
import re
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

from perilune.agent.tools.browse.browser import find_chromium
from perilune.agent.tools.chart import Chart
from perilune.agent.tools.publish.tool import Publish

REPORT = """# Rivers <script>alert(1)</script>

The Tavor is 412 km long [{id}]. See [the atlas](https://atlas.example/tavor) and <b>this</b>.

## Lengths

| river | km |
| --- | --- |
| Tavor | 412 |
| Biken | 97 |

![Lengths of two rivers](lengths.png)

## Words

> The Tavor is long. [{id}]

`code [{id}]` and [above](#section-1), javascript: [x](javascript:alert(1)).

## More

1. One
2. Two ~~three~~
"""


class References(HTMLParser):
    """Collects what a page refers to."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        for name, value in attrs:
            if name in ("src", "href", "action", "srcset", "data", "poster", "background"):
                self.found.append(value or "")


@pytest.fixture
async def published(call, context, workspace: Path) -> str:
    kept = context.evidence.keep(
        "https://atlas.example/tavor", "The Tavor is 412 km long.", title="A & B"
    )
    (workspace / "report.md").write_text(REPORT.format(id=kept.id))
    await call(
        Chart(), path="lengths.png", kind="bar", series=[{"x": ["Tavor", "Biken"], "y": [412, 97]}]
    )
    result = await call(Publish(), source="report.md", path="report.html")
    assert result.files == ["report.html"]
    assert "1 sources" in str(result.content)
    return (workspace / "report.html").read_text()


async def test_nothing_outside_is_referred_to(published: str):
    references = References()
    references.feed(published)
    assert all(each.startswith(("#", "data:image/png;base64,")) for each in references.found)
    assert not references.tags & {"script", "link", "iframe", "object", "embed", "b", "base"}
    style = published.split("<style>")[1].split("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style
    assert "default-src 'none'" in published


async def test_what_is_in_it(published: str):
    assert "&lt;script&gt;" in published
    assert published.count('href="#source-1"') == 2, "code is left alone"
    assert 'id="source-1">A &amp; B' in published
    assert "https://atlas.example/tavor" in re.sub("<[^>]+>", "", published)
    assert "<td>412</td>" in published
    assert "<figcaption>Lengths of two rivers</figcaption>" in published
    assert "<nav>" in published


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("# X\n\n![far](https://a.example/x.png)", "not in the workspace"),
        ("# X\n\n![far](//a.example/x.png)", "not in the workspace"),
        ("# X\n\n![none](gone.png)", "there is no gone.png"),
        ("# X\n\n![up](../secret.png)", "out of the workspace"),
        ("# X\n\n![text](report.md)", "is not a PNG"),
        ("# X [ev:00c0ffee]", "not a source that this run"),
    ],
)
async def test_what_cannot_be_published_is_said(call, workspace: Path, text: str, words: str):
    from perilune.errors import ToolError

    (workspace / "report.md").write_text(text)
    with pytest.raises(ToolError, match=words):
        await call(Publish(), source="report.md", path="report.html")
    assert not (workspace / "report.html").exists()


async def test_it_opens_in_chromium(published: str, workspace: Path, tmp_path: Path):
    chromium = find_chromium()
    if chromium is None:
        if os.environ.get("CI") == "true":
            pytest.fail("Chromium must be there in CI")
        pytest.skip("there is no Chromium")
    picture = workspace / "page.png"
    done = subprocess.run(
        [
            chromium, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
            "--disable-background-networking", f"--user-data-dir={tmp_path}/profile",
            "--window-size=900,1400", f"--screenshot={picture}", f"file://{workspace}/report.html",
        ],
        capture_output=True,
        timeout=120,
        check=False,
    )  # fmt: skip
    assert picture.exists(), done.stderr[-500:]
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert picture.stat().st_size > 20_000
