"""References of a JSON schema, resolved within its document and nowhere else.

`#`, every valid JSON pointer (RFC 6901, percent-encoded or not), `$id` and `id` of parts of the
document, `$anchor`, `$dynamicAnchor` and `#name`. A reference that leads elsewhere (http:, file:,
a relative path) dangles; it is not looked at, let alone fetched.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote, urldefrag, urljoin

_NO_SCHEMAS = frozenset({"enum", "const", "default", "examples", "example", "required", "type"})
_NAMES = frozenset(
    {"properties", "patternProperties", "$defs", "definitions", "dependentSchemas", "dependencies"}
)
_LONGEST = 2_000


class Dangling(Exception):
    """The reference names nothing in the document."""


class References:
    """The places of one document that can be referred to."""

    def __init__(self, document: dict[str, Any]) -> None:
        self._document = document
        self._bases: dict[int, str] = {}
        self._resources: dict[str, dict[str, Any]] = {"": document}
        self._anchors: dict[tuple[str, str], dict[str, Any]] = {}
        self._dynamic: dict[str, dict[str, Any]] = {}
        self._index()

    def resolve(self, reference: Any, source: dict[str, Any]) -> Any:
        """The subschema that `reference` of `source` names. Raises `Dangling`."""
        if not isinstance(reference, str):
            raise Dangling("it is not text")
        if len(reference) > _LONGEST:
            raise Dangling("it is too long")
        base = self._bases.get(id(source), "")
        try:
            address, fragment = urldefrag(_join(base, reference))
            roots = [self._resources[address]] if address in self._resources else []
            if reference.startswith("#"):  # many write an `$id` and mean the document all the same
                address, fragment = base, reference[1:]
                roots = [self._resources.get(base, self._document), self._document]
        except ValueError:
            roots, fragment, address = [], "", ""
        if not roots:
            raise Dangling(f"{reference!r:.100} leads out of the document; nothing is fetched")
        for root in roots:
            for spelling in dict.fromkeys((unquote(fragment, errors="replace"), fragment)):
                found = self._within(root, address, spelling)
                if isinstance(found, dict | bool):
                    return found
        raise Dangling(f"{reference!r:.100} names no schema of the document")

    def _within(self, root: dict[str, Any], address: str, fragment: str) -> Any:
        if not fragment:
            return root
        if not fragment.startswith("/"):
            found = self._anchors.get((address, fragment))
            return found if found is not None else self._dynamic.get(fragment)
        value: Any = root
        for part in fragment[1:].split("/"):
            key = part.replace("~1", "/").replace("~0", "~")
            if isinstance(value, dict) and key in value:
                value = value[key]
            elif isinstance(value, list) and key.isascii() and key.isdigit() and len(key) < 7:
                if int(key) >= len(value):
                    return None
                value = value[int(key)]
            else:
                return None
        return value

    def _index(self) -> None:
        """Note the base of every part, and what its names are."""
        work: list[tuple[Any, str, bool]] = [(self._document, "", False)]
        while work:
            value, base, by_name = work.pop()
            if isinstance(value, list):
                work += [(each, base, False) for each in reversed(value)]
            if not isinstance(value, dict):
                continue
            if not by_name:
                base = self._named(value, base)
                self._bases[id(value)] = base
            work += [
                (child, base, key in _NAMES and not by_name)
                for key, child in reversed(value.items())
                if by_name or key not in _NO_SCHEMAS
            ]

    def _named(self, part: dict[str, Any], base: str) -> str:
        """The base within `part`; its identifiers are kept."""
        name = part.get("$id", part.get("id"))
        if isinstance(name, str) and 0 < len(name) <= _LONGEST:
            try:
                address, fragment = urldefrag(_join(base, name))
            except ValueError:
                address, fragment = base, ""
            if name.startswith("#"):  # up to draft 7
                self._anchors.setdefault((base, fragment), part)
            elif address:
                base = address
                self._resources.setdefault(base, part)
        for word in ("$anchor", "$dynamicAnchor"):
            anchor = part.get(word)
            if isinstance(anchor, str):
                self._anchors.setdefault((base, anchor), part)
                if word == "$dynamicAnchor":
                    self._dynamic.setdefault(anchor, part)  # the outermost one counts
        return base


def _join(base: str, reference: str) -> str:
    """`urljoin`, also for bases such as `urn:uuid:...`, of which it knows nothing."""
    if reference.startswith("#"):
        return base + reference
    return urljoin(base, reference)
