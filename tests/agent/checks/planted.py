"""Citations that are true and citations that are false, made from the articles of a world.

A case is (kind, answer, whether it is true). Every kind is made with several worlds, so that names,
numbers and wordings differ. Nothing here knows how the check works.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from perilune.world import Seed, Split, generate_world
from tests.agent.checks.desk import Desk

ADDRESS = "https://atlas.example/{}"
PAGE = (
    "# The harbour of {name}\n\n"
    "The **old** harbour of {name} was built in 1904, and it isn’t large: "
    "it holds [412 boats](https://atlas.example/boats).\n\n"
    "> “We keep the lamps lit,” the keeper said.\n\n"
    "- Its depth is 4.5 m at low tide.\n- Traffic grew by 12.5 % in 1990–1995.\n\n"
    "| year | ships |\n| --- | --- |\n| 1990 | 3,120 |\n"
)


@dataclass
class Library:
    """What a run has retrieved: three articles of a world and a page with marks."""

    desk: Desk
    ids: list[str]
    texts: list[str]
    names: list[str]
    harbour: str
    unread: str
    other_world: str

    def sentence(self, page: int, number: int = 0) -> str:
        """A sentence of a page, without its full stop."""
        found = [
            each for each in re.split(r"(?<=\.)\s+", self.texts[page]) if re.search(r"\d", each)
        ]
        return (found or re.split(r"(?<=\.)\s+", self.texts[page]))[number].rstrip(".")


def library(folder: Path, seed: int) -> Library:
    world = generate_world(Seed(Split.TRAIN, seed))
    articles = [each for each in world.articles() if len(re.findall(r"\d+", each.text)) > 2]
    desk = Desk(folder / str(seed))
    first = articles[:3]
    ids = [
        desk.page(ADDRESS.format(each.title.lower().replace(" ", "-")), each.text, each.title)
        for each in first
    ]
    harbour = desk.page(ADDRESS.format("harbour"), PAGE.format(name=first[0].title), "Harbours")
    desk.output("search", f"1. {articles[4].title}\n   {ADDRESS.format('unread')}\n   ...")
    return Library(
        desk,
        ids,
        [each.text for each in first],
        [each.title for each in first],
        harbour,
        articles[4].text,
        generate_world(Seed(Split.TRAIN, seed + 1000)).articles()[0].text,
    )


def true_answers(lib: Library) -> Iterator[tuple[str, str]]:
    one, two = lib.ids[0], lib.ids[1]
    said, also, third = lib.sentence(0), lib.sentence(1), lib.sentence(2)
    yield "plain", f"It is so [{one}]."
    yield "after the full stop", f"It is so. [{one}]"
    yield "quotation", f"The article says “{said}” [{one}]."
    yield "straight marks", f'The article says "{said}" [{one}].'
    yield "stop inside", f"The article says “{said}.” [{one}]"
    yield "comma inside", f"“{said},” says the article [{one}]."
    yield "guillemets", f"L'article dit « {said} » [{one}]."
    yield "german marks", f"Es heißt „{said}“ [{one}]."
    yield "single curly marks", f"It says ‘{said}’ [{one}]."
    yield "two in a sentence", f"One says “{said}” [{one}], the other “{also}” [{two}]."
    yield "lead-in", f"According to [{one}], “{said}”."
    yield "two lead-ins", f"According to [{one}], “{said}”, while [{two}] says “{also}”."
    yield "clause before", f"Much is known [{two}], and “{said}” [{one}] is part of it."
    yield "two ids in brackets", f"“{said}” stands there [{one}, {two}]."
    yield "two groups", f"“{said}” stands there [{two}] [{one}]."
    yield "at the paragraph's end", f"It says “{said}”. That is all. So much for it [{one}]."
    yield "block quotation", f"The words are:\n\n> {said}.\n\nThat is from [{one}]."
    yield "block quotation, id in it", f"> {said}. [{one}]\n"
    yield "block quotation, introduced", f"In [{one}] we read:\n\n> “{said}.”\n\nMore follows."
    yield "block quotation, attributed", f"> {said}.\n> — the article [{one}]\n"
    yield "list", f"- “{said}” [{one}]\n- “{also}” [{two}]\n- “{third}” [{lib.ids[2]}]"
    yield (
        "table",
        f"| what | source |\n| --- | --- |\n| “{said}” | [{one}] |\n| “{also}” | [{two}] |",
    )
    yield "title in quotation marks", f"The article “{lib.names[0]}” says so [{one}]."
    yield "broken lines", f"It says “{said.replace(' ', chr(10), 3)}” [{one}]."
    yield "no-break spaces", f"It says “{said.replace(' ', chr(160))}” [{one}]."
    yield "part of a sentence", f"It says “{' '.join(said.split()[:4])}” [{one}]."
    yield "address", f"See {ADDRESS.format(lib.names[0].lower().replace(' ', '-'))} [{one}]."
    yield "address with a fragment", f"See <{ADDRESS.format('harbour')}#top> [{lib.harbour}]."
    yield "linked", f"See [the page]({ADDRESS.format('harbour')}) [{lib.harbour}]."
    yield (
        "numbered list of sources",
        (f"It is so [{one}].[1]\n\n[1] {lib.names[0]}, {ADDRESS.format('harbour')}"),
    )
    yield "named source", f"It is so [{one}].\n\nSource: {lib.names[0]}"
    yield (
        "markup left out",
        f"“The old harbour of {lib.names[0]} was built in 1904” [{lib.harbour}].",
    )
    yield "link left out", f"“it holds 412 boats” [{lib.harbour}]."
    yield "straight apostrophe", f'"it isn\'t large" [{lib.harbour}].'
    yield "nested marks", f'He is quoted: "We keep the lamps lit" [{lib.harbour}].'
    yield "hyphen for a dash", f"“Traffic grew by 12.5 % in 1990-1995” [{lib.harbour}]."
    yield "end of a range", f"“1995” is the last year of it [{lib.harbour}]."
    yield "decimal", f"“depth is 4.5 m at low tide” [{lib.harbour}]."
    yield "soft hyphens", f"“was bu\u00adilt in 1904” [{lib.harbour}]."
    yield "a word in marks, uncited", f"It is so [{one}]. Some would call it “quaint”."


def false_answers(lib: Library) -> Iterator[tuple[str, str]]:
    one, two = lib.ids[0], lib.ids[1]
    said, also = lib.sentence(0), lib.sentence(1)
    words = said.split()
    digits = re.search(r"\d+", said)
    assert digits is not None
    number = digits[0]
    wrong = one[:-1] + ("0" if one[-1] != "0" else "1")
    yield "invented id", "It is so [ev:00c0ffee]."
    yield "one digit off", f"It is so [{wrong}]."
    yield "one true, one invented", f"It is so [{one}], and so [ev:deadbeef]."
    yield "invented among several", f"It is so [{one}, ev:deadbeef]."
    yield "short id", f"It is so [{one}], and more [{two[:-1]}]."
    yield "long id", f"It is so [{one}], and more [{two}0]."
    yield "capital id", f"It is so [{one}], and more [EV:{two[3:].upper()}A]."
    yield "id in round brackets", f"It is so [{one}] and so (ev:deadbeef)."
    yield "id in other brackets", f"It is so [{one}] and so 【ev:deadbeef】."
    yield "placeholder", f"It is so [{one}] and so [citation needed]."
    yield "page never fetched", f"It is so [{one}]; see {ADDRESS.format('unread')}."
    yield "address made up", f"It is so [{one}]; see https://example.com/report.pdf."
    yield "address changed", f"It is so [{one}]; see {ADDRESS.format('harbours')}."
    yield "other host", f"It is so [{one}]; see https://atlas.example.org/harbour."
    yield "linked page never fetched", f"It is so [{one}], as [they say]({ADDRESS.format('x')})."
    yield "www", f"It is so [{one}], as www.atlas-of-the-world.example says."
    yield "doi", f"It is so [{one}] (10.1000/xyz123)."
    yield "arxiv", f"It is so [{one}], see arXiv:2402.12345."
    yield "reference to nothing", f"It is so [{one}], and more of it.[7]"
    yield "reference to an unread page", f"So [{one}] and so.[1]\n\n[1] The Atlas of Nowhere, 1999"
    yield "author and year", f"It is so [{one}] (Miller et al., 2019)."
    yield "named source", f"It is so [{one}].\n\nSource: Encyclopaedia of Nowhere"
    yield "source in brackets", f"It is so [{one}] (source: the Almanac of Nowhere)."
    yield "number changed", f"It says “{said.replace(number, str(int(number) + 1))}” [{one}]."
    yield "number cut", f"It says “{said[: said.index(number) + len(number) - 1]}” [{one}]."
    yield "number grown", f"It says “{said.replace(number, number + '0')}” [{one}]."
    yield "not put in", f"It says “{' '.join([*words[:2], 'not', *words[2:]])}” [{one}]."
    yield "word left out", f"It says “{' '.join([*words[:2], *words[3:]])}” [{one}]."
    yield "words swapped", f"It says “{' '.join([words[1], words[0], *words[2:]])}” [{one}]."
    yield "case changed", f"It says “{said.upper()}” [{one}]."
    yield "word cut", f"It says “{said[1:]}” [{one}]."
    yield "words joined", f"It says “{said.replace(' ', '', 1)}” [{one}]."
    yield "elided", f"It says “{words[0]} ... {words[-1]}” [{one}]."
    yield "elided in brackets", f"It says “{words[0]} […] {words[-1]}” [{one}]."
    yield "word put in brackets", f"It says “{words[0]} [really] {' '.join(words[1:])}” [{one}]."
    yield "two sentences merged", f"It says “{words[0]} {words[1]} {also.split()[-1]} it” [{one}]."
    yield "paraphrase", f"It says “roughly speaking, {said}” [{one}]."
    yield "another page's words", f"It says “{also}” [{one}]."
    yield "ids exchanged", f"One says “{said}” [{two}], the other “{also}” [{one}]."
    yield "lead-ins exchanged", f"According to [{two}], “{said}”, while [{one}] says “{also}”."
    yield "second of two", f"“{said}” and “it never rains” stand there [{one}]."
    yield "unread page's words", f"It says “{lib.unread.split('.')[1].strip()}” [{one}]."
    yield "another world's words", f"It says “{lib.other_world.split('.')[0]}” [{one}]."
    yield "title made up", f"The article “{lib.names[0]} Revisited” says so [{one}]."
    yield "letters of another script", f"It says “{said.replace('e', 'е', 1)}” [{one}]."
    yield "block quotation", f"> {said} and more.\n\nThat is from [{one}]."
    yield "block quotation, its second part", f"> {said}.\n>\n> It never rains.\n\nSo [{one}]."
    yield "list", f"- “{said}” [{one}]\n- “{also} indeed” [{two}]"
    yield "table", f"| what | source |\n| --- | --- |\n| “{said} now” | [{one}] |"
    yield "uncited quotation", f"It is so [{one}]. Locals say “it never rains in the old town”."
    yield "quotation not closed", f"It is so [{one}]. It says “{said} and it never rains."
    yield "single marks", f"It says ‘it never rains there’ [{one}]."
    yield "straight marks", f'It says "it never rains there" [{one}].'
    yield "guillemets", f"Es heißt »it never rains there« [{one}]."
    yield "sign dropped", f"“5 m at low tide” [{lib.harbour}]."
    yield "percent dropped", f"“grew by 12.5” [{lib.harbour}]."
    yield "thousands dropped", f"It counted “120” ships [{lib.harbour}]."
    yield "nothing cited", f"The answer is {said}."
