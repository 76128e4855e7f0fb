"""Forms without an entity: sums and percentages, small talk, requests beyond nano.

A form of a sum does not say which sum it is; its words do. Forms whose words fit two are left out.
"""

from __future__ import annotations

import re

from perilune.nano.training.form_tasks import FormTask, UnfillableError
from perilune.nano.training.names import invented_name
from perilune.nano.training.question_forms import Form
from perilune.nano.training.question_policy import words
from perilune.world.seed import Stream

_SLOTS = re.compile(r"\{(\w)\}")


def fill_plain(form: Form, stream: Stream) -> FormTask:
    """A form with numbers, or with a name that does not matter. Raises UnfillableError."""
    if form.kind == "arithmetic":
        return _arithmetic(form, stream)
    if form.kind == "percentage":
        return _percentage(form, stream)
    slots = {slot: invented_name(stream) for slot in form.slots}
    return FormTask(form, form.fill(**slots), slots=slots)


def _arithmetic(form: Form, stream: Stream) -> FormTask:
    text = form.text.casefold()
    fitting = [name for name, pattern in words()["sums"].items() if re.search(pattern, _bare(text))]
    one = "y" not in form.slots
    names = [name for name in fitting if (name == "root") == one]
    if not names or (len(names) > 1 and names[0] != "power"):
        raise UnfillableError(f"which sum is {form.text!r}?")
    name = names[0]
    x, y = (stream.below(10 ** stream.between(1, 4)) + 1 for _ in range(2))
    if name == "power":
        x, y = stream.between(2, 20), stream.between(2, 5)
    if name == "over":
        y = stream.between(2, 60)
    first, second = (
        ("y", "x") if form.slots[:1] == ["y"] and name == "minus" and _from(text) else ("x", "y")
    )
    numbers = {"x": str(x), "y": str(y)}
    a, b = numbers[first], numbers[second]
    if name == "minus":
        a, b = numbers["x"], numbers["y"]
        if re.search(r"\{x\} (?:from|von|à|a) \{y\}|from \{x\} to \{y\}", text):
            a, b = b, a
    code = {
        "root": f"round({a} ** 0.5, 4)", "power": f"{a} ** {b}", "times": f"{a} * {b}",
        "over": f"round({a} / {b}, 4)", "minus": f"{a} - {b}", "plus": f"{a} + {b}",
    }[name]  # fmt: skip
    slots = numbers | {"code": code}
    return FormTask(form, form.fill(**slots), slots=slots)


def _from(text: str) -> bool:
    return "from {x}" in text


def _percentage(form: Form, stream: Stream) -> FormTask:
    text = form.text.casefold()
    table = words()["percentages"]
    less, more = (bool(re.search(table[name], _bare(text))) for name in ("less", "more"))
    if less and more:
        raise UnfillableError(f"which percentage is {form.text!r}?")
    p = str(stream.between(1, 95))
    if stream.chance(0.2):
        p += ".5"
    x = str(stream.below(10 ** stream.between(2, 5)) + 1)
    sign = "-" if less else "+" if more else ""
    code = f"round({x} * (1 {sign} {p} / 100), 2)" if sign else f"round({x} * {p} / 100, 2)"
    slots = {"p": p, "x": x, "code": code}
    return FormTask(form, form.fill(**slots), slots=slots)


def _bare(text: str) -> str:
    """Without the slots, so that their braces and letters fit no pattern."""
    return _SLOTS.sub(" ", text)
