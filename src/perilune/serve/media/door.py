"""Opens the pictures and clips of a request: what it may bring, and where they may come from.

Data URIs are always taken. Addresses are fetched, and files read, only where the operator allows
it, before the conversation is written: through the guard that the agent's web tools have, so that
no request reaches this machine or its network.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from perilune.chat.media import MediaKind, MediaLimits, MediaProcessing
from perilune.chat.media.items import OpenMedia
from perilune.chat.media.sources import LocalFiles
from perilune.chat.prompt import no_eyes
from perilune.errors import MediaError, MediaFault, ToolError
from perilune.serve.api_error import ApiError, invalid
from perilune.serve.media.parts import PLACE, media_parts
from perilune.serve.media_faults import FETCH_FAILED, code_of
from perilune.serve.settings import Settings

if TYPE_CHECKING:  # loaded with the first picture, and with the first address
    from perilune.chat.media.reader import MediaReader, MediaRequest
    from perilune.search.web.net_guard import NetGuard

_WEB = re.compile(r"\s*https?:", re.IGNORECASE)
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


class MediaDoor:
    """The bounds of a server for pictures and clips. Use it from one event loop."""

    def __init__(
        self,
        settings: Settings,
        processing: MediaProcessing | None = None,
        *,
        guard: NetGuard | None = None,
    ) -> None:
        """`processing`: the rule of the checkpoint. `guard`: which addresses may be reached."""
        self.limits = limits_of(settings)
        self._settings = settings
        self._guard = guard
        self._processing = processing or MediaProcessing()
        self._fetches = asyncio.Semaphore(MOST_FETCHES)

    async def opener(
        self, messages: Sequence[Mapping[str, Any]], *, eyes: bool, family: str
    ) -> RequestMedia | None:
        """What opens the parts of a conversation; None where it has none.

        Everything that can be known without a picture's bytes is checked here, and addresses are
        fetched. `eyes`: whether the model sees. Raises ApiError.
        """
        parts = list(media_parts(messages))
        if not parts:
            return None
        if not eyes:
            kind, _, place = parts[0]
            raise refusal(no_eyes(kind, family, place), kind)
        request = RequestMedia(self._reader({}))
        kinds = [kind for kind, _, _ in parts]
        request.check_count(kinds.count("image"), kinds.count("video"))
        addresses = {}
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
            # The reason stays here: it would tell a stranger how names of this network resolve,
            # and which of its machines answer. The log gets no address, which may hold a secret.
            why = "the guard refused" if str(error).startswith("refused") else "no answer"
            raise _failed(kind, place, "its address could not be fetched", why) from None
        if page.status != 200:
            raise _failed(kind, place, f"its address answers with status {page.status}")
        return page.body


class RequestMedia:
    """`MediaOpener` of one request: opens its parts in order, and words faults for its API."""

    def __init__(self, reader: MediaReader) -> None:
        self.reader = reader
        self._request: MediaRequest | None = None

    def check_count(self, images: int, videos: int) -> None:
        """Raises ApiError for more of them than are taken."""
        try:
            self.reader.request().check_count(images, videos)
        except MediaError as error:
            most = self.reader.limits.images
            raise refusal(error, "image" if images > most else "video") from None

    def open(self, part: Mapping[str, Any], kind: MediaKind, place: str) -> OpenMedia:
        """A part, its header read. Raises ApiError that names the part as the client wrote it."""
        if self._request is None:
            self._request = self.reader.request()
        place = str(part.get(PLACE, place))
        try:
            media = self._request.open(part, kind, place)
        except MediaError as error:
            raise refusal(error, kind) from None
        return _placed(media, place)


def _placed(media: OpenMedia, place: str) -> OpenMedia:
    """The same, whose faults of decoding name the part too."""
    load = media._load

    def placed(wanted: Any) -> Any:
        try:
            yield from load(wanted)
        except MediaError as error:
            raise error.at(error.place or place) from None

    return replace(media, _load=placed)


def refusal(error: MediaError, kind: MediaKind) -> ApiError:
    """A fault of a picture or clip as what a client is told."""
    return invalid(str(error), error.place or "messages", code_of(error.kind, kind))


def _refused(kind: MediaKind, place: str, why: str) -> ApiError:
    return invalid(f"{place}: {why}", place, code_of(MediaFault.SOURCE, kind))


def _failed(kind: MediaKind, place: str, why: str, detail: str = "") -> ApiError:
    error = invalid(f"{place}: {why}", place, FETCH_FAILED.replace("image", kind))
    error.detail = detail
    return error
