"""The rounds of a mock-up side by side: one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from pathlib import Path

import msgspec

_STYLE = """
:root { color-scheme: light; --ink: #1d2430; --soft: #667085; --line: #dfe3ea; --good: #12805c;
  --bad: #b42318; }
* { box-sizing: border-box; }
body { margin: 0; font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: #f6f7f9; }
main { max-width: 1500px; margin: 0 auto; padding: 32px 28px 64px; }
h1 { font-size: 24px; margin: 0 0 4px; }
.lead { margin: 0 0 20px; color: var(--soft); }
.good { color: var(--good); } .bad { color: var(--bad); }
table { border-collapse: collapse; margin: 0 0 28px; font-variant-numeric: tabular-nums; }
td { padding: 3px 14px 3px 0; }
.track { position: relative; width: 320px; height: 10px; background: #e8ebf0;
  border-radius: 5px; }
.fill { position: absolute; inset: 0 auto 0 0; background: #7a8699; border-radius: 5px; }
.fill.good { background: var(--good); }
.mark { position: absolute; top: -3px; bottom: -3px; width: 2px; background: var(--ink); }
section { background: #fff; border: 1px solid var(--line); border-radius: 10px; padding: 16px 18px;
  margin: 0 0 20px; }
h2 { font-size: 16px; margin: 0 0 12px; display: flex; gap: 12px; align-items: baseline; }
h2 span { font-weight: 400; color: var(--soft); }
.three { display: grid; grid-template-columns: repeat(3, minmax(0, 1fr)); gap: 16px; }
@media (max-width: 800px) { .three { grid-template-columns: 1fr; } .track { width: 160px; } }
figure { margin: 0; }
img { display: block; width: 100%; height: auto; border: 1px solid var(--line); }
figcaption { margin-top: 6px; color: var(--soft); font-size: 13px; }
.places { margin: 10px 0 0; color: var(--soft); font-size: 13px; }
"""


class Round(msgspec.Struct, frozen=True, kw_only=True):
    """One comparison: of the HTML file `path`, `similarity` to the mock-up."""

    number: int
    path: str
    similarity: float
    places: list[str] = []


def page_of(folder: Path, rounds: Sequence[Round], asked: float) -> str:
    """The page, the latest round first."""
    latest = rounds[-1]
    passed = latest.similarity >= asked
    how = "reaches" if passed else "does not reach"
    count = f"{len(rounds)} round{'s' * (len(rounds) > 1)}"
    mockup = _url(folder / "mockup.png")
    bars = "\n".join(_bar(each, asked) for each in rounds)
    sections = "\n".join(_section(folder, each, mockup, asked) for each in reversed(rounds))
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Mock-up and page</title><style>{_STYLE}</style></head><body><main>
<h1>Mock-up and page, side by side</h1>
<p class="lead">{count}. The last one has a structural similarity of
<strong class="{"good" if passed else "bad"}">{latest.similarity:.4f}</strong>
and {how} the {asked:g} that was asked for.</p>
<table>{bars}</table>
{sections}
</main></body></html>
"""


def _bar(each: Round, asked: float) -> str:
    good = " good" if each.similarity >= asked else ""
    share = 100 * min(1.0, max(0.0, each.similarity))
    return (
        f'<tr><td>Round {each.number}</td><td><div class="track"><div class="fill{good}" '
        f'style="width: {share:.1f}%"></div><div class="mark" style="left: {100 * asked:.1f}%">'
        f"</div></div></td><td>{each.similarity:.4f}</td></tr>"
    )


def _section(folder: Path, each: Round, mockup: str, asked: float) -> str:
    shot = _url(folder / f"round-{each.number}.png")
    difference = _url(folder / f"round-{each.number}-difference.png")
    good = "good" if each.similarity >= asked else "bad"
    places = ""
    if each.places:
        places = f'<p class="places">Most different: {"; ".join(each.places)}</p>'
    return f"""<section><h2>Round {each.number}
<strong class="{good}">{each.similarity:.4f}</strong><span>{html.escape(each.path)}</span></h2>
<div class="three">
<figure><img src="{mockup}" alt="The mock-up"><figcaption>Mock-up</figcaption></figure>
<figure><img src="{shot}" alt="The page">
<figcaption>Page, as Chromium draws it</figcaption></figure>
<figure><img src="{difference}" alt="Where they differ">
<figcaption>Difference: the redder, the less alike</figcaption></figure>
</div>{places}</section>"""


def _url(file: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(file.read_bytes()).decode()}"
