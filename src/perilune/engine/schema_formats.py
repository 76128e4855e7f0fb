"""The `format`s of JSON schemas that a grammar holds, as regular expressions.

Tighter than the standards where these are wider than what programs read: no leap seconds, no year
0, no day that a year lacks, fractions of at most six digits. Other formats say something to people.

Sources: RFC 3339 (dates, times; appendix A for durations), RFC 4122, RFC 4648, RFC 6901.
"""

from __future__ import annotations

_YEAR = "(?:000[1-9]|00[1-9][0-9]|0[1-9][0-9]{2}|[1-9][0-9]{3})"
_FOURS = "(?:0[48]|[2468][048]|[13579][26])"  # 04 to 96
_LEAP_YEAR = f"(?:[0-9]{{2}}{_FOURS}|{_FOURS}00)"
_DATE = (
    f"(?:{_YEAR}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])"
    "|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)|02-(?:0[1-9]|1[0-9]|2[0-8]))"
    f"|{_LEAP_YEAR}-02-29)"
)
_CLOCK = r"(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{1,6})?"
_ZONE = "(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
_SPAN = "T(?:[0-9]{1,3}H(?:[0-9]{1,3}M(?:[0-9]{1,3}S)?)?|[0-9]{1,3}M(?:[0-9]{1,3}S)?|[0-9]{1,5}S)"
_DAYS = "[0-9]{1,4}D"
_MONTHS = f"[0-9]{{1,3}}M(?:{_DAYS})?"
_DURATION = (
    f"P(?:[0-9]{{1,4}}W|(?:[0-9]{{1,3}}Y(?:{_MONTHS})?|{_MONTHS}|{_DAYS})(?:{_SPAN})?|{_SPAN})"
)
_BYTE = "(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"


def _uuid(version: str) -> str:
    return (
        f"^[0-9a-f]{{8}}-[0-9a-f]{{4}}-{version}[0-9a-f]{{3}}-[89ab][0-9a-f]{{3}}-[0-9a-f]{{12}}$"
    )


def _base64(digits: str) -> str:
    return f"^(?:{digits}{{4}})*(?:{digits}[AQgw]==|{digits}{{2}}[AEIMQUYcgkosw048]=)?$"


FORMATS = {
    "date": f"^{_DATE}$",
    "time": f"^{_CLOCK}{_ZONE}$",
    "date-time": f"^{_DATE}T{_CLOCK}{_ZONE}$",
    "duration": f"^{_DURATION}$",
    **{f"uuid{n}": _uuid(str(n)) for n in range(1, 9)},
    "ipvanyaddress": rf"^{_BYTE}(?:\.{_BYTE}){{3}}$",
    "byte": _base64("[A-Za-z0-9+/]"),
    "base64": _base64("[A-Za-z0-9+/]"),
    "base64url": _base64("[A-Za-z0-9_-]"),
    "json-pointer": "^(?:/(?:[^/~]|~[01])*)*$",
}
# The grammar library's own are as good.
KEPT_FORMATS = frozenset({"email", "hostname", "ipv4", "ipv6", "uuid", "uri"})
