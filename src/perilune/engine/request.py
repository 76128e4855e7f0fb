"""A request and its sequences.

A request with n > 1 has n sequences that share the pages of the prompt. A sequence is one list of
tokens on its way: the prompt, then the output. Prefill and decode are no separate states: a
sequence has `num_computed` tokens in the cache, and those behind them are still to be computed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from perilune.chat.deltas import TokenLogprob
    from perilune.engine.detokenizer import Detokenizer
    from perilune.engine.media import RequestMedia
    from perilune.engine.sampling_params import SamplingParams
    from perilune.engine.speculation import NgramSpeculator
    from perilune.engine.structured_output import StructuredOutput


class State(Enum):
    """Only a running sequence holds pages."""

    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"


class OutputFormat(StrEnum):
    """What the output tokens are read as."""

    TOKENS = "tokens"  # ids only
    TEXT = "text"  # the continuation of a text
    CHAT = "chat"  # an assistant's message: thinking, content, tool calls


class ToolChoice(StrEnum):
    """Whether the model may or must call tools. Names of the OpenAI API."""

    NONE = "none"
    AUTO = "auto"
    REQUIRED = "required"
    NAMED = "named"


@dataclass(frozen=True, slots=True)
class Tools:
    """The tools of a chat request and what the model may do with them.

    declarations: OpenAI-shaped (`{"type": "function", "function": {...}}`). first_index: how many
    calls the conversation already holds, for K2 counts its call ids over the whole conversation.
    whitespace: a regular expression of what may stand between the tokens of the arguments; empty:
    at most one space behind `:` and `,`.
    """

    declarations: Sequence[Mapping[str, Any]]
    choice: ToolChoice = ToolChoice.AUTO
    name: str | None = None  # of the tool, for NAMED
    parallel: bool = True  # False: at most one call
    first_index: int = 0
    whitespace: str = ""


@dataclass(slots=True)
class RequestMetrics:
    """Where a request's time went, in seconds of the engine's clock, and what it took."""

    arrived: float = 0.0
    first_scheduled: float | None = None
    first_token: float | None = None
    finished: float | None = None
    prompt_tokens: int = 0
    media_tokens: int = 0  # of the prompt, for pictures and clips
    cached_tokens: int = 0  # of the prompt, found in the prefix cache
    output_tokens: int = 0  # of all n sequences
    preemptions: int = 0
    proposed_tokens: int = 0  # by speculation
    accepted_tokens: int = 0

    @property
    def queue_seconds(self) -> float | None:
        return None if self.first_scheduled is None else self.first_scheduled - self.arrived

    @property
    def prefill_seconds(self) -> float | None:
        if self.first_token is None or self.first_scheduled is None:
            return None
        return self.first_token - self.first_scheduled

    @property
    def decode_seconds(self) -> float | None:
        if self.finished is None or self.first_token is None:
            return None
        return self.finished - self.first_token

    @property
    def acceptance(self) -> float | None:
        """Share of the speculated tokens that were right."""
        return self.accepted_tokens / self.proposed_tokens if self.proposed_tokens else None


@dataclass(eq=False, slots=True)
class Request:
    """What was asked. A smaller `priority` goes first, then the earlier arrival."""

    request_id: str
    prompt: Sequence[int]
    params: SamplingParams
    priority: int = 0
    cache_salt: str = ""  # cached prefixes are shared only between requests of the same cache_salt
    output: OutputFormat = OutputFormat.TOKENS
    thinking: bool = True  # CHAT: may the model think
    tools: Tools | None = None  # CHAT
    media: RequestMedia | None = None  # the pictures and clips of the prompt
    arrival: int = 0  # set by the engine
    max_length: int = 0  # prompt and output tokens; set by the engine
    terminators: frozenset[int] = frozenset()  # ids that end an answer; set by the engine
    metrics: RequestMetrics = field(default_factory=RequestMetrics)
    sequences: list[SequenceState] = field(default_factory=list)
    prompt_logprobs: list[TokenLogprob] = field(default_factory=list)  # so far

    @property
    def finished(self) -> bool:
        return all(sequence.state is State.FINISHED for sequence in self.sequences)


@dataclass(eq=False, slots=True)
class SequenceState:
    """One of the n answers of a request: its tokens, its pages, and who watches it."""

    request: Request
    index: int
    tokens: list[int]
    seed: int
    state: State = State.WAITING
    num_computed: int = 0
    pages: list[int] = field(default_factory=list)
    page_keys: list[bytes] = field(default_factory=list)  # root's key, then one a full page
    num_named: int = 0  # leading pages known to the prefix cache
    # Positions below this attend in the expanded form; None until it is first admitted.
    expanded_until: int | None = None
    # Its tokens as the prefix cache and speculation know them: a row of a picture is a negative
    # number of its own there. Without pictures this is `tokens` itself.
    contents: list[int] = field(default_factory=list)
    output_counts: dict[int, int] = field(default_factory=dict)  # for penalties
    structured_output: StructuredOutput | None = None
    speculator: NgramSpeculator | None = None
    detokenizer: Detokenizer | None = None

    def append(self, token: int) -> None:
        """One token more of the answer."""
        self.tokens.append(token)
        if self.contents is not self.tokens:
            self.contents.append(token)

    def continue_from(self, other: SequenceState) -> None:
        """Have the same tokens as another answer."""
        self.tokens = list(other.tokens)
        same = other.contents is other.tokens
        self.contents = self.tokens if same else list(other.contents)

    @property
    def order(self) -> tuple[int, int, int]:
        """Who goes first; no two sequences are equal."""
        return (self.request.priority, self.request.arrival, self.index)

    @property
    def num_prompt(self) -> int:
        return len(self.request.prompt)

    @property
    def num_output(self) -> int:
        return len(self.tokens) - len(self.request.prompt)

    @property
    def scores_prompt(self) -> bool:
        """Whether it is still computing a prompt whose log probabilities are asked for."""
        return self.request.params.prompt_logprobs is not None and not self.num_output

    @property
    def num_pending(self) -> int:
        """Tokens not yet in the cache; 1 while decoding."""
        return len(self.tokens) - self.num_computed
