"""The engine: requests in, outputs out, one step at a time.

A step is: schedule, forward, sample, take in. Nothing here waits or depends on the time of day:
the same calls in the same order give the same outputs. `llm` and `async_engine` decide when to
step.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

from torch import Tensor

from perilune.chat.deltas import Delta, Finished, FinishReason, TokenLogprob
from perilune.chat.format import ChatFormat
from perilune.chat.media.reader import MediaReader
from perilune.engine import apart
from perilune.engine.input_processor import EngineConfig, InputProcessor
from perilune.engine.media import RequestMedia
from perilune.engine.media_encoder import MediaEncoder
from perilune.engine.metrics import (
    EncoderMetrics,
    EngineMetrics,
    EngineStatus,
    ReadCost,
    StepMetrics,
)
from perilune.engine.outputs import SequenceOutput
from perilune.engine.page_allocator import PageAllocator
from perilune.engine.prefix_cache import PrefixCache
from perilune.engine.request import (
    OutputFormat,
    Request,
    RequestMetrics,
    SequenceState,
    State,
    Tools,
)
from perilune.engine.sampler import Sampled, SampleRow, sample, score_tokens
from perilune.engine.sampling_params import SamplingParams
from perilune.engine.scheduler import Scheduler
from perilune.engine.scheduler_output import ScheduledSequence, SchedulerOutput
from perilune.engine.speculation import RowCost
from perilune.engine.structured_output import StructuredOutput
from perilune.errors import PeriluneError, RequestError
from perilune.runner.cache import PAGE_SIZE, PagedLatentCache
from perilune.runner.runner import ModelRunner

Masks = list[Tensor | None]  # of the token to pick, then of those behind each draft


class Engine:
    """The core loop. Not for use from several threads."""

    def __init__(
        self,
        runner: ModelRunner,
        cache: PagedLatentCache,
        config: EngineConfig,
        *,
        chat: ChatFormat | None = None,
        read_cost: ReadCost | None = None,
        bandwidth: float | None = None,
        clock: Callable[[], float] = time.perf_counter,
        media_encoder: MediaEncoder | None = None,
    ) -> None:
        self.runner = runner
        self.cache = cache
        self.config = config
        self.chat = chat
        self.metrics = EngineMetrics()
        self.pages = PageAllocator(cache.num_pages)
        self.prefix_cache = PrefixCache(
            self.pages, model=config.identity, storage_format=str(cache.storage.dtype)
        )
        self._media_encoder = media_encoder
        self.scheduler = Scheduler(config.scheduler, self.pages, self.prefix_cache, media_encoder)
        self._input_processor = InputProcessor(config, cache.num_pages * PAGE_SIZE, chat)
        # A head may be wider than the tokenizer; what has no text is never picked.
        self._known_tokens = chat.tokenizer.vocab_size if chat else config.vocab_size
        self._pad_ids = sorted(config.pad_ids)
        self._read_cost = read_cost
        self.bandwidth = bandwidth
        self._clock = clock
        self._row_cost = RowCost()
        self._random = random.Random(config.seed)  # noqa: S311 - seeds of sampling, no secret
        self._mask_thread = ThreadPoolExecutor(1, "perilune-masks")
        self._requests: dict[str, Request] = {}
        self._arrivals = 0
        self._outputs: list[SequenceOutput] = []

    # --- requests ----------------------------------------------------------------------------

    @property
    def request_ids(self) -> list[str]:
        """Of the requests that are not finished."""
        return list(self._requests)

    @property
    def has_work(self) -> bool:
        return bool(self._requests or self._outputs)

    def add_request(
        self,
        prompt: Sequence[int],
        params: SamplingParams,
        *,
        request_id: str | None = None,
        priority: int = 0,
        cache_salt: str = "",
        output: OutputFormat = OutputFormat.TOKENS,
        thinking: bool = True,
        tools: Tools | None = None,
        media: RequestMedia | None = None,
    ) -> str:
        """Queue a request; its id. Raises RequestError when it can never be served."""
        self._arrivals += 1
        request = Request(
            request_id=request_id or f"request-{self._arrivals}",
            prompt=tuple(prompt),
            params=params,
            priority=priority,
            cache_salt=cache_salt,
            output=output,
            thinking=thinking,
            tools=tools,
            media=media,
            arrival=self._arrivals,
            metrics=RequestMetrics(
                arrived=self._clock(),
                prompt_tokens=len(prompt),
                media_tokens=0 if media is None else media.tokens,
            ),
        )
        if request.request_id in self._requests:
            raise RequestError(f"{request.request_id!r} is already under way", param="request_id")
        self._input_processor.check(request)
        request.max_length = self._input_processor.max_length(request)
        request.terminators = self._input_processor.terminators(request)
        seed = self._random.getrandbits(64) if params.seed is None else params.seed
        request.sequences = [self._input_processor.first_sequence(request, seed)]
        self._requests[request.request_id] = request
        self.scheduler.add(request)
        return request.request_id

    def compile(self, params: SamplingParams, tools: Tools | None) -> RequestError | None:
        """Compile a request's grammars beforehand, perhaps in another thread; what is wrong."""
        return self._input_processor.compile(params, tools)

    def cancel(self, request_id: str) -> bool:
        """Take a request out and free its pages now. False when it is not there (any more)."""
        if (request := self._requests.get(request_id)) is None:
            return False
        self._end(request, FinishReason.CANCELLED)
        return True

    def end_thinking(self, request_id: str) -> bool:
        """Have the answers of a request that think close their thinking at the next token.

        False when the request is not there (any more).
        """
        if (request := self._requests.get(request_id)) is None:
            return False
        for sequence in request.sequences:
            self._input_processor.end_thinking(sequence)
        return True

    def clear_prefix_cache(self) -> None:
        """Forget all cached prefixes (the weights have changed, or the contents must go).

        And what speculation remembers of texts, and encoded pictures.
        """
        self.scheduler.clear_prefix_cache()
        if self._media_encoder is not None:
            self._media_encoder.clear()
        self._input_processor.forget_texts()

    def status(self) -> EngineStatus:
        pages, latest = self.pages, self.metrics.latest_steps
        seen = self.media_metrics
        return EngineStatus(
            waiting=len(self.scheduler.waiting),
            running=len(self.scheduler.running),
            pages_held=pages.num_held,
            pages_idle=pages.num_idle,
            pages_free=pages.num_free,
            steps=self.metrics.steps,
            latest_step=latest[-1] if latest else None,
            forward_seconds=self.metrics.forward_seconds,
            bytes_read=self.metrics.bytes_read,
            pictures_decoded=seen.decoded,
            pictures_encoded=seen.encoded,
            pictures_reused=seen.reused,
            encoder_seconds=seen.seconds,
            encoder_cache_hits=seen.hits,
            encoder_cache_misses=seen.misses,
            encoder_cache_bytes=seen.cache_bytes,
            encoder_cache_entries=seen.cache_entries,
        )

    @property
    def media_metrics(self) -> EncoderMetrics:
        """What pictures took; nothing, of a model that reads text only."""
        return EncoderMetrics() if self._media_encoder is None else self._media_encoder.metrics

    @property
    def media_reader(self) -> MediaReader | None:
        """Opens pictures for this model; None: it reads text only."""
        return None if self._media_encoder is None else self._media_encoder.decoder.reader

    def restarted(self) -> Engine:
        """A new engine over the same network, with nothing queued and an empty cache."""
        self._mask_thread.shutdown(wait=False, cancel_futures=True)
        return Engine(
            self.runner,
            self.cache,
            self.config,
            chat=self.chat,
            read_cost=self._read_cost,
            bandwidth=self.bandwidth,
            clock=self._clock,
            media_encoder=self._media_encoder and self._media_encoder.restarted(),
        )

    def close(self) -> None:
        """Cancel what is under way and end the thread of the masks."""
        for request_id in self.request_ids:
            self.cancel(request_id)
        self._mask_thread.shutdown(cancel_futures=True)
        if self._media_encoder is not None:
            self._media_encoder.close()

    # --- a step ------------------------------------------------------------------------------

    def step(self) -> list[SequenceOutput]:
        """Run one step; what it, and cancellations before it, brought."""
        started = self._clock()
        batch = self.scheduler.schedule(self._propose)
        # Also where no row can be computed: a sequence that waits for a picture has begun in a
        # copy.
        self.cache.copy_pages(batch.copies)
        if batch.scheduled:
            for part in batch.scheduled:
                metrics = part.sequence.request.metrics
                if metrics.first_scheduled is None:
                    metrics.first_scheduled = started
            if self._media_encoder is not None:
                for part in batch.scheduled:
                    part.vectors = self._media_encoder.vectors(part)
            masks = self._start_masks(batch)
            forward_started = self._clock()
            logits, failed = apart.execute(self.runner, batch, self.cache, self.config.vocab_size)
            forward_seconds = self._clock() - forward_started
            note = self._step_metrics(batch, forward_seconds)
            for rows, error in failed:
                self._fail(rows.sequence.request, error)
            self._take_in(batch, logits, masks)
            seconds = self._clock() - started
            if all(part.count == 1 for part in batch.scheduled):
                self._row_cost.observe(note.rows, seconds)
            self.metrics.note_step(note, seconds)
        if self._media_encoder is not None:
            idle = not batch.scheduled
            for request, failure in self._media_encoder.step(self.scheduler.running, idle=idle):
                self._fail(request, failure)
        outputs, self._outputs = self._outputs, []
        return outputs

    def _propose(self, sequence: SequenceState, limit: int) -> list[int]:
        if sequence.speculator is None:
            return []
        least = self._row_cost.break_even(len(self.scheduler.running))
        return sequence.speculator.propose(sequence.contents, limit, least)

    def _start_masks(self, batch: SchedulerOutput) -> dict[SequenceState, Future[Masks]]:
        """Compute the masks beside the forward, in a thread: llguidance lets go of the GIL."""
        return {
            part.sequence: self._mask_thread.submit(
                _masks, part.sequence.structured_output, part.drafts
            )
            for part in batch.scheduled
            if part.completes and part.sequence.structured_output is not None
        }

    def _take_in(
        self, batch: SchedulerOutput, logits: Tensor, masks: dict[SequenceState, Future[Masks]]
    ) -> None:
        """Sample the wanted rows and give every sequence its tokens."""
        takers: list[tuple[SequenceState, list[int]]] = []  # and the drafts behind it
        sample_rows: list[SampleRow] = []
        logits_rows: list[int] = []
        end = 0
        for part in batch.scheduled:
            sequence = part.sequence
            start, end = end, end + part.num_wanted
            if sequence.state is not State.RUNNING:
                continue  # its request failed in this loop
            self.scheduler.commit(sequence, part.start + part.count)
            if part.scores_prompt:
                self._score_prompt(part, logits[start:end])
                start = end - part.num_sampled
            if not part.completes:
                continue
            try:
                allowed = masks[sequence].result() if sequence in masks else []
            except RequestError as error:
                self._fail(sequence.request, error)
                continue
            for taker in self._fork(sequence):
                takers.append((taker, part.drafts))
                sample_rows += self._sample_rows(taker, part.drafts, allowed)
                logits_rows += range(start, end)
        if logits_rows != list(range(logits.shape[0])):
            logits = logits[logits_rows]  # a prompt's row for each of its n answers
        sampled = iter(sample(logits, sample_rows, known=self._known_tokens, never=self._pad_ids))
        for sequence, drafts in takers:
            results = [next(sampled) for _ in range(len(drafts) + 1)]
            if sequence.state is State.RUNNING:  # its request has not failed meanwhile
                try:
                    self._accept(sequence, drafts, results)
                except PeriluneError as error:
                    self._fail(sequence.request, error)

    def _score_prompt(self, part: ScheduledSequence, logits_RV: Tensor) -> None:
        """Note what the model thinks of the prompt's tokens behind these rows."""
        request = part.sequence.request
        following = part.sequence.tokens[part.start + 1 : part.start + part.count + 1]
        assert request.params.prompt_logprobs is not None
        request.prompt_logprobs += score_tokens(
            logits_RV, following, request.params.prompt_logprobs, known=self._known_tokens
        )

    def _fork(self, sequence: SequenceState) -> list[SequenceState]:
        """Who continues here: all n answers where the prompt has just been computed."""
        request = sequence.request
        if len(request.sequences) == request.params.n:
            return [sequence]
        for index in range(1, request.params.n):
            copy = self._input_processor.further_sequence(sequence, index)
            self.scheduler.fork(sequence, copy)
            request.sequences.append(copy)
        return request.sequences

    def _sample_rows(
        self, sequence: SequenceState, drafts: list[int], allowed: Masks
    ) -> list[SampleRow]:
        """How to sample behind the sequence and behind each draft, as if it had come true."""
        request, params = sequence.request, sequence.request.params
        counts = sequence.output_counts if params.penalises else {}
        prompt = frozenset(request.prompt) if params.repetition_penalty != 1 else frozenset()
        rows = []
        for i in range(len(drafts) + 1):
            if i and params.penalises:
                counts = {**counts, drafts[i - 1]: counts.get(drafts[i - 1], 0) + 1}
            position = sequence.num_output + i
            early = position < params.min_tokens
            rows.append(
                SampleRow(
                    params=params,
                    seed=sequence.seed,
                    position=position,
                    counts=counts,
                    prompt_tokens=prompt,
                    allowed=allowed[i] if i < len(allowed) else None,
                    banned=tuple(request.terminators) if early else (),
                )
            )
        return rows

    def _accept(
        self, sequence: SequenceState, drafts: list[int], results: list[Sampled | RequestError]
    ) -> None:
        """Take the sampled tokens as far as the drafts came true, up to an ending."""
        tokens: list[int] = []
        logprobs = []
        deltas: list[Delta] = []
        reason: FinishReason | None = None
        stop: int | str | None = None
        for i, result in enumerate(results):
            if isinstance(result, RequestError):
                raise result
            token = result.token
            tokens.append(token)
            if result.logprob is not None:
                logprobs.append(result.logprob)
            reason, stop = self._take(sequence, token, deltas)
            if reason is not None or (i < len(drafts) and token != drafts[i]):
                break
        self._note_tokens(sequence, drafts, len(tokens))
        # The last token was only picked; those before it were computed, as drafts.
        self.scheduler.commit(sequence, len(sequence.tokens) - 1)
        if reason is not None:
            if sequence.detokenizer is not None:
                end = sequence.detokenizer.finish(reason)
                deltas += end
                if isinstance(end[-1], Finished):  # complete tool calls make it TOOL_CALLS
                    reason = end[-1].reason
            self.scheduler.finish(sequence)
        self._put(
            sequence,
            SequenceOutput(
                sequence.request.request_id,
                sequence.index,
                tokens=tuple(tokens),
                deltas=tuple(deltas),
                logprobs=tuple(logprobs),
                prompt_logprobs=self._take_prompt_logprobs(sequence),
                finish_reason=reason,
                stop=stop,
            ),
        )

    def _take_prompt_logprobs(self, sequence: SequenceState) -> tuple[TokenLogprob, ...]:
        """Those of the prompt go out once, with the first output of the first answer."""
        request = sequence.request
        if sequence.index or not request.prompt_logprobs:
            return ()
        scores, request.prompt_logprobs = tuple(request.prompt_logprobs), []
        return scores

    def _take(
        self, sequence: SequenceState, token: int, deltas: list[Delta]
    ) -> tuple[FinishReason | None, int | str | None]:
        """Append one token; whether it ends the sequence, and the stop id or string that did."""
        terminators = sequence.request.terminators
        sequence.append(token)
        sequence.output_counts[token] = sequence.output_counts.get(token, 0) + 1
        if sequence.structured_output is not None:
            sequence.structured_output.advance(token)
        if token in terminators:
            return FinishReason.STOP, token
        # A model's stop id that does not stop (ignore_eos) is no text either.
        if sequence.detokenizer is not None and token not in self.config.stop_ids:
            deltas += sequence.detokenizer.feed(token)
            if sequence.detokenizer.stopped_by is not None:
                return FinishReason.STOP, sequence.detokenizer.stopped_by
        if (
            not terminators
            and sequence.structured_output is not None
            and sequence.structured_output.ended
        ):
            return FinishReason.STOP, None
        if len(sequence.tokens) >= sequence.request.max_length:
            return FinishReason.LENGTH, None
        return None, None

    # --- endings and figures -----------------------------------------------------------------

    def _fail(self, request: Request, error: PeriluneError) -> None:
        self._end(request, FinishReason.ERROR, error)

    def _end(
        self, request: Request, reason: FinishReason, error: PeriluneError | None = None
    ) -> None:
        """End what is left of a request."""
        for sequence in request.sequences:
            if sequence.state is not State.FINISHED:
                self.scheduler.finish(sequence)
                self._put(
                    sequence,
                    SequenceOutput(
                        request.request_id,
                        sequence.index,
                        finish_reason=reason,
                        error=None if error is None else str(error),
                        error_code="" if error is None else error.code,
                    ),
                )

    def _put(self, sequence: SequenceState, output: SequenceOutput) -> None:
        request = sequence.request
        if output.finish_reason is not None and request.finished:
            request.metrics.finished = self._clock()
            del self._requests[request.request_id]
            self.metrics.note_request(request.metrics)
            output = replace(output, metrics=request.metrics)
        self._outputs.append(output)

    def _note_tokens(self, sequence: SequenceState, drafts: list[int], taken: int) -> None:
        metrics = sequence.request.metrics
        if metrics.first_token is None:
            metrics.first_token = self._clock()
        metrics.output_tokens += taken
        if sequence.speculator is not None:
            sequence.speculator.observe(sequence.contents, taken, drafts)
        if drafts:
            metrics.proposed_tokens += len(drafts)
            metrics.accepted_tokens += taken - 1

    def _step_metrics(self, batch: SchedulerOutput, forward_seconds: float) -> StepMetrics:
        cost = self._read_cost
        drafts = sum(len(part.drafts) for part in batch.scheduled)
        context = sum(part.start + part.count + len(part.drafts) for part in batch.scheduled)
        return StepMetrics(
            rows=batch.num_tokens,
            sequences=len(batch.scheduled),
            draft_rows=drafts,
            forward_seconds=forward_seconds,
            bytes_read=None if cost is None else cost.step(batch.num_tokens, context),
            bandwidth=self.bandwidth,
        )


def _masks(state: StructuredOutput, drafts: list[int]) -> Masks:
    """The masks behind the sequence and behind each draft, up to a draft that is forbidden."""
    if not drafts:
        return [state.allowed()]
    ahead = state.fork()
    masks: Masks = []
    for draft in drafts:
        masks.append(ahead.allowed())
        allowed = masks[-1]
        if allowed is not None and not allowed[draft]:
            return masks  # this draft cannot come true; nothing behind it will be taken
        ahead.advance(draft)
    masks.append(ahead.allowed())
    return masks
