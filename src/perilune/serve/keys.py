"""API keys: kept as hashes, compared in constant time, read from flags, environment or a file."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from perilune.errors import UsageError
from perilune.serve.request import Caller
from perilune.serve.settings import Settings

_HEX_HASH = re.compile(r"sha256:([0-9a-f]{64})")
_NAME = re.compile(r"[A-Za-z0-9_.@-]{1,64}")
MAX_KEY_LENGTH = 512


@dataclass(frozen=True, slots=True)
class _Key:
    digest: bytes  # sha256 of the key
    caller: Caller


class Keys:
    """The keys of a server. Without any, everybody is `local` (loopback only, see `guard.py`)."""

    def __init__(self, entries: Iterable[tuple[str, str]] = ()) -> None:
        """`entries`: (name, key), where a key may be `sha256:HEX`. Raises UsageError."""
        secret = secrets.token_bytes(16)  # salts differ between servers and between runs
        self._keys: list[_Key] = []
        for name, key in entries:
            match = _HEX_HASH.fullmatch(key)
            if not match and not 8 <= len(key) <= MAX_KEY_LENGTH:
                raise UsageError(
                    f"the API key of {name!r} has {len(key)} characters",
                    remedy=f"Use 8 to {MAX_KEY_LENGTH}, for example: openssl rand -hex 24",
                )
            digest = bytes.fromhex(match[1]) if match else _digest(key)
            salt = hmac.digest(secret, digest, "sha256").hex()
            self._keys.append(_Key(digest, Caller(name, salt)))

    @classmethod
    def from_settings(cls, settings: Settings) -> Keys:
        """Raises UsageError when a file cannot be read or a key is too short."""
        entries = [(f"key-{n}", key) for n, key in enumerate(settings.api_key, 1)]
        if settings.api_key_file is not None:
            entries += _read_file(settings.api_key_file)
        return cls(entries)

    def __bool__(self) -> bool:
        return bool(self._keys)

    def find(self, headers: Mapping[str, str]) -> Caller | None:
        """Who sends these headers; None: nobody we know. Both header forms go through here."""
        if not self._keys:
            return Caller()
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        given = [bearer.strip() if scheme.lower() == "bearer" else "", headers.get("x-api-key", "")]
        found = None
        for token in given:
            if not token or len(token) > MAX_KEY_LENGTH:
                continue
            digest = _digest(token)
            for key in self._keys:  # all of them, whichever matches
                if hmac.compare_digest(key.digest, digest) and found is None:
                    found = key.caller
        return found


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


def _read_file(path: Path) -> list[tuple[str, str]]:
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"the API key file {path} cannot be read: {error}") from None
    entries = []
    for number, line in enumerate(lines, 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        name, equals, key = line.partition("=")
        if not (equals and _NAME.fullmatch(name)):
            name, key = f"{path.name}-{number}", line
        entries.append((name, key))
    if not entries:
        raise UsageError(f"the API key file {path} holds no key")
    return entries
