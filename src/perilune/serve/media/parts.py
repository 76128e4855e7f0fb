"""Parts of any API -> the chat room's image and video parts, with the place where they stood.

What comes out holds a URL as the client wrote it and nothing else of the client's part. Whether the
URL may be followed is not decided here (`admission`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from perilune.chat.media import MediaKind
from perilune.errors import MediaFault
from perilune.serve.api_error import invalid, unsupported
from perilune.serve.media_faults import code_of

PLACE = "place"
"""Key of a part that was read here: where the client wrote it, in the words of its API."""

KINDS: Mapping[str, MediaKind] = {
    "image_url": "image",  # OpenAI
    "image": "image",  # templates of transformers, Anthropic
    "input_image": "image",  # Responses
    "video_url": "video",  # Moonshot, vLLM
    "video": "video",
    "input_video": "video",
}
HARMLESS: Mapping[str, str] = {
    "detail": "a picture is always read at the size that the model was trained for",
    "uuid": "pictures are known again by their bytes",
    "cache_control": "pictures are known again by their bytes",
    "format": "the bytes say it",
    "mime_type": "the bytes say it",
    "filename": "says something to people",
    "title": "says something to people",
}
"""Fields of a part, or of the object with its URL, that are fine to ignore: why."""

REFUSED: Mapping[str, str] = {
    "max_pixels": "the size is the model's own rule",
    "min_pixels": "the size is the model's own rule",
    "resized_width": "the size is the model's own rule",
    "resized_height": "the size is the model's own rule",
    "fps": "two frames a second are read",
    "nframes": "two frames a second are read",
    "max_frames": "two frames a second are read",
    "start_offset": "a clip is read whole; cut it",
    "end_offset": "a clip is read whole; cut it",
    "video_start": "a clip is read whole; cut it",
    "video_end": "a clip is read whole; cut it",
}
"""Fields that would change what the model sees, and that nothing here does: why they are a 400."""

_STORED = "nothing is stored here; send the bytes as a data: URL"


def make_part(kind: MediaKind, url: str, place: str) -> dict[str, Any]:
    """A part for the chat room. Raises ApiError for the id of an upload."""
    if url[:40].lstrip().lower().startswith("ms://"):
        raise unsupported(place, _STORED)
    key = f"{kind}_url"
    return {"type": key, key: {"url": url}, PLACE: place}


def read_media(part: Mapping[str, Any], where: str) -> dict[str, Any] | None:
    """A part of a message in OpenAI's forms; None for what is no picture and no clip.

    The URL may be in an object or bare, under the part's type or the usual names of others. Raises
    ApiError (400).
    """
    name = part.get("type")
    kind = KINDS.get(name) if isinstance(name, str) else None
    if kind is None or not isinstance(name, str):
        return None
    if isinstance(part.get("source"), Mapping):
        return from_source(kind, part["source"], f"{where}.source")
    names = dict.fromkeys((name, f"{kind}_url", kind, "url"))
    key = next((each for each in names if part.get(each) is not None), f"{kind}_url")
    place, value = f"{where}.{key}", part.get(key)
    fields = value if isinstance(value, Mapping) else {}
    for holder in (part, fields):
        _check_fields(holder, place)
    if part.get("file_id") is not None or fields.get("file_id") is not None:
        raise unsupported(f"{where}.file_id", _STORED)
    url = fields.get("url") if isinstance(value, Mapping) else value
    if not isinstance(url, str):
        raise invalid(f"{place}: needs a url", where, code_of(MediaFault.SOURCE, kind))
    return make_part(kind, url, where)


def from_source(kind: MediaKind, source: Any, place: str) -> dict[str, Any]:
    """Anthropic's `source`: base64 or url. Raises ApiError (400)."""
    code = code_of(MediaFault.SOURCE, kind)
    if not isinstance(source, Mapping):
        raise invalid(f"{place}: must be an object", place, code)
    form = source.get("type")
    if form == "base64":
        names: Sequence[str] = ("media_type", "data")
    elif form == "url":
        names = ("url",)
    elif form == "file":
        raise unsupported(f"{place}.type", _STORED)
    else:
        raise invalid(f"{place}.type: {form!r:.60} is not base64 or url", place, code)
    for name in names:
        if not isinstance(source.get(name), str):
            raise invalid(f"{place}.{name}: must be text", f"{place}.{name}", code)
    if form == "url":
        return make_part(kind, source["url"], place)
    return make_part(kind, f"data:{source['media_type']};base64,{source['data']}", place)


def media_parts(messages: Sequence[Mapping[str, Any]]) -> Iterator[tuple[MediaKind, str, str]]:
    """(kind, URL, place) of every part that was read here, in order."""
    for message in messages:
        content = message.get("content")
        for part in content if isinstance(content, list) else ():
            if isinstance(part, Mapping) and PLACE in part:
                kind = KINDS[part["type"]]
                yield kind, part[f"{kind}_url"]["url"], part[PLACE]


def _check_fields(holder: Mapping[str, Any], place: str) -> None:
    for name, why in REFUSED.items():
        if holder.get(name) is not None:
            raise unsupported(f"{place}.{name}", why)
    detail = holder.get("detail")
    if detail is not None and not isinstance(detail, str):
        raise invalid(f"{place}.detail: must be text", place)
