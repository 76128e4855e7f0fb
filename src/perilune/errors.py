"""Typed errors of the public edge. Each names the cause and, where there is one, the remedy."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import ClassVar


class PeriluneError(Exception):
    """Base of every error that Perilune raises on purpose.

    `message` says what is wrong, `remedy` what the reader can do about it (may be empty).
    `str(error)` holds both, so that an uncaught error is still useful. `code` is for programs: one
    word a class, which stays when the message changes (docs/errors.md).
    """

    code: ClassVar[str] = "error"

    def __init__(self, message: str, *, remedy: str = "") -> None:
        self.message = message
        self.remedy = remedy
        super().__init__(f"{message}. {remedy}" if remedy else message)


class UsageError(PeriluneError):
    """The caller asked for something that makes no sense; nothing was done."""

    code = "usage"


class DeviceError(UsageError):
    """A device is asked for that this machine does not have, or that cannot do what is asked."""


# --- checkpoints -----------------------------------------------------------------------------


class CheckpointError(PeriluneError):
    """A checkpoint folder cannot be used. Names the file and, where known, the tensor.

    `detail` is the message without file and tensor.
    """

    code = "checkpoint"
    default_remedy = ""

    def __init__(
        self,
        message: str,
        *,
        file: str | Path | None = None,
        tensor: str | None = None,
        remedy: str = "",
    ) -> None:
        self.file = None if file is None else Path(file)
        self.tensor = tensor
        self.detail = message
        where = "".join(
            [f"{self.file.name}: " if self.file else "", f"tensor {tensor}: " if tensor else ""]
        )
        super().__init__(where + message, remedy=remedy or self.default_remedy)


class ConfigError(CheckpointError):
    """`config.json` is missing, unreadable or contradicts itself."""

    code = "config"
    default_remedy = "Restore the published config.json of the checkpoint"


class UnsupportedArchitectureError(ConfigError):
    """The checkpoint is of a model family that Perilune does not implement."""

    code = "unsupported_architecture"
    default_remedy = "Use a Kimi K2, K2 Thinking, K2.5 or K2.6 checkpoint"


class UnsafeFileError(CheckpointError):
    """The folder holds something that would have to be executed or unpickled. It never is."""

    code = "unsafe_file"
    default_remedy = "Get the folder again, from its publisher, as safetensors"


class ConfigWarning(UserWarning):
    """A field of `config.json` is not known, or contradicts another that was taken instead."""

    def __init__(self, message: str, *, file: str | Path) -> None:
        self.message = message
        self.file = Path(file)
        super().__init__(f"{self.file.name}: {message}")


class UnsafeFileWarning(UserWarning):
    """Pickles or Python lie beside safetensors that were read; they were not touched.

    Published Kimi checkpoints ship such Python files, so they cannot be an error.
    """

    def __init__(self, message: str, *, file: str | Path) -> None:
        self.message = message
        self.file = Path(file)
        super().__init__(f"{self.file.name}: {message}")


class CorruptFileError(CheckpointError):
    """A file's bytes contradict its header, its index or its recorded hash."""

    code = "corrupt_file"
    default_remedy = "Download the file again and compare its sha256 with the published one"


class TensorMismatchError(CheckpointError):
    """A tensor is missing, surplus, or of the wrong dtype or shape."""

    code = "tensor_mismatch"
    default_remedy = "Use the config.json and the files of one and the same checkpoint"


class OutOfMemoryError(PeriluneError):
    """What was asked for does not fit, with the numbers; raised before the work starts."""

    code = "out_of_memory"


class DiskFullError(PeriluneError):
    """The files do not fit on the disk, with the numbers; what was there before is untouched."""

    code = "disk_full"


# --- chat ------------------------------------------------------------------------------------


class ChatError(PeriluneError):
    """A conversation or a tokenizer file cannot be turned into token ids.

    `param` is the place in the request that is at fault (`messages[2].content`), if there is one;
    the message begins with it.
    """

    code = "chat"

    def __init__(self, message: str, *, param: str | None = None, remedy: str = "") -> None:
        self.param = param
        super().__init__(f"{param}: {message}" if param else message, remedy=remedy)


class MediaFault(StrEnum):
    """What is wrong with a picture or a clip: `MediaError.kind`."""

    SOURCE = "source"  # the part names no bytes, or an address or a file that is not allowed
    ENCODING = "encoding"  # a data URI that is not base64
    EMPTY = "empty"  # no bytes
    BYTES = "bytes"  # more bytes than the limit
    COUNT = "count"  # more pictures or clips than the limit
    PIXELS = "pixels"  # more pixels than the limit
    SIDE = "side"  # a side longer than the limit
    ZERO_SIZE = "zero_size"  # a width or height of nothing
    FORMAT = "format"  # not one of the formats that are read
    WRONG_TYPE = "wrong_type"  # a clip as a picture, a picture as a clip, another declared type
    TRUNCATED = "truncated"  # the file ends before its end
    DAMAGED = "damaged"  # the file contradicts itself, or cannot be decoded
    POLYGLOT = "polyglot"  # the file is another file too
    WORK = "work"  # decoding would take far longer than its size says
    NO_FRAMES = "no_frames"  # a clip without a frame
    SECONDS = "seconds"  # a clip longer than the limit
    FRAMES = "frames"  # a clip of more frames than the limit
    PACKAGE = "package"  # what reads it is not installed
    NO_EYES = "no_eyes"  # the model reads text only


class MediaError(ChatError):
    """A picture or a clip is not taken; nothing of it was kept in memory.

    `kind` says what is wrong; `limit` is the number that was passed, where there is one; `place`
    names the part (`messages[2].content[1]`), once it is known.
    """

    def __init__(
        self,
        kind: MediaFault,
        message: str,
        *,
        remedy: str = "",
        limit: float | None = None,
        place: str = "",
    ) -> None:
        self.kind = kind
        self.limit = limit
        self.place = place
        self.detail = message
        super().__init__(f"{place}: {message}" if place else message, remedy=remedy)

    def at(self, place: str) -> MediaError:
        """The same fault, with the part of the conversation that has it."""
        return MediaError(self.kind, self.detail, remedy=self.remedy, limit=self.limit, place=place)


# --- engine ----------------------------------------------------------------------------------


class EngineError(PeriluneError):
    """The engine cannot do what was asked."""

    code = "engine"


class RequestError(EngineError):
    """One request is refused or failed; the others go on. `param` names the field at fault."""

    code = "bad_request"

    def __init__(self, message: str, *, param: str | None = None, remedy: str = "") -> None:
        self.param = param
        super().__init__(message, remedy=remedy)


class ExpertStoreError(EngineError):
    """The weights of experts could not be brought into memory. A step that needs them fails.

    `layer` and, where it is known, `expert` say which.
    """

    def __init__(
        self, message: str, *, layer: int, expert: int | None = None, remedy: str = ""
    ) -> None:
        self.layer, self.expert = layer, expert
        which = "experts" if expert is None else f"expert {expert}"
        super().__init__(f"{which} of layer {layer}: {message}", remedy=remedy)


class ContextLengthError(RequestError):
    """The prompt is longer than the model's context or the engine's cache."""

    code = "context_length_exceeded"


class GrammarError(RequestError):
    """A grammar, schema or pattern cannot be used, or the answer cannot go on under it."""

    code = "bad_grammar"


class MediaRequestError(RequestError):
    """A picture or clip that could not be decoded, found when its request was under way.

    What the header shows is a `MediaError` before that.
    """

    code = "bad_media"


def request_error(
    code: str, message: str, *, param: str | None = None, remedy: str = ""
) -> RequestError:
    """The refusal of a request that came as its parts, from another process or thread."""
    kinds = {kind.code: kind for kind in (ContextLengthError, GrammarError, MediaRequestError)}
    return kinds.get(code, RequestError)(message, param=param, remedy=remedy)


class EngineDeadError(EngineError):
    """The engine's worker died; the requests that were in flight are failed by name."""

    code = "engine_dead"


# --- agent -----------------------------------------------------------------------------------


class AgentError(PeriluneError):
    """An agent run cannot start or go on."""

    code = "agent"


class ToolError(AgentError):
    """A tool call failed; its message is what the model is shown."""

    code = "tool"


class SandboxError(AgentError):
    """The sandbox cannot be built or does not hold; nothing is run without it."""

    code = "sandbox"


# --- training --------------------------------------------------------------------------------


class TrainingError(PeriluneError):
    """A training run cannot go on; its last checkpoint is whole."""

    code = "training"


class DataError(TrainingError):
    """A data source failed, or a file of it is damaged."""

    code = "data"
