"""The scheduler: which sequences compute which of their tokens in the next step, in which pages.

Continuous batching: every step takes one token of each decoding sequence (and the tokens guessed
behind it) and fills the rest of its rows with chunks of prompts. Order is (priority, arrival).
Memory goes by the same order: a sequence that needs a page takes it from the last in order, which
gives up all its pages and computes its tokens again later (mostly found in the prefix cache). The
first in order always gets on, and every sequence fits alone, so all of them end.
Sources: Orca (OSDI 2022); arXiv 2309.06180 (vLLM); arXiv 2308.16369 (chunked prefill).
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from perilune.engine.request import Request, SequenceState, State
from perilune.engine.scheduler_output import ScheduledSequence, SchedulerOutput
from perilune.errors import EngineError
from perilune.runner.pages import PAGE_SIZE, pages_for

if TYPE_CHECKING:
    from perilune.engine.page_allocator import PageAllocator
    from perilune.engine.prefix_cache import PrefixCache

MAX_SCORED_ROWS = 64  # of a prompt whose logits are all wanted: they are large
# Shared by a page that would have to be copied. Fewer gain little, and the markers with which every
# prompt begins should keep no page young.
MIN_COPIED_TOKENS = 4
# Rows of a prompt that are expanded together: a rest of fewer would not pay for its context.
EXPANDED_BLOCK = 128

Propose = Callable[[SequenceState, int], list[int]]  # (sequence, at most) -> guessed tokens


class MediaGate(Protocol):
    """Who knows which rows of pictures are there."""

    def ready(self, sequence: SequenceState) -> int:
        """Rows at positions below this can be computed now."""

    def admitted(self, sequence: SequenceState, first_time: bool) -> None:
        """A sequence begins to run, with `num_computed` tokens that were found in the cache."""


@dataclass(frozen=True, slots=True)
class SchedulerConfig:
    """max_batch_tokens: rows of a step, at most, so also the largest chunk of a prompt."""

    max_batch_tokens: int = 512
    max_sequences: int = 64  # running at once
    max_draft_tokens: int = 12  # guessed behind one token; 0 turns speculation off
    expanded_prefill: int = 0  # tokens of a prompt, not cached, from which it is expanded; 0: never

    def __post_init__(self) -> None:
        if self.max_sequences < 1 or self.max_draft_tokens < 0:
            raise EngineError("max_sequences must be at least 1 and max_draft_tokens at least 0")
        if self.max_batch_tokens < self.max_sequences:
            raise EngineError(
                f"max_batch_tokens {self.max_batch_tokens} is below max_sequences "
                f"{self.max_sequences}",
                remedy="A step needs a row for each running sequence",
            )


class Scheduler:
    """Owns the two queues and says who holds which page."""

    def __init__(
        self,
        config: SchedulerConfig,
        pages: PageAllocator,
        prefix_cache: PrefixCache,
        media: MediaGate | None = None,
    ) -> None:
        """`media`: None where no request shows pictures."""
        self.config = config
        self._media = media
        self.pages = pages
        self.prefix_cache = prefix_cache
        self.waiting: list[SequenceState] = []  # both queues are kept in order
        self.running: list[SequenceState] = []
        self._scheduled: dict[SequenceState, ScheduledSequence] = {}
        self._copies: list[tuple[int, int]] = []

    # --- the queues --------------------------------------------------------------------------

    def add(self, request: Request) -> None:
        """Queue the first sequence; the others join when the prompt is computed (`fork`)."""
        first = request.sequences[0]
        if not self.prefix_cache.has_numbers(request.media):
            self._forget_names(self.prefix_cache.renew)
        first.contents = self.prefix_cache.contents(first.tokens, request.media)
        first.page_keys = [self.prefix_cache.root_key(request.cache_salt)]
        insort(self.waiting, first, key=_order)

    def fork(self, sequence: SequenceState, copy: SequenceState) -> None:
        """`copy` starts where `sequence` is and shares its pages, until one of them writes."""
        copy.continue_from(sequence)
        copy.num_computed = sequence.num_computed
        copy.pages = list(sequence.pages)
        copy.page_keys = list(sequence.page_keys)
        copy.num_named = sequence.num_named
        copy.expanded_until = sequence.expanded_until
        for page in copy.pages:
            self.pages.share(page)
        copy.state = State.RUNNING
        insort(self.running, copy, key=_order)

    def commit(self, sequence: SequenceState, num_computed: int) -> None:
        """The first `num_computed` tokens are in the cache; name the pages that they fill."""
        self._copies = []  # they were made before the step
        sequence.num_computed = num_computed
        full = num_computed // PAGE_SIZE
        if full > sequence.num_named:
            self.prefix_cache.extend_keys(
                sequence.page_keys, sequence.tokens, sequence.request.media
            )
            for index in range(sequence.num_named, full):
                tokens = sequence.contents[index * PAGE_SIZE : (index + 1) * PAGE_SIZE]
                self.prefix_cache.insert(sequence.page_keys, index, sequence.pages, tokens)
            sequence.num_named = full
        if num_computed == sequence.num_prompt:
            self._name_tail(sequence)  # for prompts that begin alike while this one is answered

    def finish(self, sequence: SequenceState) -> None:
        """Take a sequence out, wherever it is, and release its pages."""
        if sequence.state is State.RUNNING:
            self.running.remove(sequence)
        elif sequence.state is State.WAITING and sequence in self.waiting:
            self.waiting.remove(sequence)
        self._name_tail(sequence)
        self.pages.release_sequence(sequence.pages)
        sequence.state = State.FINISHED

    def clear_prefix_cache(self) -> None:
        """Forget all names; what is running will name its pages again, as it goes on."""
        self._forget_names(self.prefix_cache.clear)

    def _forget_names(self, forget: Callable[[], None]) -> None:
        forget()
        for sequence in self.running:
            sequence.num_named = 0

    # --- a step ------------------------------------------------------------------------------

    def schedule(self, propose: Propose | None = None) -> SchedulerOutput:
        """The next step. It is empty only when nothing is queued."""
        self._scheduled, self._copies = {}, []
        budget = self.config.max_batch_tokens
        decoding = [s for s in self.running if s.num_pending == 1]
        for done, sequence in enumerate(decoding):
            if not self._schedule(sequence, 1):
                continue
            budget -= 1
            if propose is not None:
                budget -= self._add_drafts(sequence, propose, budget, len(decoding) - done - 1)
        for sequence in [s for s in self.running if s.num_pending > 1]:
            budget -= self._schedule(sequence, budget)
        while self.waiting and budget > 0:
            sequence = self.waiting[0]
            if not self._admit(sequence):
                break
            budget -= self._schedule(sequence, budget)
        return SchedulerOutput(list(self._scheduled.values()), self._copies)

    def _schedule(self, sequence: SequenceState, budget: int) -> int:
        """Give the sequence up to `budget` rows, as many as there are pages for; how many."""
        if sequence.state is not State.RUNNING:
            return 0  # it gave its pages to one before it in this very step
        start = sequence.num_computed
        count = min(sequence.num_pending, budget)
        if self._media is not None:
            count = min(count, self._media.ready(sequence) - start)
        if sequence.scores_prompt:
            count = min(count, MAX_SCORED_ROWS)
        if count > 0 and not self._ensure_pages(sequence, start + count):
            count = min(count, (len(sequence.pages) + self.pages.num_available) * PAGE_SIZE - start)
            if count > 0 and not self._ensure_pages(sequence, start + count):
                return 0
        if count <= 0:
            return 0
        self._scheduled[sequence] = ScheduledSequence(sequence, start, count)
        return count

    def _add_drafts(
        self, sequence: SequenceState, propose: Propose, budget: int, still_to_decode: int
    ) -> int:
        """Guess tokens behind the one scheduled, in rows and pages that nobody else needs now."""
        end = sequence.num_computed + 1
        spare_pages = max(0, self.pages.num_available - still_to_decode)
        limit = min(
            self.config.max_draft_tokens,
            (budget - still_to_decode) // 2,  # the rest is for prompts
            sequence.request.max_length - len(sequence.tokens) - 1,
            (len(sequence.pages) + spare_pages) * PAGE_SIZE - end,
        )
        if limit <= 0:
            return 0
        drafts = propose(sequence, limit)
        self._ensure_pages(sequence, end + len(drafts))
        self._scheduled[sequence].drafts = drafts
        return len(drafts)

    # --- memory ------------------------------------------------------------------------------

    def _ensure_pages(self, sequence: SequenceState, end: int) -> bool:
        """Pages of its own for writing positions `num_computed` to `end`; False: not to be had."""
        written = sequence.num_computed // PAGE_SIZE  # index of the first page written to
        while True:
            shared = written < len(sequence.pages) and (
                self.pages.holders(sequence.pages[written]) > 1
            )
            missing = pages_for(end) - len(sequence.pages)
            if self.pages.num_available >= missing + shared:
                break
            victim = self.running[-1]
            if victim is sequence:
                return False
            self._preempt(victim)
        if shared:  # copy on write: only a page that is not full can be shared and written
            source = sequence.pages[written]
            sequence.pages[written] = self._copy(source)
            self.pages.release(source)
        sequence.pages.extend(self.pages.allocate() for _ in range(missing))
        return True

    def _copy(self, source: int) -> int:
        """A new page with the content of `source`, which may itself be taken for something else.

        Copies are made in order and before the step writes anything. So each finds what was in its
        source now, whoever takes that page in this step.
        """
        copy = self.pages.allocate()
        if copy != source:  # else it was the only page left, and goes on
            self._copies.append((source, copy))
        return copy

    def _name_tail(self, sequence: SequenceState) -> None:
        """Name the page that a sequence has filled in part, as far as its tokens are computed."""
        full, part = divmod(sequence.num_computed, PAGE_SIZE)
        # Nothing pending: the last row's logits could not be used, so its latents are suspect.
        if not part or not sequence.num_pending or sequence.num_named < full:
            return
        if all(target != sequence.pages[full] for _, target in self._copies):
            tokens = sequence.contents[full * PAGE_SIZE : sequence.num_computed]
            self.prefix_cache.insert_tail(sequence.page_keys, full, sequence.pages, tokens)

    def _preempt(self, sequence: SequenceState) -> None:
        """Take all pages of a running sequence; it waits and computes its tokens again."""
        self.running.remove(sequence)
        self._scheduled.pop(sequence, None)
        self._name_tail(sequence)
        self.pages.release_sequence(sequence.pages)
        sequence.state = State.WAITING
        sequence.num_computed = sequence.num_named = 0
        sequence.request.metrics.preemptions += 1
        insort(self.waiting, sequence, key=_order)

    def _admit(self, sequence: SequenceState) -> bool:
        """Start the first waiting sequence when there is a place and memory for all its tokens."""
        tokens, keys = sequence.tokens, sequence.page_keys
        self.prefix_cache.extend_keys(keys, tokens, sequence.request.media)
        # The last token is always computed: its logits are wanted.
        most = 0 if sequence.scores_prompt else len(tokens) - 1
        full = self.prefix_cache.match(keys, most // PAGE_SIZE)
        start = len(full) * PAGE_SIZE
        part, shared = self.prefix_cache.match_part(
            keys, full, sequence.contents[start : min(start + PAGE_SIZE, most)]
        )
        found = [node.page for node in full]
        source: int | None = None  # a page to copy
        if part is not None and shared == part.num_tokens and not self.pages.holders(part.page):
            found.append(part.page)  # and goes on in it: nobody reads what it will write
        elif part is not None and shared >= MIN_COPIED_TOKENS:
            source = part.page
        else:
            shared = 0
        for page in found:
            self.pages.share(page)
        if source is not None:
            self.pages.touch(source)
        missing = pages_for(len(tokens)) - len(found)
        while not self._has_room(sequence, missing):
            victim = self.running[-1]
            if victim.request.priority <= sequence.request.priority:
                self.pages.release_sequence(found)
                return False
            self._preempt(victim)
        if source is not None:
            found.append(self._copy(source))
        self.waiting.remove(sequence)
        sequence.pages = found
        sequence.num_named = len(full)
        sequence.num_computed = start + shared
        sequence.state = State.RUNNING
        if sequence.scores_prompt:
            sequence.request.prompt_logprobs.clear()  # of a start before a preemption
        if sequence.expanded_until is None:
            sequence.expanded_until = self._expanded_until(sequence)
        insort(self.running, sequence, key=_order)
        first_time = not sequence.num_output and not sequence.request.metrics.preemptions
        if first_time:
            sequence.request.metrics.cached_tokens = sequence.num_computed
        if self._media is not None:
            self._media.admitted(sequence, first_time)
        return True

    def _expanded_until(self, sequence: SequenceState) -> int:
        """How far a prompt that now begins to be computed attends in the expanded form.

        Whole blocks of what is not cached, where that is long. Decided once, so that neither chunks
        nor a preemption can change it.
        """
        new = sequence.num_prompt - sequence.num_computed
        least = self.config.expanded_prefill
        if not least or new < least or sequence.scores_prompt:
            return 0
        return sequence.num_computed + new // EXPANDED_BLOCK * EXPANDED_BLOCK

    def _has_room(self, sequence: SequenceState, missing: int) -> bool:
        """A place for its n answers; pages for it, for prompts under way, and to grow."""
        if not self.running:
            return True
        places = sum(_places(s) for s in self.running) + _places(sequence)
        promised = sum(max(0, pages_for(len(s.tokens)) - len(s.pages)) for s in self.running)
        return (
            places <= self.config.max_sequences
            and self.pages.num_available >= missing + promised + len(self.running)
        )


def _order(sequence: SequenceState) -> tuple[int, int, int]:
    return sequence.order


def _places(sequence: SequenceState) -> int:
    """Sequences that this one is or will be: before its fork, all n of the request."""
    forked = len(sequence.request.sequences) == sequence.request.params.n
    return 1 if forked else sequence.request.params.n
