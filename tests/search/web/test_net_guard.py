"""Addresses that must not be reached, in every spelling, and the pinning of those that may be."""

from __future__ import annotations

import ipaddress
import shutil
import ssl
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perilune.errors import ToolError
from perilune.search.web.http import GuardedClient
from perilune.search.web.net_guard import NetGuard, forbidden, literal_address
from tests.agent.tools.conftest import serving

REFUSED = [
    # this machine
    "http://127.0.0.1/",
    "http://127.0.0.1:8080/",
    "http://127.1/",
    "http://127.0.1/",
    "http://127.255.255.254/",
    "http://0.0.0.0/",
    "http://0/",
    "http://0.0.0.1/",
    "http://localhost/",
    "http://LOCALHOST./",
    "http://[::1]/",
    "http://[::]/",
    "http://[0:0:0:0:0:0:0:1]/",
    # decimal, octal, hexadecimal, mixed
    "http://2130706433/",
    "http://017700000001/",
    "http://0177.0.0.1/",
    "http://0x7f000001/",
    "http://0x7f.0.0.1/",
    "http://0x7f.1/",
    "http://0x7F.0x00.0x00.0x01/",
    "http://3232235521/",
    "http://0xA9FEA9FE/",
    "http://2852039166/",
    "http://0251.0376.0251.0376/",
    # private networks, CGNAT, link-local, metadata
    "http://10.0.0.1/",
    "http://172.16.0.1/",
    "http://172.31.255.255/",
    "http://192.168.1.1/",
    "http://100.64.0.1/",
    "http://100.127.255.254/",
    "http://169.254.1.1/",
    "http://169.254.169.254/latest/meta-data/",
    "http://169.254.170.2/v2/credentials",
    "http://100.100.100.200/latest/meta-data/",
    "http://[fd00:ec2::254]/",
    "http://[fe80::1]/",
    "http://[fc00::1]/",
    "http://[fd12:3456:789a::1]/",
    "http://[fec0::1]/",
    # multicast, broadcast, reserved, documentation, benchmarking
    "http://224.0.0.1/",
    "http://239.255.255.250/",
    "http://255.255.255.255/",
    "http://240.0.0.1/",
    "http://192.0.2.1/",
    "http://198.18.0.1/",
    "http://192.0.0.192/",
    "http://[ff02::1]/",
    "http://[2001:db8::1]/",
    # IPv4 inside IPv6
    "http://[::ffff:127.0.0.1]/",
    "http://[::ffff:7f00:1]/",
    "http://[::ffff:169.254.169.254]/",
    "http://[::ffff:10.0.0.1]/",
    "http://[::127.0.0.1]/",
    "http://[64:ff9b::127.0.0.1]/",
    "http://[64:ff9b::a9fe:a9fe]/",
    "http://[64:ff9b:1::10.0.0.1]/",
    "http://[2002:7f00:1::]/",
    "http://[2002:a9fe:a9fe::1]/",
    "http://[2001:0:4136:e378:8000:63bf:3fff:fdd2]/",
    # digits that normalise to ASCII, names of the local network
    "http://①②⑦.⓪.⓪.①/",
    "http://127。0。0。1/",
    "http://intranet/",
    # not the web
    "file:///etc/passwd",
    "gopher://127.0.0.1:6379/_FLUSHALL",
    "ftp://example.com/",
    "data:text/html,x",
    "//127.0.0.1/",
    "http://",
    "http:///etc/passwd",
    "http://user:password@example.com/",
    "http://example.com@127.0.0.1/",
    "http://127.0.0.1\\@example.com/",
    "http://example.com/a b",
    "http://example.com/\r\nHost: x",
    "http://8.8.8.8:22/",
    "http://8.8.8.8:25/",
    "http://[fe80::1%25eth0]/",
]


async def system(host: str, port: int) -> list[str]:
    """What a resolver with only a hosts file says."""
    if host == "localhost":
        return ["127.0.0.1", "::1"]
    raise OSError("name not known")


@pytest.mark.parametrize("url", REFUSED)
async def test_refused(url: str) -> None:
    with pytest.raises(ToolError):
        await NetGuard(resolver=system).check(url)


def test_the_list_is_long_enough() -> None:
    assert len(REFUSED) == len(set(REFUSED)) >= 60


@pytest.mark.parametrize(
    "url",
    [
        "http://8.8.8.8/",
        "https://1.1.1.1:443/x?y=z",
        "http://[2606:4700:4700::1111]/",
        "http://[64:ff9b::8.8.8.8]/",
        "http://[::ffff:8.8.8.8]/",
        "http://134744072/",
        "http://93.184.215.14:8080/",
    ],
)
async def test_public_addresses_pass(url: str) -> None:
    target = await NetGuard(resolver=system).check(url)
    assert all(not forbidden(ipaddress.ip_address(each)) for each in target.addresses)


async def test_a_name_with_one_inner_address_among_public_ones_is_refused() -> None:
    async def mixed(host: str, port: int) -> list[str]:
        return ["93.184.215.14", "10.0.0.5"]

    with pytest.raises(ToolError, match="private network"):
        await NetGuard(resolver=mixed).check("http://example.com/")


@pytest.mark.parametrize("host", ["metadata.google.internal", "127.0.0.1.nip.io", "x.localtest.me"])
async def test_names_that_point_inside_are_refused(host: str) -> None:
    async def inside(host: str, port: int) -> list[str]:
        return ["169.254.169.254" if "metadata" in host else "127.0.0.1"]

    with pytest.raises(ToolError, match="must not be reached"):
        await NetGuard(resolver=inside).check(f"http://{host}/")


@given(st.integers(0, 2**32 - 1))
def test_every_spelling_of_an_address_is_read_as_the_same(number: int) -> None:
    address = ipaddress.IPv4Address(number)
    octets = address.packed
    spellings = [
        str(address),
        str(number),
        hex(number),
        f"0{number:o}",
        ".".join(f"0{octet:o}" for octet in octets),
        ".".join(hex(octet) for octet in octets),
        f"{octets[0]}.{int.from_bytes(octets[1:])}",
        f"{octets[0]}.{octets[1]}.{int.from_bytes(octets[2:])}",
    ]
    assert {literal_address(spelling) for spelling in spellings} == {address}


@given(st.integers(0, 2**32 - 1))
def test_an_inner_address_stays_inner_inside_ipv6(number: int) -> None:
    inner = ipaddress.IPv4Address(number)
    for prefix in (0xFFFF << 32, 0x0064FF9B << 96, (0x0064FF9B0001 << 80)):
        wrapped = ipaddress.IPv6Address(prefix | number)
        assert bool(forbidden(wrapped)) == bool(forbidden(inner))


@pytest.mark.parametrize("host", ["example.com", "1.example.com", "x1", "", "a.b", "999.1.1.1.1"])
def test_names_are_no_addresses(host: str) -> None:
    assert literal_address(host) is None


# --- connections ---


def local(*addresses: str) -> NetGuard:
    """A guard for which `site.test` is the local test server, and 127.0.0.1 alone is allowed."""

    async def resolve(host: str, port: int) -> list[str]:
        return list(addresses or ["127.0.0.1"])

    return NetGuard.allowing(["127.0.0.1/32"], resolver=resolve)


async def test_the_connection_goes_to_the_judged_address_under_its_name() -> None:
    seen: list[str] = []

    def page(request: object) -> tuple[int, dict[str, str], bytes]:
        seen.append(request.headers["Host"])  # type: ignore[attr-defined]
        return 200, {"Content-Type": "text/plain"}, b"hello"

    with serving({"/": page}) as port:
        got = await GuardedClient(local()).get(f"http://site.test:{port}/")
    assert got.body == b"hello"
    assert seen == [f"site.test:{port}"]


async def test_rebinding_finds_only_what_was_judged() -> None:
    """The name is public when it is judged and local when asked again: nobody asks again."""
    answers = [["93.184.215.14"], ["127.0.0.1"]]
    asked: list[str] = []

    async def rebinding(host: str, port: int) -> list[str]:
        asked.append(host)
        return answers[min(len(asked) - 1, 1)]

    with serving({"/": (200, {}, b"secret")}) as port:
        client = GuardedClient(NetGuard(resolver=rebinding), seconds=1.0)
        with pytest.raises(ToolError, match=r"does not answer|could not be fetched|longer than"):
            await client.get(f"http://rebind.test:{port}/")
        assert asked == ["rebind.test"]
        with pytest.raises(ToolError, match="this machine"):
            await client.get(f"http://rebind.test:{port}/")


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize(
    "location",
    [
        "http://127.0.0.2:1/",
        "http://169.254.169.254/latest/",
        "http://2130706434/",
        "http://[::1]/",
        "file:///etc/passwd",
        "//10.0.0.1/",
    ],
)
async def test_redirects_are_judged_again(status: int, location: str) -> None:
    refusal = pytest.raises(ToolError, match=r"must not be reached|not a web address")
    with serving({"/": (status, {"Location": location}, b"")}) as port, refusal:
        await GuardedClient(local()).get(f"http://127.0.0.1:{port}/")


async def test_redirects_are_followed_and_end() -> None:
    site = {
        "/a": (302, {"Location": "/b"}, b""),
        "/b": (200, {}, b"there"),
        "/loop": (302, {"Location": "/loop"}, b""),
    }
    with serving(site) as port:
        client = GuardedClient(local())
        assert (await client.get(f"http://127.0.0.1:{port}/a")).body == b"there"
        with pytest.raises(ToolError, match="redirects"):
            await client.get(f"http://127.0.0.1:{port}/loop")


async def test_secrets_stay_with_the_host_they_were_meant_for() -> None:
    seen: dict[str, str | None] = {}

    def note(request: object) -> tuple[int, dict[str, str], bytes]:
        headers = request.headers  # type: ignore[attr-defined]
        seen[headers["Host"].split(":")[0]] = headers.get("Authorization")
        return 200, {}, b""

    with serving({"/end": note}) as port:
        there = f"http://other.test:{port}/end"
        with serving({"/": (302, {"Location": there}, b"")}) as first:
            headers = {"Authorization": "Bearer sesame"}
            await GuardedClient(local()).get(f"http://one.test:{first}/", headers=headers)
    assert seen == {"other.test": None}


async def test_bytes_are_capped_announced_or_not_or_packed() -> None:
    import gzip

    bomb = gzip.compress(bytes(8 << 20))
    assert len(bomb) < 100_000
    site = {
        "/announced": (200, {"Content-Length": str(1 << 30)}, b"x"),
        "/long": (200, {}, b"x" * (3 << 20)),
        "/bomb": (200, {"Content-Encoding": "gzip"}, bomb),
        "/fits": (200, {"Content-Encoding": "gzip"}, gzip.compress(b"fits")),
    }
    with serving(site) as port:
        client = GuardedClient(local(), most_bytes=2 << 20)
        for path in ("announced", "long", "bomb"):
            with pytest.raises(ToolError, match="larger than 2 MiB"):
                await client.get(f"http://127.0.0.1:{port}/{path}")
        assert (await client.get(f"http://127.0.0.1:{port}/fits")).body == b"fits"


async def test_time_is_capped_as_a_whole() -> None:
    """A server that sends a byte now and then keeps every single read short."""
    import time

    def drip(request: object) -> tuple[int, dict[str, str], bytes]:
        stream = request.wfile  # type: ignore[attr-defined]
        stream.write(b"HTTP/1.0 200 OK\r\nContent-Length: 1000\r\n\r\n")
        try:
            for _ in range(30):
                stream.write(b"x")
                stream.flush()
                time.sleep(0.1)
        except OSError:
            pass
        return 200, {}, b""

    late = pytest.raises(ToolError, match=r"longer than 0\.5 s")
    with serving({"/": drip}) as port, late:
        await GuardedClient(local(), seconds=0.5).get(f"http://127.0.0.1:{port}/")


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl for a certificate")
async def test_the_certificate_must_be_the_named_hosts(tmp_path: Path) -> None:
    """We connect to an address, but the name is what the server must prove."""
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    names = ["-subj", "/CN=site.test", "-addext", "subjectAltName=DNS:site.test"]
    new = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    files = ["-nodes", "-days", "2", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*new, *files, *names], check=True, capture_output=True)
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_side.load_cert_chain(certificate, key)
    client = GuardedClient(local(), tls=ssl.create_default_context(cafile=str(certificate)))
    with serving({"/": (200, {}, b"proven")}, tls=server_side) as port:
        assert (await client.get(f"https://site.test:{port}/")).body == b"proven"
        for wrong in (f"https://other.test:{port}/", f"https://127.0.0.1:{port}/"):
            with pytest.raises(ToolError, match=r"certificate|does not answer"):
                await client.get(wrong)
        with pytest.raises(ToolError):
            await GuardedClient(local()).get(f"https://site.test:{port}/")


async def test_environment_proxies_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    with serving({"/": (200, {}, b"direct")}) as port:
        assert (await GuardedClient(local()).get(f"http://127.0.0.1:{port}/")).body == b"direct"


async def test_the_next_address_is_tried_when_one_does_not_answer() -> None:
    guard = NetGuard.allowing(["127.0.0.0/8"], resolver=local("127.0.0.9", "127.0.0.1").resolver)
    with serving({"/": (200, {}, b"second")}) as port:
        assert (await GuardedClient(guard).get(f"http://two.test:{port}/")).body == b"second"
