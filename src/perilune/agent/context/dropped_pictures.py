"""Which pictures of a run a view leaves out, and in which order: the oldest of tools first.

A person's pictures are the task (a mock-up, say), so they go last.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from perilune.agent.context.view import PERSONS
from perilune.agent.journal.state import RunState, View
from perilune.agent.pictures.part import Picture, pictures_of
from perilune.chat.media import MediaLimits

MOST_PICTURES = MediaLimits().images
"""Of one prompt: what our own server takes of a request."""
MOST_BYTES = 32 << 20
"""Of all pictures of one prompt; as base64 a third more, within the usual limits of a request."""


def droppable(state: RunState) -> list[View]:
    """Views with ever fewer pictures, the fullest first; none of them leaves out the latest."""
    places = list(_shown_places(state, state.view))
    if not places:
        return []
    latest = max(places)
    tools = [i for i in places if i != latest and state.origins[i] not in PERSONS]
    given = [i for i in places if i != latest and state.origins[i] in PERSONS]
    views = [msgspec.structs.replace(state.view, pictures_before=i + 1) for i in tools]
    base = views[-1] if views else state.view
    return views + [msgspec.structs.replace(base, given_before=i + 1) for i in given]


def within_limits(state: RunState, most: int) -> View | None:
    """A view with far fewer pictures where there are more than `most`, or of too many bytes.

    Half of the limit, so that the prompt's beginning does not change at each step. None where there
    is nothing to leave out.
    """
    if _fits(state, state.view, most, MOST_BYTES):
        return None
    views = droppable(state)
    half = max(1, most // 2)
    fitting = (view for view in views if _fits(state, view, half, MOST_BYTES // 2))
    return next(fitting, views[-1] if views else None)


def shown_pictures(state: RunState, view: View) -> list[Picture]:
    """The pictures that a model with eyes is shown."""
    places = _shown_places(state, view)
    return [each for i in places for each in pictures_of(state.messages[i].get("content"))]


def _fits(state: RunState, view: View, most: int, most_bytes: int) -> bool:
    shown = shown_pictures(state, view)
    return len(shown) <= most and sum(each.bytes for each in shown) <= most_bytes


def _shown_places(state: RunState, view: View) -> Iterator[int]:
    for i, (message, origin) in enumerate(zip(state.messages, state.origins, strict=True)):
        if not pictures_of(message.get("content")):
            continue
        if origin in PERSONS:
            if i >= view.given_before:
                yield i
        elif i >= max(view.pictures_before, view.dropped_before, view.hidden_before):
            yield i
