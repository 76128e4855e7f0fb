"""What an engine core is told and what it says: commands in, events out, as `wire.py` packs them.

Plain values only, so that server and trainer can speak to a core without loading it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from perilune.engine.media import RequestMedia
from perilune.engine.metrics import EngineStatus
from perilune.engine.outputs import SequenceOutput
from perilune.engine.request import OutputFormat, Tools
from perilune.engine.sampling_params import SamplingParams
from perilune.errors import RequestError


@dataclass(frozen=True, slots=True)
class Add:
    """Queue a request. The fields are those of `Engine.add_request`."""

    request_id: str
    prompt: Sequence[int]
    params: SamplingParams
    priority: int = 0
    cache_salt: str = ""
    output: OutputFormat = OutputFormat.TOKENS
    thinking: bool = True
    tools: Tools | None = None
    media: RequestMedia | None = None


@dataclass(frozen=True, slots=True)
class Cancel:
    request_id: str


@dataclass(frozen=True, slots=True)
class EndThinking:
    """Close the thinking of a request at its next token."""

    request_id: str


@dataclass(frozen=True, slots=True)
class Stop:
    """End the loop; what is under way is cancelled without a word."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """A request is queued: from here on it cannot be refused any more."""

    request_id: str


@dataclass(frozen=True, slots=True)
class Outputs:
    """What a step brought, and how the engine stands after it."""

    outputs: Sequence[SequenceOutput]
    status: EngineStatus


@dataclass(frozen=True, slots=True)
class Refused:
    """A request was not taken: the parts of a RequestError."""

    request_id: str
    message: str
    param: str | None = None
    remedy: str = ""
    code: str = RequestError.code


@dataclass(frozen=True, slots=True)
class Died:
    """The loop has ended with an error; nothing comes after this. `reason`: see `life.Ended`."""

    cause: str
    reason: str = "error"


@dataclass(frozen=True, slots=True)
class Loading:
    """How far a load has come. `done` and `total` in bytes of weights, `seconds` since its start.

    phase: "weights", then "preparing", where they are brought into the form that is computed with.
    """

    phase: str
    done: int
    total: int
    seconds: float

    @property
    def rate(self) -> float:
        """Bytes a second so far."""
        return self.done / self.seconds if self.seconds > 0 else 0.0

    @property
    def seconds_left(self) -> float | None:
        """None until something has been read."""
        return (self.total - self.done) / self.rate if self.rate > 0 else None


Command = Add | Cancel | EndThinking | Stop
Event = Accepted | Outputs | Refused | Died | Loading
