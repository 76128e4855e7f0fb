"""Episodes over question forms as a source of documents (`nano-questions` in a configuration).

A form of a training author is filled with entities that no examination asks about; often the names
are replaced by invented ones, in the question as in the tool's lines, so that copying is learnt and
no fact by heart.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path

from perilune.chat.tokenizer import Tokenizer
from perilune.errors import UsageError
from perilune.nano.training.episode import Episode, play
from perilune.nano.training.form_tasks import FormTask, UnfillableError, fill
from perilune.nano.training.mixture import lookup_faults
from perilune.nano.training.names import invented_name
from perilune.nano.training.policy import UnsolvableError
from perilune.nano.training.question_forms import LANGUAGES, Form, training_forms
from perilune.nano.training.question_policy import policy_of, unknown_policy
from perilune.nano.training.question_sums import fill_plain
from perilune.nano.training.render import Renderer
from perilune.search.almanac_facts import almanac_facts
from perilune.search.facts import Fact, FactStore, Found
from perilune.train.data.document import Document
from perilune.train.data.sources import Source
from perilune.world.seed import Seed, Split, Stream, weighted

KIND_WEIGHTS: Mapping[str, int] = {
    "fact": 20, "reverse": 5, "yesno": 7, "yesno_compare": 5, "two_hop": 7, "three_hop": 4,
    "compare2": 8, "compare_many": 5, "sum": 4, "difference": 4, "share": 4, "ratio": 3,
    "topk": 8, "listing": 4, "table": 4, "unit": 4, "year": 3, "arithmetic": 5, "percentage": 4,
    "definition": 4, "smalltalk": 3, "beyond": 5, "distractor": 5,
}  # fmt: skip
LANGUAGE_WEIGHTS: Mapping[str, int] = {"en": 40, "de": 15, "fr": 15, "es": 15, "zh": 15}
_PLAIN = frozenset(("arithmetic", "percentage", "smalltalk", "beyond"))
_RENAMED = 0.45
_UNKNOWN = 0.06
"""Share of facts that are asked of an entity that does not exist."""
_FIRST_SEED = 2**59  # far from the seeds of the other sources
_HAN = "巴卡达多尔法格哈基拉马米莫纳尼诺帕里罗萨塞斯塔特图瓦维亚伊约扎林森克姆"


class Renamed:
    """A store in which entities have other names: questions and lines are translated."""

    def __init__(
        self, store: FactStore, written: Mapping[str, str], names: Mapping[str, str]
    ) -> None:
        """`written`: invented name in the question -> the real one there; `names`: real name in
        the lines -> the invented one."""
        self._store, self._written, self._names = store, written, names

    def find(self, query: str, most: int = 4) -> Found:
        for invented, real in self._written.items():
            query = query.replace(invented, real)
        found = self._store.find(query, most)
        facts = tuple(self._fact(each) for each in found.facts)
        notes = tuple(filter(_says_something, map(self._text, found.notes)))
        entities = tuple(self._names.get(each, each) for each in found.entities)
        return replace(found, facts=facts, notes=notes, entities=entities)

    def _fact(self, fact: Fact) -> Fact:
        entity = self._names.get(fact.entity, fact.entity)
        value = self._names.get(fact.value, fact.value)
        return replace(fact, entity=entity, value=value)

    def _text(self, note: str) -> str:
        back = {real: invented for invented, real in self._written.items()}
        for real, invented in ({**self._names, **back}).items():
            note = note.replace(real, invented)
        return note


def _says_something(note: str) -> bool:
    """The tool leaves out that a name is that of the question."""
    name, _, written = note.strip("()").partition(": ")
    return name != written


def question_episode(
    index: int,
    kinds: Mapping[str, int] = KIND_WEIGHTS,
    languages: Mapping[str, int] = LANGUAGE_WEIGHTS,
) -> Episode:
    """The episode of an index: a pure function. Forms that cannot be played are passed over."""
    stream = Seed(Split.TRAIN, _FIRST_SEED + index).stream("question form")
    while True:
        kind, code = weighted(stream, dict(kinds)), weighted(stream, dict(languages))
        forms = _forms(kind, code)
        if not forms:
            continue
        try:
            return replace(_episode(stream.pick(forms), stream), kind=f"q-{kind}")
        except (UnfillableError, UnsolvableError):
            continue


@cache
def _forms(kind: str, code: str) -> tuple[Form, ...]:
    return tuple(f for f in training_forms() if f.kind == kind and f.language == code)


def _episode(form: Form, stream: Stream) -> Episode:
    store: FactStore = almanac_facts()
    if form.kind in _PLAIN:
        task = fill_plain(form, stream)
        return play(task.text, policy_of(task), store)
    if form.kind == "fact" and stream.chance(_UNKNOWN):
        name = invented_name(stream) if form.language != "zh" else _invented_han(stream)
        slots = dict.fromkeys(form.slots, name)
        task = FormTask(form, form.fill(**slots), slots=slots)
        return play(task.text, unknown_policy(task), store)
    task = fill(form, stream)
    if stream.chance(_RENAMED) and form.kind not in ("definition", "topk", "reverse"):
        task, store = _renamed(task, stream, store)
    faults = lookup_faults(stream) if form.kind in ("fact", "compare2") else {}
    return play(task.text, policy_of(task), store, faults)


def _renamed(task: FormTask, stream: Stream, store: FactStore) -> tuple[FormTask, FactStore]:
    """The task with invented names of entities. They keep their kind's look: airports theirs."""
    names: dict[str, str] = {}
    written: dict[str, str] = {}
    text, slots = task.text, dict(task.slots)
    for real, local in task.names.items():
        airport = "Airport" in real
        invented = invented_name(stream, "airport" if airport else "place")
        said = _invented_han(stream) if task.language == "zh" and not local.isascii() else invented
        if said in text or invented in names.values() or local not in text:
            raise UnfillableError("a name that is there already")
        names[real], written[said] = invented, local
        text = text.replace(local, said)
    if any(real in other for real in names for other in names if real != other):
        raise UnfillableError("one name is a part of another")
    facts = tuple(
        replace(f, entity=names.get(f.entity, f.entity), value=names.get(str(f.value), f.value))
        for f in task.facts
    )
    own = {**{v: k for k, v in names.items()}, **written}
    return replace(task, text=text, facts=facts, slots=slots), Renamed(store, own, names)


def _invented_han(stream: Stream) -> str:
    return "".join(stream.pick(_HAN) for _ in range(stream.between(2, 4)))


def nano_question_source(
    seed: int,
    tokenizer: Path | None,
    *,
    kinds: dict[str, int] | None = None,
    languages: dict[str, int] | None = None,
) -> Source:
    """An episode a document; only what the model says is trained.

    kinds: weights of the kinds of forms; languages: of the languages. Those left out are not drawn.
    """
    if tokenizer is None:
        raise UsageError(
            "nano-questions needs a tokenizer", remedy="Name its folder: tokenizer = ..."
        )
    unknown = [*(set(kinds or ()) - set(KIND_WEIGHTS)), *(set(languages or ()) - set(LANGUAGES))]
    if unknown:
        raise UsageError(
            f"there are no question forms of {unknown[0]!r}",
            remedy=f"Use {[*KIND_WEIGHTS]} and {[*LANGUAGES]}",
        )
    renderer = Renderer(Tokenizer.from_pretrained(tokenizer))

    def document(index: int) -> Document:
        played = question_episode(
            seed * 2**44 + index, kinds or KIND_WEIGHTS, languages or LANGUAGE_WEIGHTS
        )
        ids, trained = renderer.render(played.messages)
        return Document(ids, trained, renderer.header, played.kind)

    return document
