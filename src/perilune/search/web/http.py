"""One guarded HTTP request: judged, pinned to the judged address, redirects too, and capped."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import httpx

from perilune.errors import ToolError
from perilune.search.web.net_guard import NetGuard, Target

MOST_REDIRECTS = 5
USER_AGENT = "Mozilla/5.0 (compatible; perilune-agent)"
_REDIRECTS = frozenset({301, 302, 303, 307, 308})


@dataclass(frozen=True, slots=True)
class Page:
    """A response with its whole body, decoded from its content encoding."""

    url: str
    status: int
    media_type: str
    charset: str | None
    headers: Mapping[str, str]
    body: bytes


class GuardedClient:
    """Gets what the guard lets pass. Environment proxies are not used: they would resolve again."""

    def __init__(
        self,
        guard: NetGuard | None = None,
        *,
        most_bytes: int = 8 << 20,
        seconds: float = 30.0,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.guard = guard or NetGuard()
        self._tls = tls
        self.most_bytes = most_bytes
        self.seconds = seconds

    async def get(self, url: str, *, headers: Mapping[str, str] | None = None) -> Page:
        """Get a URL, following redirects. Raises `ToolError` for every failure and refusal."""
        return await self.request("GET", url, headers=headers)

    async def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
    ) -> Page:
        """One request of any method; a redirect is followed with GET, as browsers do."""
        try:
            async with asyncio.timeout(self.seconds):
                return await self._follow(method, url, dict(headers or {}), body)
        except TimeoutError:
            raise ToolError(f"{url[:200]} took longer than {self.seconds:g} s") from None

    async def _follow(
        self, method: str, url: str, headers: dict[str, str], body: bytes | None
    ) -> Page:
        sent = {"User-Agent": USER_AGENT, "Accept-Encoding": "gzip, deflate", **headers}
        async with httpx.AsyncClient(
            verify=self._tls or _usual_tls(),
            trust_env=False,
            follow_redirects=False,
            timeout=self.seconds,
        ) as client:
            for _ in range(MOST_REDIRECTS + 1):
                target = await self.guard.check(url)
                page, location = await self._send(client, method, target, sent, body)
                if location is None:
                    return page
                try:
                    following = target.url.join(location)
                except (httpx.InvalidURL, ValueError) as error:
                    raise ToolError(f"{url[:200]} redirects to no URL: {error}") from None
                if following.host != target.url.host:
                    # What was said to one host is not said to another.
                    sent = {k: v for k, v in sent.items() if k.lower() not in _PRIVATE_HEADERS}
                if page.status not in (307, 308):
                    method, body = "GET", None
                url = str(following)
        raise ToolError(f"more than {MOST_REDIRECTS} redirects; the last one to {url[:200]}")

    async def _send(
        self,
        client: httpx.AsyncClient,
        method: str,
        target: Target,
        headers: dict[str, str],
        body: bytes | None,
    ) -> tuple[Page, str | None]:
        """Ask the judged addresses in turn until one answers; the body, or where it redirects."""
        problem: Exception | None = None
        for address in target.addresses:
            request = client.build_request(
                method,
                target.url.copy_with(host=address),
                headers={"Host": target.url.netloc.decode("ascii"), **headers},
                content=body,
                # The certificate must be the named host's, though we connect to its address.
                extensions={"sni_hostname": target.host},
            )
            try:
                response = await client.send(request, stream=True)
                try:
                    return await self._read(response, target)
                finally:
                    await response.aclose()
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                problem = error
            except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
                why = str(error) or type(error).__name__
                raise ToolError(f"{str(target.url)[:200]} could not be fetched: {why}") from None
        raise ToolError(f"{target.host} does not answer: {problem}")

    async def _read(self, response: httpx.Response, target: Target) -> tuple[Page, str | None]:
        location = response.headers.get("location")
        redirected = response.status_code in _REDIRECTS and location is not None
        body = bytearray()
        if not redirected:
            announced = response.headers.get("content-length", "")
            if announced.isdigit() and int(announced) > self.most_bytes:
                raise self._too_large(target)
            # Counted after decompression, so that a small body cannot unfold into a large one.
            async for chunk in response.aiter_bytes(1 << 16):
                body += chunk
                if len(body) > self.most_bytes:
                    raise self._too_large(target)
        page = Page(
            url=str(target.url),
            status=response.status_code,
            media_type=response.headers.get("content-type", "").partition(";")[0].strip().lower(),
            charset=response.charset_encoding,
            headers=dict(response.headers),
            body=bytes(body),
        )
        return page, location if redirected else None

    def _too_large(self, target: Target) -> ToolError:
        return ToolError(f"{str(target.url)[:200]} is larger than {self.most_bytes >> 20} MiB")


@cache
def _usual_tls() -> ssl.SSLContext:
    """The public authorities; read once, for that takes longer than a request."""
    return httpx.create_ssl_context(trust_env=False)


_PRIVATE_HEADERS = frozenset({"authorization", "cookie", "x-subscription-token"})
