"""The flags of `perilune plan`, in groups that its commands share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from perilune.errors import UsageError

if TYPE_CHECKING:
    from perilune.plan.model_size import ModelSize
    from perilune.plan.money import Terms
    from perilune.plan.planner import Request

DEFAULT_MODEL = "k2-thinking"
DEFAULT_CONTEXT = 8192

Model = Annotated[str, typer.Option(help="Name (see --list) or checkpoint folder.")]
Hardware = Annotated[str, typer.Option(help="Name, a file of your own (.toml), or: this.")]
Own = Annotated[
    Path | None,
    typer.Option("--catalogue", help="A file with entries of your own, which replace ours."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]


@dataclass(frozen=True, slots=True)
class DemandFlags:
    """What the model is to do."""

    context: Annotated[
        int | None,
        typer.Option(help="Tokens of context per stream. Default: 8,192 or the model's."),
    ] = None
    streams: Annotated[int, typer.Option(help="Answers generated at the same time.")] = 1
    prompt: Annotated[
        int | None, typer.Option(help="Tokens of the prompt, for the time to the first token.")
    ] = None
    engine: Annotated[
        str | None, typer.Option(help="Kind of engine (see --list). Default: the usual one.")
    ] = None

    def request(self, size: ModelSize, terms: Terms, subscription: float | None = None) -> Request:
        """Raises UsageError for an engine that is not known."""
        from perilune.plan.efficiency import efficiency
        from perilune.plan.placement import Demand
        from perilune.plan.planner import Request

        if self.engine is not None:
            efficiency(self.engine)  # an unknown name is said before anything is measured
        context = self.context
        if context is None:
            context = min(DEFAULT_CONTEXT, size.text.max_position_embeddings)
        demand = Demand(context, self.streams)
        return Request(demand, self.prompt, self.engine, terms, subscription)


@dataclass(frozen=True, slots=True)
class WeightFlags:
    """How the weights and the cache are held."""

    bits: Annotated[
        float | None, typer.Option(help="Bits per weight, as GGUF files have, for all parts.")
    ] = None
    dense: Annotated[
        str | None, typer.Option(help="int8 or int4: dense layers quantised at load.")
    ] = None
    latent_bits: Annotated[float, typer.Option(help="Bits of a cached value: 16, or 8.")] = 16

    def sized(self, name: str) -> ModelSize:
        """The named model, held so. Raises UsageError."""
        from perilune.plan.model_size import model_at_bits, named_model

        if not 1 <= self.latent_bits <= 32:
            raise UsageError(
                f"--latent-bits {self.latent_bits:g} is out of range", remedy="Give 16 or 8"
            )
        if self.bits is not None and self.dense is not None:
            raise UsageError(
                "--bits and --dense exclude each other: --bits is for all parts, --dense for some"
            )
        model = named_model(name) if self.bits is None else model_at_bits(name, self.bits)
        if self.dense is not None:
            model = model.with_dense(self.dense)
        return model.with_latent_bits(self.latent_bits)


@dataclass(frozen=True, slots=True)
class MoneyFlags:
    """What power costs, and how long and how much the machine works."""

    kwh_price: Annotated[
        float, typer.Option("--kwh-price", help="Price of power in US dollars per kWh.")
    ] = 0.20
    years: Annotated[float, typer.Option(help="Years of use.")] = 3.0
    utilisation: Annotated[
        float, typer.Option(help="Share of the time in which the machine works, 0 to 1.")
    ] = 0.5
    input_ratio: Annotated[
        float, typer.Option(help="Tokens of prompt per token of the answer.")
    ] = 3.0
    cached: Annotated[
        float, typer.Option(help="Share of the prompt that a provider has cached.")
    ] = 0.0

    def terms(self) -> Terms:
        """Raises UsageError for values that make no sense."""
        from perilune.plan.money import Terms

        return Terms(self.years, self.utilisation, self.kwh_price, self.input_ratio, self.cached)


# Flags of a command line that says nothing.
NO_DEMAND = DemandFlags()
NO_WEIGHTS = WeightFlags()
NO_MONEY = MoneyFlags()
