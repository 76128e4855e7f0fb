"""Short conversations without a look-up: what nano is, what is beyond it, sums, and drills in
copying and recalling, which is what using a tool's result comes down to."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from perilune.agent.models.scripted import Reply
from perilune.nano.training.gazetteer import Question
from perilune.nano.training.names import invented_name
from perilune.nano.training.policy import Policy, calculate
from perilune.search.facts import Facts
from perilune.world.names import NameSource
from perilune.world.seed import Split, Stream

NOTHING = Facts(())


def dialogue(stream: Stream) -> Question:
    """Something that nano cannot or need not look up, and its honest answer."""
    kind = stream.pick(("beyond", "beyond", "beyond", "identity", "greeting", "thanks"))
    text = stream.pick(_LINES[kind])
    for slot in _SLOTS:
        text = text.replace(f"{{{slot}}}", stream.pick(_LINES[slot]))
    if stream.chance(0.2):
        text = text.lower()
    thought = "No fact is asked for." if kind != "beyond" else "I cannot do that."
    return Question(text, _say(thought, str(_LINES["answers"][kind])), NOTHING)


def sum_question(stream: Stream) -> Question:
    """Arithmetic with the numbers given."""
    a, b = (stream.below(10 ** stream.between(1, 5)) + 1 for _ in range(2))
    word, sign = stream.pick(
        (("plus", "+"), ("minus", "-"), ("times", "*"), ("+", "+"), ("-", "-"), ("*", "*"))
    )
    form = stream.pick(
        ("What is {a} {w} {b}?", "Calculate {a} {w} {b}.", "{a} {w} {b}", "{a} {w} {b} = ?",
         "How much is {a} {w} {b}?", "what's {a} {w} {b}")
    )  # fmt: skip
    return Question(form.format(a=a, b=b, w=word), _sum(f"{a} {sign} {b}"), NOTHING)


def drill(stream: Stream) -> Question:
    """Words to repeat, or a fact to find among given ones."""
    source = NameSource(Split.TRAIN, stream)
    count = stream.between(2, 6)
    names = [source.draw() if stream.chance(0.5) else invented_name(stream) for _ in range(count)]
    numbers = [str(stream.below(10 ** stream.between(1, 7))) for _ in names]
    if stream.chance(0.5):
        items = [stream.pick(pair) for pair in zip(names, numbers, strict=True)]
        said = ", ".join(items)
        return Question(f"Repeat: {said}", _say("Repeat it.", said), NOTHING)
    at = stream.below(count)
    lines = "\n".join(f"{name} = {value}" for name, value in zip(names, numbers, strict=True))
    if stream.chance(0.3):
        question, answer = f"{lines}\nWhich one is {numbers[at]}?", names[at]
        if numbers.count(numbers[at]) > 1:
            question, answer = f"{lines}\nWhat is {names[at]}?", numbers[at]
    else:
        question, answer = f"{lines}\nWhat is {names[at]}?", numbers[at]
    return Question(question, _say("It is given.", answer), NOTHING)


def _say(thought: str, answer: str) -> Policy:
    yield Reply(reasoning=thought, content=answer)


def _sum(code: str) -> Policy:
    value = yield from calculate(code, "Calculate it.")
    yield Reply(reasoning="Done.", content=value)


def _load() -> dict[str, Any]:
    return tomllib.loads(Path(__file__).with_name("dialogue.toml").read_text("utf-8"))


_LINES = _load()
_SLOTS = ("work", "thing", "language", "quality", "field", "program", "event", "person")
