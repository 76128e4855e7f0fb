"""The SSRF guard: which addresses the agent may talk to on behalf of text that it read.

A page, or a model that was talked into it, must not reach the machine itself, its network, or a
cloud's metadata service. A URL is checked, its host is resolved once, every address is judged, and
the connection goes to exactly the address that was judged; each redirect starts over. Numbers that
only C libraries take for addresses (decimal, octal, hexadecimal, short forms) are read as such.
Ranges: IANA special-purpose registries (RFC 6890), RFC 6598 (CGNAT), RFC 6052 and 8215 (NAT64),
RFC 3056 (6to4), RFC 4380 (Teredo).
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field

import httpx

from perilune.errors import ToolError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Resolver = Callable[[str, int], Awaitable[list[str]]]

LONGEST_URL = 8192

_NAT64 = tuple(ipaddress.IPv6Network(net) for net in ("64:ff9b::/96", "64:ff9b:1::/48"))
_REFUSED_V6 = (
    (ipaddress.IPv6Network("2002::/16"), "a 6to4 tunnel"),
    (ipaddress.IPv6Network("2001::/32"), "a Teredo tunnel"),
    (ipaddress.IPv6Network("::/96"), "an IPv4-compatible address"),
    (ipaddress.IPv6Network("fec0::/10"), "a site-local address"),
    (ipaddress.IPv6Network("5f00::/16"), "a segment routing address"),
)
_METADATA = frozenset(
    ipaddress.ip_address(text)
    for text in ("169.254.169.254", "169.254.170.2", "100.100.100.200", "fd00:ec2::254")
)
_CGNAT = ipaddress.IPv4Network("100.64.0.0/10")
# What `ipaddress` takes for global in some Python versions; a cloud's metadata is in the first.
_REFUSED_V4 = (
    (ipaddress.IPv4Network("192.0.0.0/24"), "an address of protocol assignments"),
    (ipaddress.IPv4Network("192.88.99.0/24"), "a 6to4 relay"),
)
_WEB_PORTS = frozenset({80, 443})


@dataclass(frozen=True, slots=True)
class Target:
    """A URL that may be asked, and the addresses that its host had when it was judged."""

    url: httpx.URL
    host: str
    addresses: tuple[str, ...]


async def system_resolver(host: str, port: int) -> list[str]:
    """All addresses of a host, as the operating system gives them."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


@dataclass(frozen=True)
class NetGuard:
    """Judges URLs.

    `allowed` names networks and `hosts` host names that are reached all the same, because a person
    said so (a search engine of their own, say). The resolver can be replaced for tests.
    """

    allowed: tuple[Network, ...] = ()
    hosts: frozenset[str] = frozenset()
    resolver: Resolver = field(default=system_resolver)

    @classmethod
    def allowing(cls, networks: Iterable[str], resolver: Resolver = system_resolver) -> NetGuard:
        """A guard that also lets `networks` pass, e.g. "127.0.0.1" or "10.1.0.0/16"."""
        nets = tuple(ipaddress.ip_network(each) for each in networks)
        return cls(allowed=nets, resolver=resolver)

    async def check(self, url: str | httpx.URL) -> Target:
        """Judge a URL and resolve its host. Raises `ToolError` with the reason of a refusal."""
        parsed = _parse(url)
        host = parsed.raw_host.decode("ascii", "replace").strip("[]").rstrip(".").lower()
        port = parsed.port or (443 if parsed.scheme == "https" else 80)
        literal = literal_address(host)
        if literal is not None:
            addresses = [str(literal)]
        else:
            if "." not in host and host not in ("localhost", *self.hosts):
                raise _refusal(parsed, f"{host} is a name of a local network")
            addresses = await self._resolve(host, port, parsed)
        outside = False
        for text in addresses:
            address = ipaddress.ip_address(text.partition("%")[0])
            if host in self.hosts or any(address in network for network in self.allowed):
                continue
            reason = forbidden(address)
            if reason:
                raise _refusal(parsed, f"{host} is {reason}")
            outside = True
        if outside and port < 1024 and port not in _WEB_PORTS:
            raise _refusal(parsed, f"port {port} is not the web's")
        return Target(parsed, host, tuple(addresses))

    async def _resolve(self, host: str, port: int, url: httpx.URL) -> list[str]:
        try:
            addresses = await self.resolver(host, port)
        except (OSError, UnicodeError) as error:
            raise ToolError(f"{host} has no address: {error}") from None
        if not addresses:
            raise ToolError(f"{host} has no address")
        return addresses


def literal_address(host: str) -> Address | None:
    """The address that a host spells, in every way that some client reads as one; else None."""
    bare = host.partition("%")[0]
    try:
        return ipaddress.ip_address(bare)
    except ValueError:
        pass
    if not bare or not all(part[:1].isdigit() for part in bare.split(".") if part):
        return None
    try:
        # inet_aton reads 2130706433, 0x7f000001, 0177.0.0.1 and 127.1 as 127.0.0.1.
        return ipaddress.IPv4Address(socket.inet_aton(bare))
    except OSError:
        return None


def forbidden(address: Address) -> str:
    """Why an address must not be reached; empty for one of the public internet."""
    if address in _METADATA:
        return "a cloud's metadata service"
    if isinstance(address, ipaddress.IPv6Address):
        if address.is_loopback:
            return "this machine"
        inner = _embedded(address)
        if inner is not None:
            reason = forbidden(inner)
            return f"{reason}, wrapped in an IPv6 address" if reason else ""
        for network, what in _REFUSED_V6:
            if address in network and not address.is_unspecified:
                return what
    else:
        for relay, what in _REFUSED_V4:
            if address in relay:
                return what
    if address.is_loopback:
        return "this machine"
    if address.is_unspecified:
        return "the unspecified address, which means this machine"
    if address.is_link_local:
        return "a link-local address"
    if address.is_multicast:
        return "a multicast address"
    if address in _CGNAT:
        return "a carrier's shared address (CGNAT)"
    if address.is_private:
        return "an address of a private network"
    if address.is_reserved or not address.is_global:
        return "a reserved address"
    return ""


def _embedded(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that a mapped or NAT64 address stands for."""
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if any(address in network for network in _NAT64):
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return None


def _parse(url: str | httpx.URL) -> httpx.URL:
    text = str(url).strip()
    if len(text) > LONGEST_URL:
        raise ToolError(f"the URL has more than {LONGEST_URL} characters")
    if any(ord(char) < 33 or ord(char) == 127 or char == "\\" for char in text):
        raise ToolError("the URL holds spaces, control characters or backslashes")
    try:
        parsed = httpx.URL(text)
    except (httpx.InvalidURL, ValueError, UnicodeError) as error:
        raise ToolError(f"{text[:200]!r} is not a URL: {error}") from None
    if parsed.scheme not in ("http", "https"):
        raise ToolError(f"{text[:200]!r} is not a web address: only http and https are fetched")
    if not parsed.host:
        raise ToolError(f"{text[:200]!r} names no host")
    if parsed.userinfo:
        raise ToolError("a URL with a user name or password is not fetched")
    return parsed


def _refusal(url: httpx.URL, why: str) -> ToolError:
    return ToolError(
        f"refused: {str(url)[:200]} leads to an address that must not be reached: {why}"
    )
