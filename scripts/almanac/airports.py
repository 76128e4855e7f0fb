"""Airports that have an IATA code, from airportsdata."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator

from almanac.article import Article, Source, package_folder
from almanac.countries import country_name, geonames

AIRPORTS = Source("airportsdata", 2026, "airportsdata", "MIT")
METRES_PER_FOOT = 0.3048


def read_airports() -> Iterator[Article]:
    """By IATA code. Elevations are given in feet and kept in whole metres."""
    countries = {code: country_name(each) for code, each in geonames("countries").items()}
    path = package_folder("airportsdata") / "airports.csv"
    with path.open(encoding="utf-8", newline="") as file:
        rows = sorted((row for row in csv.DictReader(file) if row["iata"]), key=lambda r: r["iata"])
    for row in rows:
        name, city = row["name"].strip(), row["city"].strip()
        international = "international" in name.lower()
        article = Article("airport", name, weight=40 if international else 20)
        article.codes = {row["iata"], row["icao"]} - {""}
        short = re.sub(r" (?:International|Intercontinental|Regional|Municipal)\b", "", name)
        article.aliases = {short, f"{row['iata']} airport"} - {name}
        if city:
            article.aliases |= {f"{city} airport"} - {name}
        article.add("IATA code", row["iata"], AIRPORTS)
        article.add("ICAO code", row["icao"], AIRPORTS)
        article.add("city", city, AIRPORTS)
        article.add("region", row["subd"] if row["country"] == "US" else "", AIRPORTS)
        article.add("country", countries.get(row["country"]), AIRPORTS)
        article.add("elevation", round(float(row["elevation"]) * METRES_PER_FOOT), AIRPORTS)
        article.add("latitude", round(float(row["lat"]), 3), AIRPORTS)
        article.add("longitude", round(float(row["lon"]), 3), AIRPORTS)
        article.add("time zone", row["tz"], AIRPORTS)
        yield article
