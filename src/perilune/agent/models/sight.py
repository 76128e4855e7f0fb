"""A server's refusal of pictures, in any words: has the model no eyes, or is their place wrong?

The wordings are those of servers, collected in the test of this file. They are looked at only when
the request that was refused had pictures, so that a quotation in an error means nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

STATUSES = frozenset({0, 400, 404, 405, 415, 422, 500, 501})
"""With which they come: OpenRouter says 404, llama.cpp 500, inside a stream there is none."""

_KIND = r"(?:image|images|vision|multi-?modal(?:ity)?|visual|picture|pictures)"
_NO_VISION = re.compile(
    rf"""
      (?:does|do)\ ?n[o']t\ (?:currently\ )?(?:support|accept|have|handle)\b[^.]{{0,40}}\b{_KIND}
    | \b{_KIND}(?:[ _-](?:input|inputs|content|url|urls|data|parts?|modality|understanding))*
        \ (?:is|are)\ (?:currently\ )?not\ (?:supported|allowed|enabled|available)
    | no\ endpoints?\ found\ that\ support\ image
    | image_url\ is\ only\ supported\ by\ certain\ models
    | \breads\ text\ only\b                            # ours
    | is\ not\ a\ (?:multimodal|vision)\ model | (?:is\ a\ )?text-only\ model
    | at\ most\ 0\ images?
    | need\ to\ provide\ the\ mmproj | missing\ data\ required\ for\ image\ input
    | {_KIND}[ _](?:input|content)s?\ (?:un|not\ )supported
    | unsupported\ {_KIND}[ _](?:input|content)
    | unexpected\ item\ type\ in\ content
    | multimodal\ is\ not\ (?:supported|enabled)
    | 'role:user'[^\[]*\[\('messages\.\d+\.content'\ :\ value\ must\ be\ a\ string
    | validation\ errors?\ for\ usermessage
    """,
    re.VERBOSE,
)
_IN_A_TOOL = re.compile(
    r"""
      only\ allowed\ for\ messages\ with\ role\ '?user
    | 'role:tool'[^\[]*\[\('messages\.\d+\.content'\ :\ value\ must\ be\ a\ string
    | validation\ errors?\ for\ toolmessage
    | (?:tool|function)(?:[ _](?:message|result|role))?s?\b[^.]{0,60}
        \b(?:image|content)[^.]{0,40}
        \b(?:must\ be\ a\ string|text\ only|only\ text|not\ (?:supported|allowed))
    """,
    re.VERBOSE,
)
_BEHIND_A_TOOL = re.compile(r"unexpected role '?user'? after role '?tool")
# The place is not said: it may be the tool's message, or any.
_SOMEWHERE = re.compile(
    r"""
      unknown\ variant\ `image_url`,\ expected\ `text`
    | unsupported\ content\[\]\.type | invalid\ content\ type
    | content[^.]{0,40}\b(?:must|should)\ be\ a(?:\ valid)?\ string
    | expected\ (?:a\ )?string,?\ (?:but\ )?(?:got|received|found)\ (?:an?\ )?(?:array|list)
    | invalid\ type:\ sequence,\ expected\ a\ string
    """,
    re.VERBOSE,
)
_COUNTS = tuple(
    re.compile(pattern)
    for pattern in (
        r"at most (\d+) images?\(?s?\)? may be provided",
        r"(?:maximum|max|at most|up to|limit of)(?: of)? (\d+) images?\b",
        r"(?:too many|number of) images[^.]*?(?:maximum|max|limit|at most|up to|<=)\D{0,20}(\d+)",
        r"has [\d,]+ pictures, and at most (\d+) are taken",
    )
)

SightKind = Literal["no_vision", "tool_pictures", "pictures"]


@dataclass(frozen=True, slots=True)
class Refused:
    """`tool_pictures`: not in this place, or perhaps so; `pictures`: more than `most` of them."""

    kind: SightKind
    most: int | None = None


def read_refusal(status: int, words: str) -> Refused | None:
    """What a refusal (in small letters) says of pictures; None for nothing."""
    if status not in STATUSES:
        return None
    for pattern in _COUNTS:
        if (match := pattern.search(words)) and (most := int(match[1][:6])) > 0:
            return Refused("pictures", most)
    if _IN_A_TOOL.search(words) or _BEHIND_A_TOOL.search(words):
        return Refused("tool_pictures")
    if _NO_VISION.search(words):
        return Refused("no_vision")
    return Refused("tool_pictures") if _SOMEWHERE.search(words) else None


def is_about_order(words: str) -> bool:
    """Whether a user's message behind a tool's is what is refused."""
    return _BEHIND_A_TOOL.search(words.lower()) is not None
