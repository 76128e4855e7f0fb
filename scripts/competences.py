"""Runs the four competences and writes their transcripts into docs/competences.md.

    python scripts/competences.py [--only NAME ...] [--endpoint URL --model NAME]

Without an endpoint the model is a tape: what it says was written by hand (or, for code, computed
from the task's solution), mistakes included. Tools, sandbox, checks and the loop are the real ones,
and so is all that they print. Pictures go to docs/competences/.
"""

from __future__ import annotations

import argparse
import io
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from rich.console import Console

from perilune.agent.agent import Agent, RunResult
from perilune.agent.evidence.argument_drawing import as_svg, as_text
from perilune.agent.models.endpoint import EndpointModel
from perilune.agent.models.scripted import Call, Reply, ScriptedModel, Tape
from perilune.agent.recipes.choose import choose
from perilune.agent.tools.browse.browser import find_chromium
from perilune.cli.agent_view import AgentView
from perilune.world import EditFile, ReadFile, Seed, Split, generate_task

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "competences.md"
PICTURES = ROOT / "docs" / "competences"
WIDTH = 96


def turn(messages: list[dict]) -> int:
    return sum(message["role"] == "assistant" for message in messages)


def ids_of(messages: list[dict]) -> dict[str, str]:
    """The evidence ids that `fetch` gave, by the last part of the address."""
    found = {}
    for message in messages:
        text = str(message.get("content") or "")
        match = re.search(r"almanac:\S*?([\w-]+)\nCite as \[(ev:\w+)\]", text)
        if message.get("name") == "fetch" and match:
            found[match[1]] = match[2]
    return found


def node(key: str, kind: str, text: str, **more: object) -> dict:
    return {"id": key, "kind": kind, "text": text, **more}


# --- reason ---------------------------------------------------------------------------------------

REASON = (
    "A lock opens with four digits a, b, c, d, all different, where ab + cd = 100 (two-digit "
    "numbers, a and c not zero). How many such codes are there? Prove it by code, and reason it "
    "out."
)
BRUTE = """from itertools import permutations
codes = [p for p in permutations(range(10), 4)
         if p[0] and p[2] and 10*p[0] + p[1] + 10*p[2] + p[3] == 100]
print(len(codes), codes[:4])"""
PAIRS = """units = [(b, 10 - b) for b in range(1, 10)]          # b + d = 10
tens = [(a, 9 - a) for a in range(1, 9)]             # a + c = 9, for the carry
good = [(a, b, c, d) for a, c in tens for b, d in units if len({a, b, c, d}) == 4]
zero = [(a, 0, 10 - a, 0) for a in range(1, 10)]     # b = d = 0 is never all different
print(len(good), len(zero))"""


def reason_tape(messages: list[dict], declared: object) -> Reply:
    steps = [
        Reply(
            reasoning="Two ways: enumerate, or pair the digits by the carry. They must agree.",
            calls=[
                Call(
                    "argue",
                    {
                        "nodes": [
                            node("q", "question", "How many codes a b c d have ab + cd = 100?"),
                            node("h1", "hypothesis", "Every digit pair fits: 8 * 9 = 72 codes"),
                            node("h2", "hypothesis", "Repeated digits take some of the 72 away"),
                        ]
                    },
                )
            ],
        ),
        Reply("There are 72 codes, for 8 * 9 = 72."),
        Reply(
            reasoning="The check is right: nothing was tested. Enumerate, and count by pairs.",
            calls=[Call("python", {"code": BRUTE}), Call("python", {"code": PAIRS})],
        ),
    ]
    place = turn(messages)
    if place < 3:
        return steps[place]
    outputs = [m["content"] for m in messages if m.get("name") == "python"]
    count = outputs[0].split()[0]
    if place == 3:
        return Reply(
            calls=[
                Call(
                    "argue",
                    {
                        "nodes": [
                            node(
                                "k1", "check", "all ordered choices of four digits, enumerated",
                                state="holds", result=outputs[0].strip(),
                                supports=["h2"], against=["h1"],
                            ),
                            node(
                                "k2", "check", "pairs with b + d = 10 and a + c = 9, all different",
                                state="holds", result=outputs[1].strip(), supports=["h2", "c1"],
                            ),
                            node("h1", "hypothesis", "Every digit pair fits: 72", state="fails"),
                            node(
                                "h2", "hypothesis", "Repeated digits take some of the 72 away",
                                state="holds", supports=["c"],
                            ),
                            node(
                                "c1", "claim", "b = d = 0 repeats a digit, so the units sum to 10",
                                state="holds", supports=["c"],
                            ),
                            node("c", "conclusion", f"There are {count} codes", state="holds"),
                        ]
                    },
                )
            ]
        )  # fmt: skip
    return Reply(
        f"There are {count} codes.\n\nThe units b and d cannot both be 0, so they sum to 10 and "
        "carry 1; the tens then sum to 9. That gives 8 * 9 = 72 pairs, and those with a "
        f"repeated digit "
        f"fall away. Enumerating all choices and counting by pairs both give {count}."
    )


# --- search ---------------------------------------------------------------------------------------

SEARCH = (
    "Which has more people per square kilometre of land, Chad or Niger, and how do the two "
    "compare? Cite your sources."
)


def search_tape(messages: list[dict], declared: object) -> Reply:
    ids = ids_of(messages)
    match turn(messages):
        case 0:
            plan = [
                {"text": "define density: people over land area", "status": "done"},
                {"text": "find people and land area of both", "status": "active"},
                {"text": "compute and compare", "status": "open"},
            ]
            return Reply(
                reasoning="Definition first, then the data, then the comparison.",
                calls=[
                    Call("plan", {"items": plan}),
                    Call(
                        "search",
                        {
                            "query": "Chad population land area",
                            "also": ["Republic of Chad"],
                            "count": 3,
                        },
                    ),
                    Call("search", {"query": "Niger population land area", "count": 3}),
                ],
            )  # fmt: skip
        case 1:
            return Reply(
                calls=[
                    Call("fetch", {"url": "almanac:country/chad"}),
                    Call("fetch", {"url": "almanac:country/niger"}),
                ]
            )
        case 2:
            done = [
                {"text": "define density: people over land area", "status": "done"},
                {"text": "find people and land area of both", "status": "done"},
                {"text": "compute and compare", "status": "done"},
            ]
            code = (
                "chad, niger = 19674004 / 1259200, 27322555 / 1266700\n"
                "print(round(chad, 1), round(niger, 1), round(niger / chad, 2))"
            )
            return Reply(calls=[Call("python", {"code": code}), Call("plan", {"items": done})])
        case 3:
            # The ids are exchanged, and a quotation is from memory.
            return Reply(
                f"Niger: 27,322,555 people [{ids['chad']}] on 1,266,700 km2 of land, so 21.6 a "
                f"km2; Chad, “a landlocked country in the heart of Africa” "
                f"[{ids['chad']}], has 15.6."
            )
        case _:
            return Reply(
                f"Niger, with 21.6 people a km2 of land against 15.6 in Chad: 1.38 times as "
                f"many.\n\n"
                f"- Niger has 27,322,555 people and 1,266,700 km2 of land [{ids['niger']}].\n"
                f"- Chad has 19,674,004 people and 1,259,200 km2 of land [{ids['chad']}]; its "
                f"neighbours are “Cameroon, Central African Republic, Libya, Niger, Nigeria, "
                f"Sudan” [{ids['chad']}]."
            )


# --- code -----------------------------------------------------------------------------------------

CODE = generate_task(Seed(Split.EXAM, 12), "code_repair")


def code_tape(messages: list[dict], declared: object) -> Reply:
    edit = next(step for step in CODE.solution.serial if isinstance(step, EditFile))
    read = next(step for step in CODE.solution.serial if isinstance(step, ReadFile))
    test = next(name for name in CODE.files if name.endswith(f"test_{Path(edit.path).stem}.py"))
    match turn(messages):
        case 0:
            return Reply(calls=[Call("run_tests", {})], reasoning="Reproduce first.")
        case 1:
            return Reply(
                calls=[Call("outline", {"path": read.path}), Call("read_file", {"path": read.path})]
            )
        case 2:
            # The wrong way: the failing test goes.
            gone = f"rm {test} && echo 'def test_nothing(): pass' > {test}"
            return Reply(
                calls=[Call("bash", {"command": gone})], reasoning="What if the test is wrong?"
            )
        case 3:
            return Reply("All tests pass now.")
        case 4:
            text = CODE.files[test]
            return Reply(
                reasoning="The tests are run as they were. Restore it, and mend the function.",
                calls=[
                    Call("write_file", {"path": test, "content": text}),
                    Call("edit_file", {"path": edit.path, "old": edit.old, "new": edit.new}),
                ],
            )
        case 5:
            return Reply(calls=[Call("run_tests", {})])
        case _:
            return Reply(f"The fault was in `{edit.path}`; the line is mended and all tests pass.")


# --- write ----------------------------------------------------------------------------------------

WRITE = (
    "Write a report on how densely Chad, Niger and Mali are settled, with a table and a chart, as "
    "HTML."
)
REPORT = """# Three Sahel states: how densely are they settled?

Of the three, Niger is the most densely settled: 21.6 people a km2 of land, before {middle} and Chad
with 15.6 (computed from [{niger}; {chad}; {mali}]). All figures of people and land are those of the
World Factbook for 2025 [{niger}; {chad}; {mali}].

## People and land

Niger has 27,322,555 people [{niger}], Chad 19,674,004 [{chad}] and Mali {mali_people} [{mali}].

| country | people | land (km2) | people a km2 |
| --- | --- | --- | --- |
| Niger | 27,322,555 | 1,266,700 | 21.6 |
| Mali | {mali_people} | {mali_land} | {mali_density} |
| Chad | 19,674,004 | 1,259,200 | 15.6 |

![People on a square kilometre of land](density.png)

## What lies behind it

The three have nearly the same land area, from 1,220,190 km2 in Mali [{mali}] to 1,266,700 km2 in
Niger [{niger}], so the order is that of the people. Chad's neighbours are

> Cameroon, Central African Republic, Libya, Niger, Nigeria, Sudan

as its article lists them [{chad}].

## Limits

A density over a whole country hides where people live; nothing here says how they are spread.{more}
"""


def figures_of(messages: list[dict]) -> dict[str, str]:
    """What the fetched page and the computation say of Mali."""
    page = next(m["content"] for m in messages if "almanac:country/mali\n" in str(m.get("content")))
    people = int(re.search(r"population = (\d+)", page)[1])
    land = int(re.search(r"land area = (\d+)", page)[1])
    return {
        "mali_people": f"{people:,}",
        "mali_land": f"{land:,}",
        "mali_density": f"{people / land:.1f}",
        "middle": f"Mali with {people / land:.1f}",
    }


def write_tape(messages: list[dict], declared: object) -> Reply:
    if "Judge a text by this rubric" in str(messages[-1]["content"]):
        return Reply('{"problems": ["Say in the limits that the figures are of one year only."]}')
    ids = ids_of(messages)
    publish = Call("publish", {"source": "report.md", "path": "report.html"})

    def report(more: str) -> Call:
        text = REPORT.format(**ids, **figures_of(messages), more=more)
        return Call("write_file", {"path": "report.md", "content": text})

    match turn(messages):
        case 0:
            return Reply(
                reasoning="Three sections: the figures, what lies behind them, limits.",
                calls=[Call("search", {"query": f"{name} population land area", "count": 2})
                       for name in ("Chad", "Niger", "Mali")],
            )  # fmt: skip
        case 1:
            pages = [f"almanac:country/{name}" for name in ("chad", "niger", "mali")]
            return Reply(calls=[Call("fetch", {"url": page}) for page in pages])
        case 2:
            mali = figures_of(messages)
            people, land = (mali[f"mali_{key}"].replace(",", "") for key in ("people", "land"))
            code = (
                f"people = {{'Niger': 27322555, 'Mali': {people}, 'Chad': 19674004}}\n"
                f"land = {{'Niger': 1266700, 'Mali': {land}, 'Chad': 1259200}}\n"
                "print({name: round(people[name] / land[name], 1) for name in people})"
            )
            return Reply(calls=[Call("python", {"code": code})])
        case 3:
            density = float(figures_of(messages)["mali_density"])
            chart = {
                "path": "density.png", "kind": "bar", "y_label": "people a km2 of land",
                "series": [{"x": ["Niger", "Mali", "Chad"], "y": [21.6, density, 15.6]}],
            }  # fmt: skip
            return Reply(
                calls=[Call("chart", chart), report(" Mali had 14 million people in 2009.")]
            )
        case 4:
            return Reply(calls=[publish])
        case 6:
            return Reply(calls=[report("")], reasoning="No source says that. It goes.")
        case 7 | 10:
            return Reply(calls=[publish])
        case 9:
            return Reply(calls=[report(" The figures are of one year, so no course can be seen.")])
        case _:
            return Reply(
                f"The report is in report.md and report.html. Niger has 27,322,555 people "
                f"[{ids['niger']}] and is the most densely settled of the three."
            )


# --- running --------------------------------------------------------------------------------------

TASKS: dict[str, tuple[str, Tape]] = {
    "reason": (REASON, reason_tape),
    "search": (SEARCH, search_tape),
    "code": (CODE.prompt, code_tape),
    "write": (WRITE, write_tape),
}


def play(name: str, options: argparse.Namespace, place: Path) -> tuple[str, RunResult]:
    """Run one competence as `perilune run` does; gives what the terminal shows."""
    task, tape = TASKS[name]
    workspace = place / "workspace"
    workspace.mkdir()
    if name == "code":
        CODE.write_files(workspace)
    choice = choose(task, workspace)
    assert choice.name == name, choice
    model = (
        EndpointModel(options.endpoint, options.model or "") if options.endpoint
        else ScriptedModel(tape, name="tape")
    )  # fmt: skip
    screen = io.StringIO()
    console = Console(file=screen, width=WIDTH, force_terminal=False, color_system=None)
    view = AgentView(console)
    agent = Agent(
        model,
        recipe=choice.recipe,
        workspace=workspace,
        home=place / "home",
        on_record=view,
        settings={"recipe_why": choice.why},
    )
    result = agent.run(task)
    view.wait()
    shown = f'$ perilune run "{task}"\n{screen.getvalue().rstrip()}\n\n{result.answer}\n'
    if result.argument:
        nodes = {each.id: each for each in result.argument}
        shown += f"\n$ perilune trace show last --graph\n{as_text(nodes)}\n"
        PICTURES.mkdir(exist_ok=True)
        (PICTURES / "argument.svg").write_text(as_svg(nodes))
    if (workspace / "report.html").exists():
        picture(workspace / "report.html", PICTURES / "report.png")
    return tidy(shown, place, result), result


def tidy(text: str, place: Path, result: RunResult) -> str:
    """Without the paths and times of this machine."""
    text = text.replace(str(place / "workspace"), "~/work").replace(
        str(place / "home"), "~/perilune"
    )
    text = text.replace(result.run, "20261124-120000-1f3a9c")
    text = re.sub(r"/tmp/perilune-\S+?/", "~/", text)
    lines = (line.rstrip() for line in text.splitlines())
    return "\n".join(lines) + "\n"


def picture(page: Path, target: Path) -> None:
    """A screenshot of a page, where there is a Chromium."""
    chromium = find_chromium()
    if chromium is None:
        return
    target.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as profile:
        subprocess.run(
            [
                chromium, "--headless", "--disable-gpu", "--hide-scrollbars", "--no-sandbox",
                "--disable-background-networking", f"--user-data-dir={profile}",
                "--window-size=900,1900", f"--screenshot={target}", f"file://{page}",
            ],
            check=True, capture_output=True, timeout=180,
        )  # fmt: skip


def put(name: str, text: str) -> None:
    """Write a transcript between its marks in the page."""
    page = PAGE.read_text("utf-8")
    start, end = f"<!-- transcript {name} -->\n", f"<!-- end {name} -->"
    head, _, rest = page.partition(start)
    _, _, tail = rest.partition(end)
    fence = "```"
    while fence in text:
        fence += "`"
    PAGE.write_text(f"{head}{start}{fence}text\n{text}{fence}\n{end}{tail}", "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--endpoint")
    parser.add_argument("--model")
    options = parser.parse_args()
    os.environ.pop("PERILUNE_CORPUS", None)
    for name in options.only:
        place = Path(tempfile.mkdtemp(prefix="perilune-competence-"))
        place.chmod(0o755)
        try:
            text, result = play(name, options, place)
            put(name, text)
            print(f"{name}: {result.reason}, {result.steps} steps {result.detail[:300]}")
        finally:
            shutil.rmtree(place, ignore_errors=True)


if __name__ == "__main__":
    main()
