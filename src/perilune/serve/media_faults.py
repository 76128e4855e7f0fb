"""What a client is told of a picture or clip that is not taken: one word for programs.

The words are those of OpenAI's own error codes for pictures (the SDK's `ResponseError.code`), where
there is one; a clip has the same ones with `video` for `image`.
"""

from __future__ import annotations

from collections.abc import Mapping

from perilune.chat.media import MediaKind
from perilune.errors import MediaFault

CODES: Mapping[MediaFault, str] = {
    MediaFault.SOURCE: "invalid_image_url",
    MediaFault.ENCODING: "invalid_base64_image",
    MediaFault.EMPTY: "empty_image_file",
    MediaFault.BYTES: "image_file_too_large",
    MediaFault.COUNT: "too_many_images",
    MediaFault.PIXELS: "image_too_large",
    MediaFault.SIDE: "image_too_large",
    MediaFault.ZERO_SIZE: "image_too_small",
    MediaFault.FORMAT: "invalid_image_format",
    MediaFault.WRONG_TYPE: "unsupported_image_media_type",
    MediaFault.TRUNCATED: "image_parse_error",
    MediaFault.DAMAGED: "image_parse_error",
    MediaFault.POLYGLOT: "invalid_image",
    MediaFault.WORK: "invalid_image",
    MediaFault.NO_FRAMES: "image_parse_error",
    MediaFault.SECONDS: "image_too_long",
    MediaFault.FRAMES: "image_too_long",
    MediaFault.PACKAGE: "unsupported_media",
    MediaFault.NO_VISION: "unsupported_media",
}
FETCH_FAILED = "failed_to_download_image"  # an address that was allowed, and gave nothing


def code_of(fault: MediaFault, kind: MediaKind = "image") -> str:
    """The `code` of a refusal; its status is 400 in every API."""
    return CODES[fault].replace("image", kind)
