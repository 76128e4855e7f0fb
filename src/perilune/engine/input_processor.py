"""What a request goes through before it is queued: checks, and all that will read its output."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from perilune.chat.format import ChatFormat
from perilune.chat.parser import Channel
from perilune.engine.detokenizer import Detokenizer, Parser, TextParser
from perilune.engine.grammar import GrammarCompiler, Matcher
from perilune.engine.media_encoder import EncoderConfig
from perilune.engine.request import OutputFormat, Request, SequenceState, ToolChoice, Tools
from perilune.engine.sampler import derive_seed
from perilune.engine.sampling_params import SamplingParams
from perilune.engine.scheduler import SchedulerConfig
from perilune.engine.speculation import NgramSpeculator, Survival
from perilune.engine.structured_output import StructuredOutput, ToolGrammar
from perilune.engine.text_memory import TextMemories
from perilune.errors import ContextLengthError, MediaRequestError, RequestError


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """How an engine runs. `identity` names the weights: cached prefixes are of these weights."""

    vocab_size: int  # of the logits; that of the tokenizer may be smaller
    max_context: int  # tokens of prompt and output
    identity: str
    stop_ids: frozenset[int] = frozenset()
    scheduler: SchedulerConfig = field(default_factory=SchedulerConfig)
    seed: int | None = None  # of the seeds of requests that bring none
    pad_ids: frozenset[int] = frozenset()  # stand for rows of pictures; never an answer's token
    encoder: EncoderConfig | None = None  # None: the model reads text only


class InputProcessor:
    """Checks requests and makes their sequences."""

    def __init__(self, config: EngineConfig, cache_tokens: int, chat: ChatFormat | None) -> None:
        self._config = config
        self._cache_tokens = cache_tokens
        self._chat = chat
        self._compiler: GrammarCompiler | None = None
        self._stray_ids: frozenset[int] | None = None
        self._masks: dict[frozenset[int | None], Tensor] = {}
        self._survival = Survival()
        self._memories = TextMemories()

    def check(self, request: Request) -> None:
        """Raise RequestError when the request makes no sense or can never be served."""
        params, prompt, config = request.params, request.prompt, self._config
        if not prompt:
            raise RequestError("the prompt is empty", param="prompt", remedy="Give a token or more")
        if min(prompt) < 0 or max(prompt) >= config.vocab_size:
            raise RequestError(
                f"the prompt has ids outside 0..{config.vocab_size - 1}", param="prompt"
            )
        params.validate_for(config.vocab_size)
        count = f"{len(prompt)} tokens"
        if request.media is not None:
            count += f", {request.media.tokens} of them of pictures"
        if len(prompt) >= config.max_context:
            raise ContextLengthError(
                f"the prompt has {count}, the model reads {config.max_context}",
                param="prompt",
                remedy="Shorten the prompt",
            )
        if len(prompt) >= self._cache_tokens:
            raise ContextLengthError(
                f"the prompt has {count}, the latent cache holds {self._cache_tokens}",
                param="prompt",
                remedy="Shorten the prompt, or give the engine a larger cache",
            )
        self._check_media(request)
        if params.n > config.scheduler.max_sequences:
            raise RequestError(
                f"n is {params.n}, the engine runs {config.scheduler.max_sequences} at once",
                param="n",
            )
        if request.output is not OutputFormat.CHAT and (
            request.tools is not None or params.thinking_budget is not None
        ):
            raise RequestError("tools and thinking budgets belong to chat requests", param="tools")
        if self._chat is None and (params.grammar or request.output is not OutputFormat.TOKENS):
            raise RequestError(
                "the engine has no tokenizer", remedy="Load it from a checkpoint folder"
            )
        if params.stop and request.output is OutputFormat.TOKENS:
            raise RequestError("stop strings need text output", param="stop")

    def _check_media(self, request: Request) -> None:
        media, encoder = request.media, self._config.encoder
        if media is None:
            return
        if encoder is None:
            raise MediaRequestError(
                "the request shows pictures, and the model reads text only",
                param="messages",
                remedy="Load a K2.5 checkpoint with its vision tower",
            )
        media.check(request.prompt, encoder.vision)
        largest = max(map(encoder.nbytes, media.features))
        if largest > encoder.cache_bytes:
            raise MediaRequestError(
                f"a picture takes {largest:,} bytes when it is encoded, and the encoder cache "
                f"holds {encoder.cache_bytes:,}",
                param="messages",
                remedy="Make the picture smaller, or encoder_cache_bytes larger",
            )

    def forget_texts(self) -> None:
        """What was said so far is no longer guessed by."""
        self._memories.clear()

    def max_length(self, request: Request) -> int:
        """Tokens of prompt and output at which the request ends, whatever comes."""
        capacity = min(self._config.max_context, self._cache_tokens)
        most = request.params.max_tokens
        return capacity if most is None else min(capacity, len(request.prompt) + most)

    def terminators(self, request: Request) -> frozenset[int]:
        """The ids that end the request."""
        own = frozenset(request.params.stop_token_ids)
        return own if request.params.ignore_eos else own | self._config.stop_ids

    def first_sequence(self, request: Request, seed: int) -> SequenceState:
        """The first answer. Raises RequestError when a grammar or a tool cannot be used."""
        sequence = SequenceState(request, 0, list(request.prompt), seed)
        sequence.structured_output = self._structured_output(request)
        return self._with_readers(sequence)

    def further_sequence(self, first: SequenceState, index: int) -> SequenceState:
        """Another answer of the same request, before it has any tokens."""
        sequence = SequenceState(first.request, index, [], derive_seed(first.seed, index))
        sequence.structured_output = first.structured_output and first.structured_output.fork()
        return self._with_readers(sequence)

    def end_thinking(self, sequence: SequenceState) -> None:
        """The next token of a sequence that thinks becomes the end of its thinking."""
        if sequence.detokenizer is None or not sequence.detokenizer.thinking:
            return
        if sequence.structured_output is None:  # nothing held this answer so far
            assert self._chat is not None
            sequence.structured_output = StructuredOutput(
                vocab_size=self._config.vocab_size,
                terminators=sequence.request.terminators,
                ids=self._chat.special_ids,
                thinking=True,
                masks=self._masks,
            )
        sequence.structured_output.end_thinking()

    def _with_readers(self, sequence: SequenceState) -> SequenceState:
        params = sequence.request.params
        parser = self._parser(sequence.request)
        if parser is not None:
            sequence.detokenizer = Detokenizer(parser, params.stop)
        if params.speculate and self._config.scheduler.max_draft_tokens:
            memory = self._memories.of(sequence.request.cache_salt)
            sequence.speculator = NgramSpeculator(self._survival, memory)
        return sequence

    def _parser(self, request: Request) -> Parser | None:
        if request.output is OutputFormat.TOKENS or self._chat is None:
            return None
        if request.output is OutputFormat.TEXT:
            return TextParser(self._chat.tokenizer.stream_decoder())
        tools = request.tools.declarations if request.tools else None
        return self._chat.parser(thinking=request.thinking, tools=tools, prompt=request.prompt)

    def _stray(self, chat: ChatFormat) -> frozenset[int]:
        """Special ids that have no place in thinking or answer, or only where it is structured."""
        if self._stray_ids is None:
            ids = chat.special_ids
            known = {ids.tool_calls_section_begin, ids.tool_call_begin}
            if chat.template.has_thinking and not chat.template.can_switch_thinking:
                known.add(ids.think)  # the model opens its thinking itself
            size = chat.tokenizer.vocab_size
            special = (i for i in range(size) if chat.tokenizer.is_special(i))
            self._stray_ids = frozenset(special) - known - self._config.stop_ids
        return self._stray_ids

    def compile(self, params: SamplingParams, tools: Tools | None) -> RequestError | None:
        """Compile what a request brings, for the cache; what is wrong with it.

        May be called in another thread: a large schema takes seconds.
        """
        if self._chat is None:
            return None
        try:
            self._compile(self._chat, params, tools)
        except RequestError as error:
            return error
        return None

    def _compile(
        self, chat: ChatFormat, params: SamplingParams, tools: Tools | None
    ) -> tuple[Matcher | None, ToolGrammar | None]:
        """The grammars of the answer and of the tools. Raises RequestError."""
        if needs_compiling(params, tools) and self._compiler is None:
            self._compiler = GrammarCompiler(chat.tokenizer, self._config.vocab_size)
        answer = None
        if params.grammar is not None and self._compiler is not None:
            answer = self._compiler.compile(params.grammar)
        if tools is None:
            return answer, None
        return answer, ToolGrammar.compile(tools, self._compiler, chat.tokenizer)

    def _structured_output(self, request: Request) -> StructuredOutput | None:
        """What holds the output to grammar, tools and budget; None when there is none of them."""
        params, chat = request.params, self._chat
        wants_grammar = params.grammar is not None or request.tools is not None
        if chat is None or not (wants_grammar or params.thinking_budget is not None):
            return None
        answer, tools = self._compile(chat, params, request.tools)
        is_chat = request.output is OutputFormat.CHAT
        thinking = is_chat and (
            chat.parser(thinking=request.thinking, prompt=request.prompt).channel
            is Channel.REASONING
        )
        return StructuredOutput(
            vocab_size=self._config.vocab_size,
            terminators=request.terminators,
            ids=chat.special_ids if is_chat else None,
            stray=self._stray(chat) if is_chat else (),
            thinking=thinking,
            thinking_budget=params.thinking_budget,
            answer=answer,
            tools=tools,
            masks=self._masks,
        )


def needs_compiling(params: SamplingParams, tools: Tools | None) -> bool:
    """Whether a request brings a grammar or tools that may be called."""
    return params.grammar is not None or (tools is not None and tools.choice is not ToolChoice.NONE)
