"""Options of the engine on the command line: default and help are those of `EngineOptions`."""

from __future__ import annotations

from typing import Annotated

import typer

from perilune.engine.options import EngineOptions

_DEVICE = EngineOptions.__dataclass_fields__["device"]
DEVICE = str(_DEVICE.default)
Device = Annotated[str, typer.Option(help=_DEVICE.metadata["help"])]
