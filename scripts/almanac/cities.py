"""Cities of GeoNames, from a number of inhabitants on, and all capitals."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

from almanac.article import Article
from almanac.countries import GEONAMES, country_name, geonames
from perilune.search.almanac.text import key

KNOWN_ABROAD = 700_000
"""From here on a city's names in other languages are kept, too."""
CALLED = {
    "New York City": ["New York", "NYC"],
    "Washington": ["Washington DC"],
    "Los Angeles": ["LA"],
    "Ho Chi Minh City": ["Saigon"],
}
_FOREIGN = re.compile(r"[A-Z][a-z]{3,}(?: [A-Z][a-z]+){0,2}")


def read_cities(smallest: int, capitals: dict[str, str]) -> Iterator[Article]:
    """Cities of at least `smallest` inhabitants. `capitals`: country code -> capital."""
    countries = {code: country_name(each) for code, each in geonames("countries").items()}
    states = {code: each["name"] for code, each in geonames("us_states").items()}
    capital_keys = {code: key(name) for code, name in capitals.items()}
    cities = geonames("cities15000")
    for each in sorted(cities.values(), key=lambda c: (-c["population"], c["geonameid"])):
        code, name = each["countrycode"], each["name"].strip()
        names = {key(name), *map(key, each["alternatenames"])}
        is_capital = bool(capital_keys.get(code)) and capital_keys[code] in names
        if each["population"] < smallest and not is_capital:
            continue
        if is_capital:
            del capital_keys[code]  # the largest of that name
            name = capitals[code]
        article = Article("city", name, weight=_weight(each["population"], is_capital))
        article.aliases = {
            *CALLED.get(each["name"], []),
            each["name"],
            re.split(r" am | an der ", each["name"])[0],
        } - {name}
        if each["population"] >= KNOWN_ABROAD or is_capital:
            article.other_names = set(filter(_FOREIGN.fullmatch, each["alternatenames"]))
        article.add("country", countries.get(code), GEONAMES)
        if code == "US":
            article.add("region", states.get(each["admin1code"]), GEONAMES)
        if is_capital:
            article.add("capital of", countries[code], GEONAMES)
        article.add("population", each["population"] or None, GEONAMES)
        article.add("time zone", each["timezone"], GEONAMES)
        article.add("latitude", round(each["latitude"], 3), GEONAMES)
        article.add("longitude", round(each["longitude"], 3), GEONAMES)
        yield article


def _weight(population: int, is_capital: bool) -> int:
    """10 for a town of ten thousand, 80 for thirty millions."""
    size = 20 * (math.log10(max(population, 10_000)) - 4) + 10
    return min(90, round(size) + 15 * is_capital)
