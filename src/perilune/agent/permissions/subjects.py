"""What the subject of a call means: a path without detours, a URL without disguises."""

from __future__ import annotations

import os
import posixpath
import re
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

_SHOWN_ROOT = "/workspace"  # as commands and file tools name the workspace
_PORTS = {"http": 80, "https": 443}


@dataclass(slots=True)
class Forms:
    """The spellings of a subject. A deny pattern hits by any in `any_of`; an allow pattern must
    match one of each group in `all_of`. `unclear`: it may mean anything."""

    any_of: list[str] = field(default_factory=list)
    all_of: list[list[str]] = field(default_factory=list)
    unclear: bool = False


def forms_of(kind: str, value: str, workspace: Path | None = None) -> Forms:
    """The forms of a subject; `kind` is the name of the argument."""
    if kind == "path":
        return _path_forms(value, workspace)
    if kind == "url":
        return _url_forms(value)
    return Forms([value], [[value]])


def _path_forms(path: str, workspace: Path | None) -> Forms:
    """`src/../x` is `x`; a link is what it leads to. Deny patterns do not care about case or how
    accents are written, for some file systems do not."""
    if "\0" in path:
        return Forms([path], [[path]], unclear=True)
    plain = _plain_path(path, workspace)
    groups = [[plain]]
    if workspace is not None:
        groups.append([_resolved(plain, workspace)])
    # The name as given counts too: a link may be what a pattern is about.
    found = {path, *(each for group in groups for each in group)}
    for each in list(found):
        for form in ("NFC", "NFD"):
            found.add(unicodedata.normalize(form, each))
    found |= {each.casefold() for each in found} | {each.rstrip("/") or "/" for each in found}
    return Forms(sorted(found), groups)


def _plain_path(path: str, workspace: Path | None) -> str:
    plain = posixpath.normpath(path) if path else "."
    plain = "/" + plain.lstrip("/") if plain.startswith("/") else plain
    roots = [_SHOWN_ROOT] + ([str(workspace)] if workspace is not None else [])
    for root in roots:
        if plain == root:
            return "."
        if plain.startswith(root + "/"):
            return plain[len(root) + 1 :]
    return plain


def _resolved(plain: str, workspace: Path) -> str:
    """Where the path leads, relative to the workspace if it leads there."""
    try:
        root = os.path.realpath(workspace)
        target = os.path.realpath(Path(root) / plain)
    except (OSError, ValueError):
        return plain
    if target == root:
        return "."
    return target[len(root) + 1 :] if target.startswith(root + os.sep) else target


def _url_forms(url: str) -> Forms:
    """`HTTPS://user@Docs.Example.:443/a/../b` is `https://docs.example/b`."""
    if re.search(r"[\s\\\x00-\x1f\x7f]", url):
        return Forms([url], [[url]], unclear=True)
    try:
        parts = urlsplit(url if "//" in url[:12] else f"https://{url}")
        port = parts.port
    except ValueError:
        return Forms([url], [[url]], unclear=True)
    host = _host(parts)
    if not host:
        return Forms([url, url.lower()], [[url]])
    scheme = parts.scheme.lower()
    address = f"[{host}]" if ":" in host else host
    if port is not None and port != _PORTS.get(scheme):
        address += f":{port}"
    query = f"?{parts.query}" if parts.query else ""
    groups = []
    for path in dict.fromkeys((parts.path, unquote(unquote(parts.path)))):
        straight = posixpath.normpath("/" + path.lstrip("/")) if path else ""
        if path.endswith("/") and straight != "/":
            straight += "/"
        rest = straight + query
        groups.append([f"{scheme}://{address}{rest}", f"{address}{rest}", address])
        if not rest:
            groups[-1].append(f"{scheme}://{address}/")
    found = {url, host, *(each for group in groups for each in group)}
    if any(label.startswith("xn--") for label in host.split(".")):
        readable = _readable(host)
        found |= {each.replace(host, readable) for each in found}
    return Forms(sorted(found | {each.lower() for each in found}), groups)


def _host(parts: SplitResult) -> str:
    """The host in its one spelling: lower case, punycode, no dot at the end."""
    host = unicodedata.normalize("NFKC", unquote(parts.hostname or "")).lower().rstrip(".")
    host = re.sub("[\u3002\uff0e\uff61]", ".", host)
    if host.isascii():
        return host
    try:
        return host.encode("idna").decode("ascii")
    except UnicodeError:
        return host


def _readable(host: str) -> str:
    try:
        return host.encode("ascii").decode("idna")
    except UnicodeError:
        return host
