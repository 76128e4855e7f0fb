"""What the model has said before: how its texts went on after the same few tokens.

An agent's model writes the same forms again and again, in requests that share no text: markers of a
tool call, names of tools and arguments, turns of phrase. The memory knows for the last 2, 4 and 8
tokens what came next; speculation guesses by it where it is sure, and stops before a place where
texts differ. Sources: SuffixDecoding (arXiv 2411.04975) for guessing by earlier outputs, TAGE
(A. Seznec, P. Michaud, 2006) for trusting the longest context that knows.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

ORDERS = (8, 4, 2)  # tokens of context, the longest first
MOST_RIGHT, MOST_WRONG = 7, 3  # counted of one context
MOST_CONTEXTS = 1 << 15  # of one generation; the two of a memory take 20 MB
MOST_MEMORIES = 16


@dataclass(slots=True)
class Follower:
    """What came after a context; in how many of the latest times it was this, and was not."""

    token: int
    right: int = 0
    wrong: int = 0

    def observe(self, token: int) -> None:
        if token == self.token:
            self.right = min(self.right + 1, MOST_RIGHT)
            if self.right == MOST_RIGHT:
                self.wrong = max(self.wrong - 1, 0)
            return
        if self.right == 0:
            self.token = token
        self.right = max(self.right - 1, 0)
        self.wrong = min(self.wrong + 1, MOST_WRONG)


class Calibration:
    """How often a guess comes true, by the length of its context and its counts."""

    PRIOR_WEIGHT = 4.0
    MEMORY = 1 / 256  # weight of the latest

    def __init__(self) -> None:
        self._seen: dict[tuple[int, int, int], tuple[float, float]] = {}  # right, tried: decaying

    def share(self, order: int, known: Follower) -> float:
        right, tried = self._seen.get((order, known.right, known.wrong), (0.0, 0.0))
        prior = (known.right + 0.5) / (known.right + known.wrong + 1.5)
        return (right + prior * self.PRIOR_WEIGHT) / (tried + self.PRIOR_WEIGHT)

    def observe(self, order: int, known: Follower, came_true: bool) -> None:
        key = order, known.right, known.wrong
        right, tried = self._seen.get(key, (0.0, 0.0))
        kept = 1 - self.MEMORY
        self._seen[key] = right * kept + came_true, tried * kept + 1


class TextMemory:
    """Grows by what is said, and forgets contexts that do not come up again.

    It learns from every text, guessed or not: so what it says of itself needs no trials.
    """

    def __init__(
        self, calibration: Calibration | None = None, most_contexts: int = MOST_CONTEXTS
    ) -> None:
        self._calibration = calibration or Calibration()
        self._most = most_contexts
        self._latest: dict[tuple[int, ...], Follower] = {}
        self._earlier: dict[tuple[int, ...], Follower] = {}  # the generation before

    @property
    def num_contexts(self) -> int:
        return len(self._latest) + len(self._earlier)

    def learn(self, tokens: Sequence[int], count: int) -> None:
        """The last `count` of `tokens` have been said."""
        for end in range(max(len(tokens) - count, 0), len(tokens)):
            before = _behind_pictures(tokens[max(0, end - ORDERS[0]) : end])
            self._learn(before, tokens[end])
        if len(self._latest) > self._most:
            self._latest, self._earlier = {}, self._latest

    def guess(self, text: Sequence[int]) -> tuple[int, float] | None:
        """The likeliest token behind `text`, and how likely; None where nothing is known."""
        before = _behind_pictures(text[-ORDERS[0] :])
        for order in ORDERS:
            if order > len(before):
                continue
            context = before[-order:]
            known = self._latest.get(context) or self._earlier.get(context)
            if known is not None:
                return known.token, self._calibration.share(order, known)
        return None

    def _learn(self, before: tuple[int, ...], token: int) -> None:
        guessed = False
        for order in ORDERS:
            if order > len(before):
                continue
            context = before[-order:]
            known = self._latest.get(context) or self._earlier.pop(context, None)
            if known is None:
                self._latest[context] = Follower(token)
                continue
            self._latest[context] = known
            if not guessed:  # `guess` would have gone by this one
                self._calibration.observe(order, known, token == known.token)
                guessed = True
            known.observe(token)


def _behind_pictures(tokens: Sequence[int]) -> tuple[int, ...]:
    """The tokens behind the last row of a picture, which is a number below 0."""
    if tokens and min(tokens) < 0:
        last = max(place for place, token in enumerate(tokens) if token < 0)
        return tuple(tokens[last + 1 :])
    return tuple(tokens)


class TextMemories:
    """One for each salt: what one tenant's texts say, the speed of another's must not tell."""

    def __init__(self) -> None:
        self._calibration = Calibration()
        self._by_cache_salt: OrderedDict[str, TextMemory] = OrderedDict()

    def of(self, cache_salt: str) -> TextMemory:
        memory = self._by_cache_salt.setdefault(cache_salt, TextMemory(self._calibration))
        self._by_cache_salt.move_to_end(cache_salt)
        if len(self._by_cache_salt) > MOST_MEMORIES:
            self._by_cache_salt.popitem(last=False)
        return memory

    def clear(self) -> None:
        self._by_cache_salt.clear()
