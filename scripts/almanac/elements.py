"""The chemical elements, from mendeleev's database: its figures, not its prose."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

from almanac.article import Article, Source, package_folder

MENDELEEV = Source("mendeleev", 2026, "mendeleev", "MIT")

FACTS = (
    ("electron configuration", "electronic_configuration"),
    ("block", "block"),
    ("period", "period"),
    ("group", "group_id"),
    ("density", "density"),
    ("electronegativity", "en_pauling"),
    ("atomic radius", "atomic_radius"),
    ("thermal conductivity", "thermal_conductivity"),
    ("specific heat", "specific_heat_capacity"),
    ("crust abundance", "abundance_crust"),
    ("CAS number", "cas"),
    ("discoverers", "discoverers"),
    ("discovery year", "discovery_year"),
    ("discovery country", "discovery_location"),
)
CRYSTALS = {
    "BCC": "body-centred cubic", "FCC": "face-centred cubic", "HEX": "hexagonal",
    "CUB": "cubic", "DIA": "diamond cubic", "TET": "tetragonal", "ORC": "orthorhombic",
    "RHL": "rhombohedral", "MCL": "monoclinic", "SC": "cubic",
}  # fmt: skip
ALIASES = {
    "Aluminum": ["Aluminium"], "Aluminium": ["Aluminum"], "Sulfur": ["Sulphur"],
    "Cesium": ["Caesium"], "Tungsten": ["Wolfram"], "Mercury": ["Quicksilver"],
}  # fmt: skip
ZERO_CELSIUS = 273.15  # K


def read_elements() -> Iterator[Article]:
    """All 118, by atomic number."""
    path = package_folder("mendeleev") / "elements.db"
    database = sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True)
    database.row_factory = sqlite3.Row
    series = dict(database.execute("select id, name from series"))
    energies = dict(
        database.execute(
            "select atomic_number, ionization_energy from ionizationenergies where ion_charge = 0"
        )
    )
    rows = database.execute("select * from elements order by atomic_number").fetchall()
    for row in rows:
        number, name = row["atomic_number"], row["name"]
        article = Article("element", name, weight=80)
        article.aliases = {
            *ALIASES.get(name, []), f"element {number}", f"atomic number {number}",
            f"element {row['symbol']}", f"symbol {row['symbol']}",
        }  # fmt: skip
        article.codes = {row["symbol"]}
        article.add("symbol", row["symbol"], MENDELEEV)
        article.add("atomic number", number, MENDELEEV)
        article.add("atomic mass", row["atomic_weight"], MENDELEEV)
        article.add(
            "category", series.get(row["series_id"], "").lower().removesuffix("s"), MENDELEEV
        )
        melting, boiling = _transitions(database, number)
        for what, kelvin in (("melting", melting), ("boiling", boiling)):
            if kelvin is not None:
                article.add(f"{what} point", kelvin, MENDELEEV)
                celsius = round(kelvin - ZERO_CELSIUS, 2)
                article.add(f"{what} point in Celsius", celsius, MENDELEEV)
        for attribute, column in FACTS:
            value = row[column]
            article.add(attribute, value.strip(" .") if isinstance(value, str) else value,
                        MENDELEEV)  # fmt: skip
        article.add("ionization energy", energies.get(number), MENDELEEV)
        article.add("crystal structure", CRYSTALS.get(row["lattice_structure"] or ""), MENDELEEV)
        article.add("radioactive", "yes" if row["is_radioactive"] else "no", MENDELEEV)
        yield article


def _transitions(database: sqlite3.Connection, number: int) -> tuple[float | None, float | None]:
    """Melting and boiling point in K; of several allotropes, the first that has one. A sublimation
    point is not a boiling point."""
    rows = database.execute(
        "select melting_point, boiling_point, is_sublimation_point from phasetransitions "
        "where atomic_number = ? order by id",
        (number,),
    ).fetchall()
    melting = next((row[0] for row in rows if row[0] is not None), None)
    boiling = next((row[1] for row in rows if row[1] is not None and not row[2]), None)
    return melting, boiling
