"""Takes an answer in Markdown apart: blocks, sentences, quotations, and the citations of each.

A citation is `[ev:1a2b3c4d]`, or several ids in one pair of brackets, after what it supports.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

ID = re.compile(r"ev:[0-9a-f]{4,64}")
GROUP = re.compile(r"\[\s*ev:[0-9a-f]{4,64}(?:\s*[,;]\s*ev:[0-9a-f]{4,64})*\s*\]")
FENCE = re.compile(
    r"^[ ]{0,3}(```+|~~~+)[ \t]*([^\n`]*)\n(.*?)(?:^[ ]{0,3}\1[`~]*[ \t]*$|\Z)", re.M | re.S
)

_CITED = re.compile(rf"(?:\s*{GROUP.pattern})+")
_INLINE_CODE = re.compile(r"(?<!`)(`+)(?!`)(.+?)(?<!`)\1(?!`)", re.S)
_ITEM = re.compile(r"^\s*(?:[-*+]|\d{1,3}[.)])\s+")
_ENDS = re.compile(r"(?<=[.!?])[\"”’»)\]]*\s+|\n+")
# Opening and closing marks; straight ones count only where a word does not run on.
_PAIRS = (
    r"“([^“”\n]{1,4000}?)[”“]",
    r"„([^„\n]{1,4000}?)[“”]",
    r"«([^«»\n]{1,4000}?)»",
    r"»([^«»\n]{1,4000}?)«",
    r"‹([^‹›\n]{1,4000}?)›",
    r"「([^「」\n]{1,4000}?)」",
    r"(?<![\w\"])\"(?!\s)([^\"\n]{1,4000}?)\"(?!\w)",
    r"(?<!\w)‘([^‘\n]{1,4000}?)’(?!\w)",
    r"(?<![\w'])'(?!\s)([^'\n]{1,4000}?(?:\w'\w[^'\n]{0,4000}?)*)'(?!\w)",
)
_QUOTE = re.compile("|".join(_PAIRS))
_OPENING = re.compile(r"[“„«「]|(?<![\w\"])\"(?=\w)")
_HELD = re.compile("\0(\\d+)\0")
# Words between a citation and the quotation that it introduces: "According to [ev:...], ..."
_LEAD_IN = re.compile(
    r"^\s*[,:]?\s*(?:(?!(?:and|but|while|whereas|or|nor)\b)[\w']+\s*){0,4}[,:]?\s*$", re.I
)


@dataclass(frozen=True, slots=True)
class Quotation:
    """Words in quotation marks (or a block quotation) and the ids that it belongs to."""

    text: str
    cited: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Sentence:
    """A sentence, or a row of a table, without its citations; `cited` are their ids.

    `whole` has its citations in it.
    """

    text: str
    cited: tuple[str, ...]
    whole: str


@dataclass(slots=True)
class Passages:
    """An answer taken apart."""

    sentences: list[Sentence] = field(default_factory=list)
    quotations: list[Quotation] = field(default_factory=list)
    unclosed: list[str] = field(default_factory=list)
    """Sentences in which a quotation begins and does not end."""


def prose(text: str) -> str:
    """The answer without code."""
    return _INLINE_CODE.sub(" ", FENCE.sub("\n", text))


def ids_in(text: str) -> tuple[str, ...]:
    """All well-formed citations, in order, each once."""
    return tuple(dict.fromkeys(i for group in GROUP.findall(text) for i in ID.findall(group)))


def passages(text: str) -> Passages:
    """Take an answer apart."""
    found = Passages()
    blocks = _blocks(prose(text))
    for number, (kind, block) in enumerate(blocks):
        if kind == "quote":
            before = [b for k, b in blocks[max(0, number - 1) : number] if k != "quote"]
            behind = [b for k, b in blocks[number + 1 : number + 2] if k != "quote"]
            introduced = before and GROUP.sub("", before[0]).rstrip().endswith(":")
            near = [block, *((before + behind) if introduced else (behind + before))]
            cited: tuple[str, ...] = ()
            for place in near:
                cited = cited or ids_in(place)
            for part in re.split(r"\n\s*\n", block):
                words = GROUP.sub("", part)
                words = re.sub(r"(?m)^\s*[-–—]{1,2}\s*\w.*$", "", words).strip()
                words = _unmarked(words)
                if words:
                    found.quotations.append(Quotation(words, cited))
            continue
        _take_apart(block, found)
    return found


def _blocks(text: str) -> list[tuple[str, str]]:
    """Paragraphs, list items, table rows and block quotations, in order."""
    blocks: list[tuple[str, list[str]]] = []
    fresh = True
    for line in text.splitlines():
        bare = line.strip()
        if not bare:
            fresh = True
            continue
        if bare.startswith(">"):
            inner = bare[1:].strip()
            if blocks and blocks[-1][0] == "quote" and not fresh:
                blocks[-1][1].append(inner)
            else:
                blocks.append(("quote", [inner]))
        elif bare.startswith("|"):
            blocks.append(("row", [bare]))
        elif bare.startswith("#") or _ITEM.match(line):
            blocks.append(("text", [_ITEM.sub("", bare.lstrip("# "))]))
        elif blocks and blocks[-1][0] == "text" and not fresh:
            blocks[-1][1].append(bare)
        else:
            blocks.append(("text", [bare]))
        fresh = False
    return [
        (kind, "\n".join(lines) if kind == "quote" else " ".join(lines)) for kind, lines in blocks
    ]


def _take_apart(block: str, found: Passages) -> None:
    """One paragraph, item or row: its sentences and quotations."""
    held: list[str] = []

    def hold(match: re.Match[str]) -> str:
        held.append(next(group for group in match.groups() if group is not None))
        return f"\0{len(held) - 1}\0"

    # Citations inside of the marks belong to the quotation all the same.
    text = re.sub(rf"((?:\s*{GROUP.pattern})+)\s*([”“\"»’'])", r"\2\1", block)
    text = _QUOTE.sub(hold, text)
    # A citation after the full stop belongs to the sentence before it.
    text = re.sub(rf"([.!?])({_CITED.pattern})", r"\2\1", text)
    text = re.sub(r"([.!?])\0", "\\1 \0", text)
    sentences = [each for each in _ENDS.split(text) if each.strip()]
    every = [ids_in(sentence) for sentence in sentences]
    for number, sentence in enumerate(sentences):
        later = next((ids for ids in every[number + 1 :] if ids), ())
        for match in _HELD.finditer(sentence):
            cited = cited_for(sentence, match.start(), match.end()) or later
            found.quotations.append(Quotation(held[int(match[1])], cited))
        if _OPENING.search(sentence):
            found.unclosed.append(_whole(sentence, held))
        bare = _whole(GROUP.sub("", sentence), held).strip()
        if bare:
            found.sentences.append(Sentence(bare, every[number], _whole(sentence, held)))


def cited_for(sentence: str, start: int, end: int) -> tuple[str, ...]:
    """The ids that a part of a sentence belongs to: those of the citation right after it, of the
    one that introduces it, of the next one, or of the last."""
    groups = list(_CITED.finditer(sentence))
    after = [group for group in groups if group.start() >= end]
    before = [group for group in groups if group.end() <= start]
    if after and not re.search(r"[\w\0]", sentence[end : after[0].start()]):
        return ids_in(after[0][0])
    if before and _LEAD_IN.match(sentence[before[-1].end() : start]):
        return ids_in(before[-1][0])
    if after:
        return ids_in(after[0][0])
    return ids_in(before[-1][0]) if before else ()


def _whole(sentence: str, held: list[str]) -> str:
    return _HELD.sub(lambda match: f"“{held[int(match[1])]}”", sentence)


def _unmarked(words: str) -> str:
    """A block quotation without quotation marks around the whole of it."""
    match = _QUOTE.fullmatch(words)
    return next(group for group in match.groups() if group) if match else words
