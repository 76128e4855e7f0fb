"""How a request wants its tokens picked. Names and meanings follow the OpenAI API and vLLM."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from perilune.errors import RequestError


class GrammarKind(StrEnum):
    """The ways to say which answers are allowed."""

    JSON_SCHEMA = "json_schema"
    JSON_OBJECT = "json_object"
    REGEX = "regex"
    LARK = "lark"
    GBNF = "gbnf"
    CHOICE = "choice"
    STRUCTURAL_TAG = "structural_tag"


FREE_WHITESPACE = r"[\x20\x0A\x0D\x09]{1,32}"  # 32 is a deep indentation; some go on without end


@dataclass(frozen=True, slots=True)
class Grammar:
    """What the answer must match.

    definition: a JSON schema (mapping or boolean), a regular expression or a grammar in Lark's or
    llama.cpp's form (text), a list of texts of which it is one, or structural tags (a mapping of
    `structures`, each with `begin`, `schema`, `end`, and of `triggers`). whitespace: a regular
    expression of what may stand between the tokens of JSON; empty: nothing.
    """

    kind: GrammarKind
    definition: Mapping[str, Any] | Sequence[str] | str | bool = ""
    whitespace: str = ""

    @classmethod
    def json_schema(cls, schema: Mapping[str, Any] | bool, whitespace: str = "") -> Grammar:
        return cls(GrammarKind.JSON_SCHEMA, schema, whitespace)

    @classmethod
    def json_object(cls) -> Grammar:
        return cls(GrammarKind.JSON_OBJECT)

    @classmethod
    def regex(cls, pattern: str) -> Grammar:
        return cls(GrammarKind.REGEX, pattern)

    @classmethod
    def lark(cls, grammar: str) -> Grammar:
        return cls(GrammarKind.LARK, grammar)

    @classmethod
    def gbnf(cls, grammar: str) -> Grammar:
        return cls(GrammarKind.GBNF, grammar)

    @classmethod
    def choice(cls, texts: Sequence[str]) -> Grammar:
        return cls(GrammarKind.CHOICE, tuple(texts))

    @property
    def is_json(self) -> bool:
        return self.kind in (GrammarKind.JSON_SCHEMA, GrammarKind.JSON_OBJECT)


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """Raises RequestError, naming the field, when a value makes no sense.

    The order of application: logit bias, repetition, presence and frequency penalty, grammar,
    temperature, then top-k, top-p (over what top-k left) and min-p (relative to the likeliest).
    Temperature 0 is greedy. Penalties count output tokens; repetition counts the prompt too.
    """

    max_tokens: int | None = None  # None: as far as the context allows
    min_tokens: int = 0  # stop tokens are not picked before; a grammar that ends goes first
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0  # 0: off
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int | None = None  # None: drawn by the engine
    n: int = 1
    stop: tuple[str, ...] = ()  # not part of the text; looked for in the answer, not in thinking
    stop_token_ids: tuple[int, ...] = ()  # beside those of the model
    ignore_eos: bool = False  # the model's own stop ids do not stop
    logprobs: int | None = None  # 0: of the token picked; k: also of the k likeliest
    prompt_logprobs: int | None = None  # the same for the tokens of the prompt
    thinking_budget: int | None = None  # tokens of thinking before `</think>` is forced
    grammar: Grammar | None = None  # of the answer; thinking stays free
    speculate: bool = True  # n-gram lookup; never changes the text

    def __post_init__(self) -> None:
        # A JSON API gives lists; they become the tuples declared above.
        for name in ("stop", "stop_token_ids"):
            value = getattr(self, name)
            object.__setattr__(self, name, (value,) if isinstance(value, str) else tuple(value))
        at_least = {"min_tokens": 0, "top_k": 0, "n": 1, "max_tokens": 1, "logprobs": 0,
                    "prompt_logprobs": 0, "thinking_budget": 0}  # fmt: skip
        for name, least in at_least.items():
            value = getattr(self, name)
            if value is not None and (
                isinstance(value, bool) or not isinstance(value, int) or value < least
            ):
                raise RequestError(
                    f"{name} must be an integer of at least {least}, not {value!r}", param=name
                )
        ranges = {"temperature": (0.0, 10.0), "top_p": (0.0, 1.0), "min_p": (0.0, 1.0),
                  "presence_penalty": (-2.0, 2.0), "frequency_penalty": (-2.0, 2.0),
                  "repetition_penalty": (0.01, 10.0)}  # fmt: skip
        for name, (low, high) in ranges.items():
            value = getattr(self, name)
            if not isinstance(value, int | float) or not low <= value <= high:
                raise RequestError(
                    f"{name} must be between {low:g} and {high:g}, not {value!r}", param=name
                )
        if not self.top_p:
            raise RequestError("top_p must be above 0", param="top_p")
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise RequestError(
                f"min_tokens {self.min_tokens} is above max_tokens {self.max_tokens}",
                param="min_tokens",
            )
        if any(not isinstance(text, str) or not text for text in self.stop):
            raise RequestError("stop must be non-empty strings", param="stop")
        for token, bias in self.logit_bias.items():
            if not isinstance(token, int) or math.isnan(bias):
                raise RequestError("logit_bias maps token ids to numbers", param="logit_bias")

    @property
    def penalises(self) -> bool:
        """Whether what was said changes the logits."""
        return bool(
            self.presence_penalty or self.frequency_penalty or self.repetition_penalty != 1.0
        )

    @property
    def greedy(self) -> bool:
        return self.temperature == 0

    def validate_for(self, vocab_size: int) -> None:
        """Raise RequestError when a token id lies outside the vocabulary."""
        for name in ("logit_bias", "stop_token_ids"):
            for token in getattr(self, name):
                if not 0 <= token < vocab_size:
                    raise RequestError(
                        f"{name} names token {token}; the vocabulary has {vocab_size}", param=name
                    )
