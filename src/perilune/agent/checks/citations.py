"""Citations: each cited page was retrieved in this run, and each quotation stands in its page.

Deterministic: no model is asked. What counts as a citation: an evidence id, an address, a document
identifier (DOI, arXiv), and, where sources are the point (`strict`), numbered references, named
sources and "(Author, year)".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from perilune.agent.checks.check import Proposal, made
from perilune.agent.evidence.passages import GROUP, ID, Quotation, ids_in, passages, prose
from perilune.agent.evidence.quotes import even, stands_in
from perilune.agent.evidence.store import source_digest
from perilune.events import CheckMade, EvidenceKept

_ALMOST = re.compile(r"\bev\s*[:：]\s*\w*", re.I)
_LOOSE_ID = re.compile(r"\bev:(?=[a-f]*\d)[0-9a-f]{4,64}\b")
_OTHER_BRACKETS = re.compile(
    r"【[^】\n]*】|\[\^?(?:source|cite|citation|ref)[^\]\n]*\](?![(\[])", re.I
)
_ADDRESS = re.compile(r"(?:https?://|corpus:|almanac:|www\.)[^\s<>\"“”\]}|]+")
_DOCUMENT = re.compile(r"\b(?:10\.\d{4,9}/[^\s\"<>\]]+|arxiv:\s?\d{4}\.\d{4,5})", re.I)
_NUMBERED = re.compile(r"(?<=[\w.,;:!?)\"”’\]])\s?\[\^?(\d{1,3})\](?![(:\w])")
_DEFINED = re.compile(r"^\s*(?:[-*]\s*)?\[?\^?(\d{1,3})[\].:)]+\s*:?\s*(.+)$", re.M)
_AUTHOR = re.compile(
    r"\(([A-ZÀ-Þ][\w'’-]+)(?: et al\.?| (?:and|&) [A-ZÀ-Þ][\w'’-]+)?,? (\d{4})[a-z]?\)"
)
_NAMED = re.compile(
    r"\((?:sources?|see|cf\.?|from|via)\s*:?\s+([^()\n]{2,200})\)|^\W*sources?\s*:\s*(.+)$",
    re.I | re.M,
)
_ONLY = re.compile(r"\b(?:only|nothing (?:but|else)|just the)\b", re.I)
_UNKNOWN = re.compile(
    r"\b(?:unknown|not known|not (?:be )?f(?:ou|i)nd|no (?:article|source|page))\b", re.I
)
SHORT_QUOTE = 3
"""Words of a quotation that must stand somewhere even where nothing is cited with it."""


class Citations:
    """No citation is invented. `strict`: sources are the point of the answer, so at least one is
    cited (unless the task wants nothing but the answer), and every way of naming one is checked."""

    name = "citations"

    def __init__(self, *, strict: bool = False) -> None:
        self._strict = strict

    async def examine(self, proposal: Proposal) -> CheckMade | None:
        sources = Sources.of(proposal)
        problems = list(self._problems(proposal, sources))
        notes = [] if self._strict else list(self._unread(proposal, sources))
        cited = [each for each in ids_in(proposal.text) if each in sources.kept]
        if not problems and not notes and not cited and not self._has_citation(proposal.text):
            return None
        return made(self.name, problems, notes=notes, evidence=cited)

    def _unread(self, proposal: Proposal, sources: Sources) -> Iterable[str]:
        """Addresses and documents that the run was not shown: in advice they may be right."""
        bare = prose(proposal.text)
        named = [*_addresses(bare), *(each.rstrip(".,;:)") for each in _DOCUMENT.findall(bare))]
        for each in named:
            if each not in sources.addresses and not sources.mentions(each):
                yield f"{each} was not looked at in this run"

    def _has_citation(self, text: str) -> bool:
        return bool(_ADDRESS.search(prose(text)) or passages(text).quotations)

    def _problems(self, proposal: Proposal, sources: Sources) -> Iterable[str]:
        text = proposal.text
        bare = prose(text)
        yield from _bad_ids(bare, sources, strict=self._strict)
        if self._strict:
            for address in _addresses(bare):
                if address not in sources.addresses:
                    yield (
                        f"The answer names {address}, which was not retrieved in this run. "
                        "Fetch it and cite its id, or leave it out."
                    )
            for each in _DOCUMENT.findall(bare):
                if not sources.mentions(each.rstrip(".,;:)")):
                    yield f"The answer cites {each}, which stands in nothing that was read."
        found = passages(text)
        for quotation in found.quotations:
            yield from _bad_quotation(quotation, sources, strict=self._strict)
        if self._strict:
            for sentence in found.unclosed:
                yield f"A quotation begins and does not end: {sentence[:120]!r}"
            yield from _bad_references(bare, sources)
            if sources.kept and not ids_in(text) and not _free(proposal):
                yield (
                    "The answer cites nothing. Put the id of its source, such as "
                    f"[{next(iter(sources.kept))}], right after each claim."
                )


@dataclass(slots=True)
class Sources:
    """What was retrieved in this run: the texts by id, and all that the run was shown."""

    kept: Mapping[str, EvidenceKept]
    texts: dict[str, str]
    damaged: set[str]
    addresses: set[str]
    shown: str

    @classmethod
    def of(cls, proposal: Proposal) -> Sources:
        kept = proposal.state.evidence
        texts: dict[str, str] = {}
        damaged: set[str] = set()
        for each in kept.values():
            try:
                text = proposal.evidence.text(each.id)
            except KeyError:
                damaged.add(each.id)
                continue
            if each.sha256 and source_digest(each.source, text) != each.sha256:
                damaged.add(each.id)
            texts[each.id] = text
        shown = [*proposal.said(), *proposal.tool_outputs()]
        return cls(
            kept,
            texts,
            damaged,
            {_address(each.source) for each in kept.values()},
            "\n".join(shown),
        )

    def holds(self, quote: str, ids: Iterable[str]) -> bool:
        """Whether a quotation stands in one of these pages, or is its title."""
        return any(
            stands_in(quote, self.texts.get(each, ""))
            or even(quote).rstrip(".,") == even(self.kept[each].title)
            for each in ids
            if each in self.kept and each not in self.damaged
        )

    def pages(self) -> Iterable[str]:
        """Each retrieved page with its title and address."""
        for each in self.kept.values():
            yield "\n".join((each.title, each.source, self.texts.get(each.id, "")))

    def mentions(self, text: str) -> bool:
        """Whether an address or identifier stands in anything that the run was shown."""
        wanted = text.casefold()
        return any(wanted in place.casefold() for place in (self.shown, *self.texts.values()))


def _bad_ids(text: str, sources: Sources, *, strict: bool) -> Iterable[str]:
    for each in ids_in(text):
        if each not in sources.kept:
            yield (
                f"The answer cites [{each}], but no such source was read in this run. "
                "Cite only ids that a tool gave you, or leave the claim out."
            )
        elif each in sources.damaged:
            yield f"The text of [{each}] is not what was retrieved; fetch its source again."
    rest = GROUP.sub(" ", text)
    # Without sources, `ev: an event` and `[source code](...)` are words like others.
    loose = (*_ALMOST.finditer(rest), *_OTHER_BRACKETS.finditer(rest)) if strict else ()
    for match in loose or _LOOSE_ID.finditer(rest):
        exact = " Put it in brackets." if ID.fullmatch(match[0]) else ""
        yield (
            f"{match[0][:60]!r} is no citation that can be checked.{exact} "
            "Write the id as the tool gave it, such as [ev:1a2b3c4d]."
        )


def _bad_quotation(quotation: Quotation, sources: Sources, *, strict: bool) -> Iterable[str]:
    shown = f"“{quotation.text[:160]}”"
    if quotation.cited:
        known = [each for each in quotation.cited if each in sources.kept]
        if known and not sources.holds(quotation.text, known):
            where = " or ".join(f"[{each}]" for each in known)
            others = [each for each in sources.kept if sources.holds(quotation.text, (each,))]
            hint = f" It stands in [{others[0]}]." if others else " Quote word for word."
            yield f"{shown} does not stand in {where}.{hint}"
    elif (
        strict
        and sources.kept
        and len(quotation.text.split()) >= SHORT_QUOTE
        and not sources.holds(quotation.text, sources.kept)
        and not stands_in(quotation.text, sources.shown)
    ):
        yield f"{shown} stands in nothing that was read. Quote word for word, and cite."


def _bad_references(text: str, sources: Sources) -> Iterable[str]:
    """Ways to name a source other than by its id; only a retrieved one may be named."""
    defined: dict[str, str] = dict(_DEFINED.findall(text))
    for number in dict.fromkeys(_NUMBERED.findall(text)):
        if not _resolves(defined.get(number, ""), sources):
            yield f"The reference [{number}] leads to no page that was retrieved."
    for name, year in _AUTHOR.findall(text):
        if not any(name in page and year in page for page in sources.pages()):
            yield f"The source ({name}, {year}) was not read in this run."
    for bracketed, line in _NAMED.findall(text):
        named = (bracketed or line).strip()
        if named and not _resolves(named, sources):
            yield f"The source {named[:120]!r} was not retrieved in this run."


def _resolves(named: str, sources: Sources) -> bool:
    """Whether words that name a source name a retrieved one: by id, address or title."""
    if any(each in sources.kept for each in ids_in(named)):
        return True
    if any(each in sources.addresses for each in _addresses(named)):
        return True
    said = even(named).casefold()
    titles = (even(each.title).casefold() for each in sources.kept.values())
    return any(title and title in said for title in titles)


def _addresses(text: str) -> list[str]:
    return list(dict.fromkeys(_address(each) for each in _ADDRESS.findall(text)))


def _address(text: str) -> str:
    """An address without what does not change the page: fragment, last slash, case of the host."""
    text = text.rstrip(".,;:!?'’”*_`")
    while text.endswith(")") and text.count("(") < text.count(")"):
        text = text[:-1].rstrip(".,;:!?")
    if text.startswith(("corpus:", "almanac:")):
        return text
    parts = urlsplit(text if "://" in text else f"https://{text}")
    query = f"?{parts.query}" if parts.query else ""
    return f"{parts.scheme}://{parts.netloc.lower()}{parts.path.rstrip('/')}{query}"


def _free(proposal: Proposal) -> bool:
    """The task wants nothing but the answer, or the answer says that nothing was found."""
    return bool(_ONLY.search(" ".join(proposal.said())) or _UNKNOWN.search(proposal.text))
