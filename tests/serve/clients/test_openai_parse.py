"""`parse()` of OpenAI's SDK with models of every kind, against random weights.

What comes back is read by pydantic, so a grammar that lets too much through would show.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import field
from datetime import date, datetime, time, timedelta
from enum import Enum, IntEnum
from pathlib import Path
from typing import Annotated, Any, Literal
from uuid import UUID

import openai
import pytest
from annotated_types import Len
from openai.lib._parsing._completions import type_to_response_format_param
from openai.lib._parsing._responses import type_to_text_format_param
from pydantic import BaseModel, Field, TypeAdapter, create_model
from pydantic.dataclasses import dataclass

from perilune.engine.async_engine import AsyncEngine
from perilune.serve.constraints import read_constraint, read_form

from ...engine.byte_grammar import draw
from ..servers import socket_server


class Colour(Enum):
    RED = "red"
    GREEN = "green"


class Level(IntEnum):
    LOW = 1
    HIGH = 2


class Leaf(BaseModel):
    kind: Literal["leaf"]
    size: int = Field(gt=0, lt=10)


class Twig(BaseModel):
    kind: Literal["twig"]
    leaves: list[Leaf] = Field(max_length=1)


class Tree(BaseModel):
    name: Annotated[str, Field(pattern="^[a-z]{1,4}$", description="Its name")]
    below: Annotated[list[Tree], Field(max_length=1)]


class Linked(BaseModel):
    value: Literal[1]
    next: Linked | None = Field(description="The next one")  # a reference with more beside it


@dataclass
class Plain:
    a: bool
    b: Annotated[list[int], Len(0, 2)] = field(default_factory=list)


TYPES: dict[str, Any] = {
    "literal": Literal["a"],
    "literals": Literal["a", 1, None, True],
    "datetime": datetime,
    "date": date,
    "time": time,
    "timedelta": timedelta,
    "uuid": UUID,
    "positive": Annotated[int, Field(gt=0, lt=100)],
    "between": Annotated[float, Field(gt=0, le=1)],
    "multiple": Annotated[int, Field(multiple_of=5, ge=0, le=50)],
    "enum": Colour,
    "int enum": Level,
    "optional": Literal["a"] | None,
    "union": Annotated[Leaf | Twig, Field(discriminator="kind")],
    "plain union": Annotated[int, Field(ge=0, le=9)] | bool,
    "nested": Twig,
    "recursive": Tree,
    "linked": Linked,
    "pair": tuple[Literal[1], Literal["b"]],
    "list": Annotated[list[Colour], Field(min_length=1, max_length=2)],
    "set": Annotated[set[Level], Field(max_length=2)],
    "dict of enum": dict[Colour, Level],
    "dict of dates": Annotated[dict[date, bool], Field(max_length=1)],
    "dict of patterns": Annotated[
        dict[Annotated[str, Field(pattern="^k[0-9]$")], bool], Field(max_length=1)
    ],
    "pattern": Annotated[str, Field(pattern=r"^\d{3}-\d{2}$")],
    "short": Annotated[str, Field(min_length=1, max_length=3)],
    "huge": Annotated[str, Field(max_length=2**31 - 1, pattern="^x?$")],
    "default": Annotated[int, Field(default=3, ge=0, le=5)],
    "boolean": bool,
    "nothing": None,
    "anything else": Plain,
}


def model(seed: int) -> type[BaseModel]:
    chance = random.Random(seed)
    names = chance.sample(sorted(TYPES), chance.randint(1, 4))
    fields: dict[str, Any] = {f"f{n}_{seed}": (TYPES[name], ...) for n, name in enumerate(names)}
    inner = create_model("Inner", **fields)  # type: ignore[call-overload]
    if chance.random() < 0.5:
        return inner  # type: ignore[no-any-return]
    outer = {"one": (inner, ...), "many": (Annotated[list[inner], Field(max_length=1)], ...)}
    return create_model("Outer", **outer)  # type: ignore[call-overload, no-any-return]


def test_random_models_are_taken_and_what_comes_is_one() -> None:
    ended = 0
    for seed in range(40):
        kind = model(seed)
        chat = type_to_response_format_param(kind)
        flat = type_to_text_format_param(kind)
        assert isinstance(chat, dict)
        found = read_constraint({"response_format": chat})
        assert found.grammar is not None
        inner = {
            "type": "json_schema",
            "json_schema": {k: v for k, v in flat.items() if k != "type"},
        }
        assert read_form(inner, "text.format").grammar == found.grammar
        text = draw(found.grammar, seed)
        if text is not None:
            ended += 1
            kind.model_validate_json(text)
    assert ended > 25


@pytest.mark.parametrize("name", TYPES)
def test_each_kind_of_field(name: str) -> None:
    kind = create_model("Model", value=(TYPES[name], ...))
    found = read_constraint({"response_format": type_to_response_format_param(kind)})
    assert found.grammar is not None
    texts = [draw(found.grammar, seed) for seed in range(4)]
    assert any(texts)
    for text in texts:
        if text is not None:
            TypeAdapter(kind).validate_json(text)


@pytest.fixture(scope="module")
def noise(tiny_folder: Path) -> Iterator[str]:
    """A server of random weights."""
    engine = lambda: AsyncEngine(tiny_folder, cache_tokens=16_384, max_sequences=4, seed=1)  # noqa: E731
    with socket_server(engine) as url:
        yield url


class Everything(BaseModel):
    kind: Literal["a"]
    at: datetime
    size: int = Field(gt=0, lt=50)
    id: UUID
    colour: Colour | None
    plant: Annotated[Leaf | Twig, Field(discriminator="kind")]
    counts: Annotated[dict[Colour, Level], Field(max_length=1)]
    pair: tuple[Literal[1], bool]


def test_parse(noise: str) -> None:
    user: Any = [{"role": "user", "content": "Everything, please"}]
    with openai.OpenAI(base_url=f"{noise}/v1", api_key="none", max_retries=0) as client:
        reply = client.chat.completions.parse(
            model="tiny", messages=user, response_format=Everything, reasoning_effort="none"
        )
        content = reply.choices[0].message.content
        assert content is not None and isinstance(reply.choices[0].message.parsed, Everything)
        assert "\n" not in content and ": " not in content
        flat = client.responses.parse(
            model="tiny", input="x", text_format=Everything, reasoning={"effort": "none"}
        )
        assert isinstance(flat.output_parsed, Everything)
        tool = openai.pydantic_function_tool(Everything)
        called = client.chat.completions.parse(
            model="tiny", messages=user, tools=[tool], tool_choice="required",
            parallel_tool_calls=False, reasoning_effort="none",
        )  # fmt: skip
        (call,) = called.choices[0].message.tool_calls or ()
        assert isinstance(call.function.parsed_arguments, Everything)
