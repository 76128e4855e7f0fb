"""Typed errors of the public edge. Each names the cause and, where there is one, the remedy."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path


class PeriluneError(Exception):
    """Base of every error that Perilune raises on purpose.

    `message` says what is wrong, `remedy` what the reader can do about it (may be empty).
    `str(error)` holds both, so that an uncaught error is still useful.
    """

    def __init__(self, message: str, *, remedy: str = "") -> None:
        self.message = message
        self.remedy = remedy
        super().__init__(f"{message}. {remedy}" if remedy else message)


class UsageError(PeriluneError):
    """The caller asked for something that makes no sense; nothing was done."""


# --- checkpoints -----------------------------------------------------------------------------


class CheckpointError(PeriluneError):
    """A checkpoint folder cannot be used. Names the file and, where known, the tensor.

    `detail` is the message without file and tensor.
    """

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

    default_remedy = "Restore the published config.json of the checkpoint"


class UnsupportedArchitectureError(ConfigError):
    """The checkpoint is of a model family that Perilune does not implement."""

    default_remedy = "Use a Kimi K2, K2 Thinking, K2.5 or K2.6 checkpoint"


class UnsafeFileError(CheckpointError):
    """The folder holds something that would have to be executed or unpickled. It never is."""

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

    default_remedy = "Download the file again and compare its sha256 with the published one"


class TensorMismatchError(CheckpointError):
    """A tensor is missing, surplus, or of the wrong dtype or shape."""

    default_remedy = "Use the config.json and the files of one and the same checkpoint"


class OutOfMemoryError(PeriluneError):
    """What was asked for does not fit, with the numbers; raised before the work starts."""


class DiskFullError(PeriluneError):
    """The files do not fit on the disk, with the numbers; what was there before is untouched."""


# --- chat ------------------------------------------------------------------------------------


class ChatError(PeriluneError):
    """A conversation or a tokenizer file cannot be turned into token ids."""


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


class RequestError(EngineError):
    """One request is refused or failed; the others go on. `param` names the field at fault."""

    def __init__(self, message: str, *, param: str | None = None, remedy: str = "") -> None:
        self.param = param
        super().__init__(message, remedy=remedy)


class EngineDeadError(EngineError):
    """The engine's worker died; the requests that were in flight are failed by name."""


# --- agent -----------------------------------------------------------------------------------


class AgentError(PeriluneError):
    """An agent run cannot start or go on."""


class ToolError(AgentError):
    """A tool call failed; its message is what the model is shown."""


class SandboxError(AgentError):
    """The sandbox cannot be built or does not hold; nothing is run without it."""


# --- training --------------------------------------------------------------------------------


class TrainingError(PeriluneError):
    """A training run cannot go on; its last checkpoint is whole."""


class DataError(TrainingError):
    """A data source failed, or a file of it is damaged."""
