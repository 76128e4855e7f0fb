"""Writes messages as token ids: the only place that makes special tokens.

Every text that comes from outside is encoded as ordinary text, so that nobody can type a token
that structures the conversation, a picture's pad among them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from perilune.chat.media.items import MediaKind, MediaOpener, MediaSpan, OpenMedia
from perilune.chat.messages import Media, Message, ToolCall
from perilune.errors import MediaError, MediaFault

if TYPE_CHECKING:
    from perilune.chat.format import ChatFormat

VIDEO_PLACEHOLDER = "<|kimi_k25_video_placeholder|>"


@dataclass(frozen=True, slots=True)
class MediaPlaceholder:
    """Where a part that was not opened stands in a prompt: ids[position : position + length].

    An image is one `<|media_pad|>`, to be repeated for its patches; a video is the ids of the
    placeholder text, to be replaced by its frames. Go by position: a user may spell that text.
    """

    media: Media
    position: int
    length: int


@dataclass(frozen=True, slots=True)
class Prompt:
    """An encoded conversation.

    `spans` are the pads of pictures and clips that were opened, in order, one span an item;
    `media` are the parts that were not, because `render` was given nothing to open them with.
    """

    ids: list[int]
    media: tuple[MediaPlaceholder, ...] = ()
    spans: tuple[MediaSpan, ...] = ()

    @property
    def media_tokens(self) -> int:
        """How many of the ids are pads of opened pictures and clips."""
        return sum(span.length for span in self.spans)


def no_vision(kind: MediaKind, reader: str, place: str = "") -> MediaError:
    """The refusal of a picture or clip by a model that reads text only."""
    return MediaError(
        MediaFault.NO_VISION,
        f"the conversation holds {'an image' if kind == 'image' else 'a video'}, and {reader} "
        "reads text only",
        remedy="Use a K2.5 checkpoint with its vision tower, or describe it in words",
        place=place,
    )


class PromptWriter:
    """Writes messages as ids; text between two special tokens is encoded in one piece.

    `opener` opens pictures and clips; without one they get a placeholder.
    """

    def __init__(self, chat: ChatFormat, opener: MediaOpener | None = None) -> None:
        self._chat = chat
        self._opener = opener
        self._ids: list[int] = []
        self._text: list[str] = []
        self._media: list[MediaPlaceholder] = []
        self._spans: list[MediaSpan] = []

    def finish(self) -> Prompt:
        self._flush()
        return Prompt(self._ids, tuple(self._media), tuple(self._spans))

    def text(self, text: str) -> None:
        self._text.append(text)

    def special(self, field: str) -> None:
        self._flush()
        self._ids.append(self._chat._special(field))

    def header(self, role_token: str, name: str) -> None:
        self.special(role_token)
        self.text(name)
        self.special("im_middle")

    def message(self, message: Message) -> None:
        self.header("im_user" if message.role == "user" else "im_system", message.name)
        if message.role == "tool":
            self.text(f"## Return of {message.tool_call_id}\n")
        self._content(message.content)
        self.special("im_end")

    def assistant(self, message: Message, reasoning: str) -> None:
        self.header("im_assistant", message.name)
        self._body(message, reasoning)
        self.special("im_end")

    def partial(self, message: Message, thinks: bool) -> None:
        """The turn to be continued: in its answer, or in its reasoning where it has no answer."""
        self.header("im_assistant", message.name)
        reasoning = message.reasoning if thinks else ""
        if message.content:
            self._body(message, reasoning)
        elif reasoning and self._chat.template.has_thinking:
            self.special("think")
            self.text(reasoning)
        else:
            self.start_of_turn(thinks)

    def start_of_turn(self, thinks: bool) -> None:
        """What the prompt writes of the turn to be generated, after its header."""
        if self._chat.template.can_switch_thinking:
            self.special("think")
            if not thinks:
                self.special("end_think")

    def _body(self, message: Message, reasoning: str) -> None:
        if self._chat.template.has_thinking:
            self.special("think")
            self.text(reasoning)
            self.special("end_think")
        self._content(message.content)
        if message.tool_calls:
            self._tool_calls(message.tool_calls)

    def _tool_calls(self, calls: Sequence[ToolCall]) -> None:
        self.special("tool_calls_section_begin")
        for call in calls:
            self.special("tool_call_begin")
            self.text(call.id)
            self.special("tool_call_argument_begin")
            self.text(call.arguments)
            self.special("tool_call_end")
        self.special("tool_calls_section_end")

    def _content(self, content: Sequence[str | Media]) -> None:
        for part in content:
            if isinstance(part, str):
                self.text(part)
            else:
                self._part(part)

    def _part(self, media: Media) -> None:
        if not self._chat.reads_media:
            raise no_vision(media.kind, str(self._chat.family), media.place)
        if self._opener is not None:
            self._open(self._opener.open(media.part, media.kind, media.place))
        elif media.kind == "video":
            self._flush()
            ids = self._chat.tokenizer.encode(VIDEO_PLACEHOLDER)
            self._media.append(MediaPlaceholder(media, len(self._ids), len(ids)))
            self._ids.extend(ids)
        else:
            self._begin("image")
            self._media.append(MediaPlaceholder(media, len(self._ids), 1))
            self._end(1)
        if media.kind == "image" or self._chat.template.newline_after_video:
            self.text("\n")

    def _open(self, media: OpenMedia) -> None:
        """A picture, or the chunks of a clip, each with the time of its first frame."""
        for index, item in enumerate(media.items):
            self.text(item.timestamp)
            self._begin(item.kind)
            self._spans.append(MediaSpan(len(self._ids), item.tokens, media, index))
            self._end(item.tokens)

    def _begin(self, kind: MediaKind) -> None:
        self.special("media_begin")
        self.text(kind)
        self.special("media_content")

    def _end(self, pads: int) -> None:
        self._ids.extend([self._chat._special("media_pad")] * pads)
        self.special("media_end")

    def _flush(self) -> None:
        if self._text:
            self._ids.extend(self._chat.tokenizer.encode("".join(self._text)))
            self._text.clear()
