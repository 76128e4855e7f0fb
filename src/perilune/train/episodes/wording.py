"""The oracle's plain short sentences. A small model learns to think in them."""

from __future__ import annotations

from collections.abc import Sequence

from perilune.world.seed import Stream
from perilune.world.solution import Read
from perilune.world.task import Task

SENTENCES: dict[str, tuple[str, ...]] = {
    "begin": (
        "I have to look this up.",
        "The articles must tell this.",
        "I do not know this by heart, so I look it up.",
    ),
    "search": (
        "I search for {query}.",
        "I look for {query}.",
        "A search for {query} should find it.",
    ),
    "search_many": (
        "These do not depend on each other, so I search for all of them at once.",
        "I can look for all of them in one turn.",
    ),
    "other_words": (
        "What I need is not among the hits. I try other words.",
        "The right article is not there. I search in other words.",
    ),
    "fetch": (
        "I read the article.",
        "An excerpt is no proof, so I read the article.",
        "I open the article that fits.",
    ),
    "fetch_many": (
        "I read these articles at once.",
        "I open all that fit in one turn.",
    ),
    "empty_hit": (
        "Nothing was found for {typed}. I misspelt it: it is {word}.",
        "There is no {typed}. I meant {word}.",
    ),
    "wrong_key": (
        "The call was refused: the argument is called query. I call again.",
        "That argument does not exist. It must be query.",
    ),
    "wrong_address": (
        "That address is wrong. The hit says {address}.",
        "There is no such page. The address is {address}.",
    ),
    "calculate": (
        "I compute it with Python.",
        "Now I calculate.",
    ),
    "exception": (
        "Python raised {error}: I made a slip. I write the expression again.",
        "That was a {error}. I correct the code.",
    ),
    "not_in_article": (
        "The article on {name} does not say it. I look once more for others.",
        "It is not in the article on {name}. Perhaps another one tells it.",
    ),
    "nobody": (
        "No hit is about {name}. I search for the name alone.",
        "None of these is about {name}. I try the name alone.",
    ),
    "unknown": (
        "No article says it, so I do not guess.",
        "It is nowhere to be found. I say that it is not known.",
    ),
    "answer": (
        "That is all I need. I answer.",
        "Now I can answer.",
        "This answers the question.",
    ),
    "reproduce": (
        "First I run the tests to see what fails.",
        "I reproduce the failure first.",
    ),
    "locate": (
        "{test} fails. I read {path}.",
        "The failing test is {test}. The cause must be in {path}.",
    ),
    "repair": (
        "The docstring and the test say what it should do. I correct these lines.",
        "I see the bug. I change only what is wrong.",
    ),
    "mismatch": (
        "The text must be as it is in the file, with its spaces. I copy it exactly.",
        "I did not copy the line exactly. I do it again.",
    ),
    "not_it": (
        "{test} still fails. That was not it, so I look again at the same lines.",
        "The tests still fail. My change was wrong.",
    ),
    "check": (
        "I run the tests again.",
        "Now I check it with the tests.",
    ),
    "green": (
        "All tests pass. I am done.",
        "The tests are green.",
    ),
}


def sentence(key: str, stream: Stream, **fields: str) -> str:
    """One of the sentences for a moment, filled in."""
    return stream.pick(SENTENCES[key]).format(**fields)


def compared(reads: Sequence[Read], task: Task, answer: str) -> list[str]:
    """The comparison that leads to an answer, in words: sorted values, or who belongs to it."""
    if task.variant == "select_related":
        return []
    if task.variant == "select_category":
        return [f"Those that fit are {answer}."]
    amounts = {read.fact.split(".")[0]: int(read.value.split()[0]) for read in reads}
    falling = sorted(amounts, key=lambda name: amounts[name], reverse=True)
    if task.variant in ("count", "select_above"):
        count = int(answer) if task.variant == "count" else len(answer.split(", "))
        above = falling[:count]
        listed = ", ".join(f"{name} {amounts[name]}" for name in above)
        return [f"Above the limit: {listed or 'none'}. That makes {count}."]
    named = answer.split(", ")
    place = 1 if task.variant == "second" else 0
    down = falling[place] == named[0]
    order = falling if down else falling[::-1]
    listed = ", ".join(f"{name} {amounts[name]}" for name in order)
    return [f"From the {'largest' if down else 'smallest'} on: {listed}."]
