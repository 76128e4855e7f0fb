"""Opens the pictures and clips of a request: what it may bring, and where they may come from.

Data URIs are always taken. Addresses are fetched, and files read, only where the operator allows
it, before the conversation is written: through the guard that the agent's web tools have, so that
no request reaches this machine or its network.
"""

from __future__ import annotations

import asyncio
import re
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from perilune.chat.media import MediaKind, MediaLimits, MediaSpan
from perilune.chat.media.items import OpenMedia
from perilune.chat.media.sources import LocalFiles
from perilune.chat.prompt import no_vision
from perilune.errors import MediaError, MediaFault, ToolError
from perilune.serve.api_error import ApiError, invalid
from perilune.serve.media.parts import PLACE, media_parts
from perilune.serve.media_faults import FETCH_FAILED, code_of
from perilune.serve.settings import Settings

if TYPE_CHECKING:  # loaded with the first picture, and with the first address
    from perilune.chat.media.reader import MediaReader, MediaRequest
    from perilune.search.web.net_guard import NetGuard

_WEB = re.compile(r"\s*https?:", re.IGNORECASE)
_NUMBERED = re.compile(r"media\[([0-9]{1,6})\]")
_DATA = re.compile(r"data:", re.IGNORECASE)
MOST_FETCHES = 8  # at once, of all requests


def limits_of(settings: Settings) -> MediaLimits:
    """Raises UsageError for bounds that nothing could keep."""
    return MediaLimits(
        image_bytes=settings.max_image_bytes,
        video_bytes=settings.max_video_bytes,
        pixels=settings.max_image_pixels,
        images=settings.max_images,
        videos=settings.max_videos,
        video_seconds=settings.max_video_seconds,
    )


class Decoded:
    """Digests of the latest items that an engine has decoded once: they hold no surprise."""

    def __init__(self, most: int = 65_536) -> None:
        self._most = most
        self._digests: OrderedDict[str, None] = OrderedDict()

    def has_all(self, spans: Iterable[MediaSpan]) -> bool:
        return all(span.item.digest in self._digests for span in spans)

    def add(self, spans: Iterable[MediaSpan]) -> None:
        for span in spans:
            self._digests[span.item.digest] = None
            self._digests.move_to_end(span.item.digest)
        while len(self._digests) > self._most:
            self._digests.popitem(last=False)


class MediaAdmission:
    """The bounds of a server for pictures and clips. Use it from one event loop."""

    def __init__(
        self,
        settings: Settings,
        reader: MediaReader | None,
        *,
        guard: NetGuard | None = None,
    ) -> None:
        """`reader`: the engine's, of which the rule of the checkpoint is taken; None: no eyes.

        `guard`: which addresses may be reached. Raises UsageError for bounds that make no sense.
        """
        self.limits = limits_of(settings)
        self._settings = settings
        self._guard = guard
        self._processing = None if reader is None else reader.processing
        self._fetches = asyncio.Semaphore(MOST_FETCHES)
        self.decoded = Decoded()

    @property
    def eyes(self) -> bool:
        """Whether the model sees."""
        return self._processing is not None

    async def opener(
        self, messages: Sequence[Mapping[str, Any]], family: str
    ) -> PartsOpener | None:
        """What opens the parts of a conversation; None where it has none.

        Everything that can be known without a picture's bytes is checked here, and addresses are
        fetched. `family`: of the model, for the refusal of one without eyes. Raises ApiError.
        """
        parts = list(media_parts(messages))
        if not parts:
            return None
        if not self.eyes:
            kind, _, place = parts[0]
            raise refusal(no_vision(kind, family, place), kind)
        request = PartsOpener(self._reader({}))
        kinds = [kind for kind, _, _ in parts]
        request.check_count(kinds.count("image"), kinds.count("video"))
        addresses: dict[tuple[str, MediaKind], str] = {}
        for kind, url, place in parts:
            if _WEB.match(url):
                if not self._settings.allow_media_urls:
                    raise _refused(kind, place, "this server fetches nothing; send a data: URL")
                addresses.setdefault((url, kind), place)
            elif not _DATA.match(url) and self._settings.media_folder is None:
                raise _refused(kind, place, "only data: URLs are taken here")
        if addresses:
            request.reader = self._reader(await self._fetch_all(addresses))
        return request

    def _reader(self, fetched: Mapping[tuple[str, MediaKind], bytes]) -> MediaReader:
        from perilune.chat.media.reader import MediaReader

        folder = self._settings.media_folder
        files = None if folder is None else LocalFiles(folder)
        left = self._settings.max_body_bytes

        def resolve(address: str, kind: MediaKind, most: int) -> bytes:
            nonlocal left
            if (data := fetched.get((address, kind))) is not None:
                return data
            if files is None or _WEB.match(address):
                raise MediaError(MediaFault.SOURCE, "only data: URLs are taken here")
            data = files(address, kind, min(most, left))
            left -= len(data)
            return data

        return MediaReader(self._processing, self.limits, resolve=resolve)

    # --- addresses ---------------------------------------------------------------------------

    async def _fetch_all(
        self, addresses: Mapping[tuple[str, MediaKind], str]
    ) -> dict[tuple[str, MediaKind], bytes]:
        """Each address once, one after the other.

        Together they may have as many bytes as a request may send itself, and as much time as one
        of the agent's web tools has.
        """
        left = self._settings.max_body_bytes
        fetched: dict[tuple[str, MediaKind], bytes] = {}
        seconds = self._settings.media_seconds
        kind, place = next(iter(addresses))[1], ""
        try:
            async with asyncio.timeout(seconds):
                for (url, kind), place in addresses.items():
                    async with self._fetches:
                        data = await self._fetch(url, kind, place, left, seconds)
                    left -= len(data)
                    fetched[url, kind] = data
        except TimeoutError:
            raise _failed(kind, place, f"its address took longer than {seconds:g} s") from None
        return fetched

    async def _fetch(
        self, url: str, kind: MediaKind, place: str, left: int, seconds: float
    ) -> bytes:
        from perilune.search.web.http import GuardedClient

        own = self.limits.image_bytes if kind == "image" else self.limits.video_bytes
        client = GuardedClient(self._guard, most_bytes=min(own, left), seconds=seconds)
        try:
            page = await client.get(url, headers={"Accept": f"{kind}/*"})
        except ToolError as error:
            # The reason stays here: it would tell a stranger how places of this network resolve,
            # and which of its machines answer. The log gets no address, which may hold a secret.
            why = "the guard refused" if str(error).startswith("refused") else "no answer"
            raise _failed(kind, place, "its address could not be fetched", why) from None
        if page.status != 200:
            raise _failed(kind, place, f"its address answers with status {page.status}")
        return page.body


class PartsOpener:
    """`MediaOpener` of one request: opens its parts in order, and words faults for its API.

    `places`: where each file stood first, as the client wrote it, by the digest of its first item.
    """

    def __init__(self, reader: MediaReader) -> None:
        self.reader = reader
        self.places: dict[str, str] = {}
        self._request: MediaRequest | None = None

    def check_count(self, images: int, videos: int) -> None:
        """Raises ApiError for more of them than are taken."""
        try:
            self.reader.request().check_count(images, videos)
        except MediaError as error:
            most = self.reader.limits.images
            raise refusal(error, "image" if images > most else "video") from None

    def open(self, part: Mapping[str, Any], kind: MediaKind, place: str) -> OpenMedia:
        """A part, its header read. Raises ApiError that places the part as the client wrote it."""
        if self._request is None:
            self._request = self.reader.request()
        place = str(part.get(PLACE, place))
        try:
            media = self._request.open(part, kind, place)
        except MediaError as error:
            raise refusal(error, kind) from None
        self.places.setdefault(media.items[0].digest, place)
        return media


def refusal(error: MediaError, kind: MediaKind) -> ApiError:
    """A fault of a picture or clip as what a client is told."""
    return invalid(str(error), error.place or "messages", code_of(error.kind, kind))


def _refused(kind: MediaKind, place: str, why: str) -> ApiError:
    return invalid(f"{place}: {why}", place, code_of(MediaFault.SOURCE, kind))


def _failed(kind: MediaKind, place: str, why: str, detail: str = "") -> ApiError:
    error = invalid(f"{place}: {why}", place, FETCH_FAILED.replace("image", kind))
    error.detail = detail
    return error


def placed(error: ApiError, spans: Sequence[MediaSpan], places: Mapping[str, str]) -> ApiError:
    """An engine's fault of an item, `media[0]`, as one of the part that the client wrote."""
    number = _NUMBERED.fullmatch(error.param or "")
    if number is None:
        return error
    error.param = "messages"
    if int(number[1]) < len(spans):
        media = spans[int(number[1])].media
        error.param = places.get(media.items[0].digest, "messages")
        error.code = code_of(MediaFault.DAMAGED, media.kind)
    error.message = f"{error.param}: {error.message}"
    return error
