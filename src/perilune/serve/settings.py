"""Every option of the server, its default and its bounds, in one place.

The command line, the environment, the configuration file and the table in the docs are made from
these fields. Those of the engine are its own (`engine.options`): they are embedded, and stand in
the flat list (`option_fields`) where `engine` does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any, Self, get_type_hints

from perilune.chat.media.limits import PILLOW_PIXELS, MediaLimits
from perilune.engine.options import EngineOptions

_MEDIA = MediaLimits()


def _option(text: str, **more: Any) -> dict[str, Any]:
    return {"help": text, **more}


@dataclass(frozen=True, slots=True)
class Settings:
    """How a server behaves. `least` and `most` in the metadata bound a number."""

    # connections
    host: str = field(
        default="127.0.0.1", metadata=_option("Address to listen on. A public one needs a key.")
    )
    port: int = field(
        default=8000, metadata=_option("Port; 0 takes a free one.", least=0, most=65535)
    )
    api_key: tuple[str, ...] = field(
        default=(), metadata=_option("A key that clients must show. Repeatable.", secret=True)
    )
    api_key_file: Path | None = field(
        default=None,
        metadata=_option(
            "File of keys, one a line: `KEY`, `NAME=KEY` or `NAME=sha256:HEX`; # comments."
        ),
    )
    allowed_host: tuple[str, ...] = field(
        default=(),
        metadata=_option("Another Host header to accept, such as that of a proxy. Repeatable."),
    )
    cors_origin: tuple[str, ...] = field(
        default=(),
        metadata=_option("An origin whose pages may call this server. Repeatable. Default: none."),
    )
    max_body_bytes: int = field(
        default=32 * 2**20, metadata=_option("Largest request body.", least=1024, most=2**30)
    )
    body_seconds: float = field(
        default=30.0,
        metadata=_option(
            "A request body must have arrived after this time.", least=0.1, most=3600.0
        ),
    )

    # the model
    served_model_name: tuple[str, ...] = field(
        default=(),
        metadata=_option(
            "Names that clients use; the first is the one in answers. Repeatable. "
            "Default: that of the folder."
        ),
    )
    any_model_name: bool = field(
        default=False,
        metadata=_option("Requests for models of other names are answered too, not a 404."),
    )
    isolation: str = field(
        default="process",
        metadata=_option("Where the engine runs: process (survives its crash) or thread."),
    )
    engine: EngineOptions = field(default_factory=EngineOptions)

    # limits
    max_queue: int = field(
        default=256,
        metadata=_option("Answers that may wait for a place; more get 429.", least=0, most=100_000),
    )
    max_n: int = field(
        default=8, metadata=_option("Answers of one request, at most.", least=1, most=128)
    )
    max_output_tokens: int | None = field(
        default=None,
        metadata=_option(
            "Tokens of one answer, at most. Default: the context.", least=1, most=2**24
        ),
    )
    key_requests_per_minute: int | None = field(
        default=None, metadata=_option("Requests per minute of one key.", least=1, most=10**9)
    )
    key_tokens_per_minute: int | None = field(
        default=None,
        metadata=_option("Tokens (prompt and answer) per minute of one key.", least=1, most=10**12),
    )
    key_concurrent_requests: int | None = field(
        default=None, metadata=_option("Requests of one key at once.", least=1, most=10**6)
    )
    drain_seconds: float = field(
        default=30.0,
        metadata=_option(
            "Time for requests under way when the server is told to end.", least=0.0, most=3600.0
        ),
    )
    ping_seconds: float = field(
        default=15.0,
        metadata=_option("A silent stream sends a comment this often.", least=0.1, most=3600.0),
    )

    # pictures and clips
    allow_media_urls: bool = field(
        default=False,
        metadata=_option("Fetch pictures and clips that requests name by an http(s) address."),
    )
    media_folder: Path | None = field(
        default=None,
        metadata=_option("Requests may name pictures and clips below this folder. Default: none."),
    )
    media_seconds: float = field(
        default=30.0,
        metadata=_option(
            "Addresses of one request must have been fetched after this time.",
            least=0.1, most=600.0,
        ),
    )  # fmt: skip
    max_image_bytes: int = field(
        default=_MEDIA.image_bytes,
        metadata=_option("Bytes of one picture, at most.", least=1024, most=2**30),
    )
    max_image_pixels: int = field(
        default=_MEDIA.pixels,
        metadata=_option("Pixels of one picture, at most.", least=1, most=PILLOW_PIXELS),
    )
    max_images: int = field(
        default=_MEDIA.images,
        metadata=_option("Pictures of one request, at most.", least=1, most=10_000),
    )
    max_video_bytes: int = field(
        default=_MEDIA.video_bytes,
        metadata=_option("Bytes of one clip, at most.", least=1024, most=2**30),
    )
    max_video_seconds: float = field(
        default=_MEDIA.video_seconds,
        metadata=_option("Length of one clip in seconds, at most.", least=0.1, most=86_400.0),
    )
    max_videos: int = field(
        default=_MEDIA.videos,
        metadata=_option("Clips of one request, at most.", least=1, most=1000),
    )

    # how the APIs answer
    strict_params: bool = field(
        default=False, metadata=_option("Unknown request fields are an error, not ignored.")
    )
    kimi_strict: bool = field(
        default=False,
        metadata=_option("Refuse what Moonshot's vendor rules refuse."),
    )
    json_whitespace: bool = field(
        default=False,
        metadata=_option("Let the model put white space and line breaks into constrained JSON."),
    )
    reasoning_alias: bool = field(
        default=False,
        metadata=_option("Send thinking as `reasoning` too, beside `reasoning_content`."),
    )
    metrics_prefix: str = field(
        default="perilune:",
        metadata=_option("Prefix of metric names; `vllm:` fits existing dashboards."),
    )
    request_log: bool = field(
        default=True, metadata=_option("A line for each request, never with content.")
    )
    json: bool = field(default=False, metadata=_option("Log as JSON lines."))

    def __post_init__(self) -> None:
        names: object = self.served_model_name
        if isinstance(names, str):  # one name, as older callers give it
            object.__setattr__(self, "served_model_name", (names,))

    @classmethod
    def from_options(cls, values: Mapping[str, Any]) -> Self:
        """From the flat names of the command line and of files; what is left out has its default.

        Raises TypeError for a name that does not exist.
        """
        known = {each.name for each in fields(EngineOptions) if each.metadata}
        engine = {name: value for name, value in values.items() if name in known}
        own = {name: value for name, value in values.items() if name not in known}
        return cls(**own, engine=EngineOptions(**engine))


def option_fields() -> Iterator[tuple[Field[Any], Any]]:
    """(field, type) of every option by its flat name, in the order in which they are shown."""
    hints, inner = get_type_hints(Settings), get_type_hints(EngineOptions)
    for each in fields(Settings):
        if each.name != "engine":
            yield each, hints[each.name]
            continue
        # A field of the engine without a word for users is none of the server's options.
        yield from ((one, inner[one.name]) for one in fields(EngineOptions) if one.metadata)
