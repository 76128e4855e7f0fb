"""How often `lookup` gives the right evidence when it is handed a question as people ask it.

    python benchmarks/lookup_forms.py [--held-out] [--fills 2] [--failures KIND] [--json FILE]

Every form of the training authors is filled with entities of the almanac and handed to the tool as
it is. Right is: all facts that the answer needs are shown, in order where order matters (rankings),
the first one first where one is asked for, and not more than twice as many lines as needed. For
yes or no the tool's own "yes" or "no" is counted beside. `--held-out`: the examination's authors,
on whose forms nothing may be tuned.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter, defaultdict
from pathlib import Path

from perilune.nano.training.form_tasks import NO_FACTS, FormTask, UnfillableError, fill
from perilune.nano.training.question_forms import LANGUAGES, examination_forms, training_forms
from perilune.search.almanac_facts import almanac_facts
from perilune.search.facts import Found
from perilune.world.seed import Seed, Split

FIRST = frozenset(("fact", "unit", "year", "listing", "distractor", "definition", "yesno"))


def is_right(task: FormTask, found: Found) -> bool:
    """Whether what was found is the evidence that the question needs."""
    shown = [(fact.entity, fact.attribute) for fact in found.facts]
    needed = [(fact.entity, fact.attribute) for fact in task.facts]
    if task.kind == "unit":  # either scale will do, for it is to be converted
        shown = [(entity, name.removesuffix(" in Celsius")) for entity, name in shown]
        needed = [(entity, name.removesuffix(" in Celsius")) for entity, name in needed]
    if task.kind in FIRST:
        return bool(shown) and shown[0] == needed[0] and len(shown) <= 3
    if task.kind == "reverse":
        (entity, attribute), value = needed[0], str(task.facts[0].value)
        other = (value, f"{attribute} of")
        return (entity, attribute) in shown or other in shown or (entity, attribute) in shown[:12]
    if task.kind in ("two_hop", "three_hop"):
        return bool(shown) and shown[-1] == needed[-1] and len(shown) <= 3
    if task.kind == "topk":
        return shown[: task.count] == needed and len(shown) <= max(2 * task.count, 5)
    return set(needed) <= set(shown) and len(shown) <= 2 * len(needed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--held-out", action="store_true")
    parser.add_argument("--fills", type=int, default=1)
    parser.add_argument("--every", type=int, default=1, help="only every such form")
    parser.add_argument("--failures", default="")
    parser.add_argument("--language", default="")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    forms = examination_forms() if options.held_out else training_forms()
    right: dict[tuple[str, str], Counter[bool]] = defaultdict(Counter)
    verdicts: Counter[str] = Counter()
    unfilled = 0
    store = almanac_facts()
    for number, form in enumerate(forms):
        if number % options.every:
            continue
        if form.kind in NO_FACTS or (options.language and form.language != options.language):
            continue
        if options.failures not in ("", "all", form.kind):
            continue
        for turn in range(options.fills):
            stream = Seed(Split.TRAIN, 7_000_000 + number * 100 + turn).stream("lookup forms")
            try:
                task = fill(form, stream, "exam" if options.held_out else "train")
            except UnfillableError:
                unfilled += 1
                continue
            found = store.find(task.text)
            good = is_right(task, found)
            right[form.kind, form.language][good] += 1
            if task.yes is not None and good:
                verdicts[_verdict(found, task.yes)] += 1
            if options.failures and not good:
                shown = "; ".join(fact.line[:60] for fact in found.facts[:4])
                needed = "; ".join(f"{fact.entity}.{fact.attribute}" for fact in task.facts[:3])
                print(f"{form.kind} {form.language} | {task.text}")
                print(f"      -> {shown or found.known[:3]}   [{needed}]")
    _print(right, verdicts, unfilled)
    if options.json:
        table = {f"{k} {c}": [v[True], sum(v.values())] for (k, c), v in right.items()}
        options.json.write_text(json.dumps(table, indent=1), "utf-8")


def _verdict(found: Found, yes: bool) -> str:
    said = [note.rpartition(" ")[2] for note in found.notes if note.endswith((" yes", " no"))]
    if not said:
        return "not said"
    return "right" if (said[0] == "yes") == yes else "wrong"


def _print(
    right: dict[tuple[str, str], Counter[bool]], verdicts: Counter[str], unfilled: int
) -> None:
    kinds = list(dict.fromkeys(kind for kind, _ in right))
    print("| kind | " + " | ".join(LANGUAGES) + " | all |")
    print("| --- |" + " --- |" * (len(LANGUAGES) + 1))
    for kind in [*kinds, "all"]:
        cells = []
        for code in (*LANGUAGES, ""):
            total: Counter[bool] = Counter()
            for (its_kind, its_code), count in right.items():
                if kind in (its_kind, "all") and code in (its_code, ""):
                    total += count
            cells.append(f"{100 * total[True] / max(1, sum(total.values())):.0f}")
        print(f"| {kind} | " + " | ".join(cells) + " |")
    print(f"yes or no, said by the tool where the facts are right: {dict(verdicts)}")
    print(f"{unfilled} forms could not be filled")


if __name__ == "__main__":
    main()
