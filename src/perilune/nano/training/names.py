"""Invented names of many shapes, so that copying a name is learnt and not a set of names.

The syllables of `perilune.world` make names of one shape. Real ones have several words, hyphens,
accents and letters in any order; these have, too. None is taken from the almanac.
"""

from __future__ import annotations

import re

from perilune.world.seed import Stream

_ONSETS, _VOWELS, _CODAS = (
    tuple(re.findall(r"\w+", letters))
    for letters in (
        "b bl br c ch cl cr d dr f fl fr g gh gl gr h j k kh kl kr l m n ng p pl pr q qu r s sc "
        "sh sk sl sm sn sp st str sw t th tr ts v w wh x y z zh",
        "a e i o u y aa ai au ay ea ee ei eo ia ie io oa oe oo ou ue ui",
        "b ch ck d f g h k l ll ld lt m mb n nd ng nt p r rd rg rk rn rt s sh sk ss st t th v w x "
        "z",
    )
)
_ACCENTS = str.maketrans("aeioucnsz", "áéíöúçñšž")
_BEFORE = ("New", "Saint", "North", "South", "East", "West", "Upper", "Great", "San", "El", "Port",
           "Lake", "Mount", "La", "Los", "Santa", "Fort", "Al")  # fmt: skip
_BEHIND = ("Islands", "City", "Republic", "Island", "River", "Hills", "Bay", "Falls", "Coast",
           "Territory", "Valley", "Springs")  # fmt: skip
_BETWEEN = (" and ", "-", " of ", " de ", " ", " ", " la ")
_AIRPORTS = (
    "International Airport",
    "Airport",
    "Regional Airport",
    "Municipal Airport",
    "Airfield",
)


def invented_word(stream: Stream, syllables: int) -> str:
    """A word without a capital."""
    parts = []
    for number in range(syllables):
        if number or stream.chance(0.8):
            parts.append(stream.pick(_ONSETS))
        parts.append(stream.pick(_VOWELS[:6] if stream.chance(0.7) else _VOWELS))
        if stream.chance(0.35 if number < syllables - 1 else 0.6):
            parts.append(stream.pick(_CODAS))
    word = "".join(parts)
    if stream.chance(0.04):
        word = word.translate(_ACCENTS)
    return word


def invented_name(stream: Stream, shape: str = "place") -> str:
    """A name of a shape: "place", "short" (one word), "airport"."""
    first = invented_word(stream, stream.pick((1, 2, 2, 2, 3))).capitalize()
    if shape == "short":
        return first
    if shape == "airport":
        return f"{first} {stream.pick(_AIRPORTS)}"
    kind = stream.below(10)
    if kind == 0:
        return f"{stream.pick(_BEFORE)} {first}"
    if kind == 1:
        return f"{first} {stream.pick(_BEHIND)}"
    if kind == 2:
        second = invented_word(stream, stream.between(1, 2)).capitalize()
        return f"{first}{stream.pick(_BETWEEN)}{second}"
    return first


def invented_code(stream: Stream) -> str:
    """One to three letters, as symbols and airports have."""
    letters = [stream.pick("ABCDEFGHIJKLMNOPQRSTUVWXYZ") for _ in range(stream.between(1, 3))]
    code = "".join(letters)
    return code if len(code) == 3 else code.capitalize()
