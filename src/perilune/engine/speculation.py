"""Speculation by lookup: guess that the text goes on as it, or others, went on the last time.

The last few tokens are looked up earlier in the same text (prompt and output), and in what the
model has said in other requests (`text_memory`); what followed them is proposed. Each guess is
checked against the token that the sampler picks at its place with the randomness of that place, so
the text is exactly the one without speculation; guesses only decide how many tokens a step yields.
Numbers below 0 are rows of pictures: nothing is looked up across them, and none is ever guessed.
How many are made is learnt: a guess must come true, together with all before it, as often as its
row costs of a step.
Source: prompt lookup decoding (A. Saxena, 2023); arXiv 2211.17192 for checking in one forward.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence

from perilune.engine.text_memory import ORDERS, TextMemory

LONGEST, SHORTEST = 4, 1  # tokens looked up: the longest match is the likeliest to go on alike
WINDOW = 32_768  # tokens looked back at, at most
_WIDTH = array("i").itemsize


class RowCost:
    """What a further row costs, learnt from the steps of decoding: seconds = base + rows * each.

    A guess that comes true saves a share of a step, and every guess costs a row. With S sequences
    guessing pays where more than S * each / (base + S * each) of the guesses come true.
    """

    PRIOR = 0.3  # until enough is known
    MEMORY = 1 / 64  # weight of the latest step
    LEAST_STEPS = 32

    def __init__(self) -> None:
        self._steps = 0
        self._rows = self._seconds = self._rows_squared = self._product = 0.0  # moving means

    def observe(self, rows: int, seconds: float) -> None:
        self._steps += 1
        weight = max(1 / self._steps, self.MEMORY)
        self._rows += weight * (rows - self._rows)
        self._seconds += weight * (seconds - self._seconds)
        self._rows_squared += weight * (rows * rows - self._rows_squared)
        self._product += weight * (rows * seconds - self._product)

    def break_even(self, sequences: int) -> float:
        """Share of the guesses that must come true, with this many sequences in a step."""
        variance = self._rows_squared - self._rows**2
        if self._steps < self.LEAST_STEPS or variance < 0.25:
            return self.PRIOR
        each = max(0.0, (self._product - self._rows * self._seconds) / variance)
        base = max(0.0, self._seconds - each * self._rows)
        return sequences * each / (base + sequences * each) if each else 0.0


class Survival:
    """How often guesses came true, by how much of the text agreed before them and by their place.

    Shared by all sequences of an engine: a turn of an agent is too short to learn it anew.
    """

    BORDERS = (2, 3, 4, 8, 16)  # tokens that agree: kinds 0 to 5
    PRIOR = (0.3, 0.5, 0.5, 0.6, 0.8, 0.9)  # of a guess of each kind, those before it being right
    PRIOR_WEIGHT = 4.0
    MEMORY = 1 / 128  # weight of the latest
    PROBE = 16  # of so many times that guessing does not pay, one guess is made to see if it would
    PLACES = 16  # told apart

    def __init__(self) -> None:
        self._right = [[0.0] * self.PLACES for _ in self.PRIOR]  # decaying counts
        self._tried = [[0.0] * self.PLACES for _ in self.PRIOR]
        self._refrained = [0] * len(self.PRIOR)

    def kind(self, agreeing: int) -> int:
        """Of a match of so many tokens."""
        return sum(agreeing >= border for border in self.BORDERS)

    def share(self, kind: int, place: int) -> float:
        """How often the guess at `place` comes true, those before it being right."""
        place = min(place, self.PLACES - 1)
        right = self._right[kind][place] + self.PRIOR[kind] * self.PRIOR_WEIGHT
        return right / (self._tried[kind][place] + self.PRIOR_WEIGHT)

    def probes(self, kind: int) -> bool:
        """Whether a guess that does not pay is made this time, to see if it would."""
        self._refrained[kind] += 1
        return self._refrained[kind] % self.PROBE == 0

    def observe(self, kind: int, place: int, came_true: bool) -> None:
        right, tried = self._right[kind], self._tried[kind]
        place = min(place, self.PLACES - 1)
        right[place] += came_true - right[place] * self.MEMORY
        tried[place] += 1 - tried[place] * self.MEMORY


class NgramSpeculator:
    """The guesses of one sequence."""

    def __init__(self, survival: Survival, memory: TextMemory) -> None:
        self._survival = survival
        self._memory = memory
        self._text = bytearray()  # the tokens, 4 bytes each: searching bytes is fast
        self._sources: list[tuple[int, int] | None] = []  # kind and place of the guesses by lookup

    def propose(self, tokens: Sequence[int], limit: int, least_share: float) -> list[int]:
        """Up to `limit` tokens that may follow `tokens`: those that pay.

        `least_share` of the guesses must come true for that (`RowCost.break_even`).
        """
        known = len(self._text) // _WIDTH
        self._text += array("i", tokens[known:]).tobytes()
        self._sources = []
        at, kind = self._look_up(tokens)
        guesses: list[int] = []
        text = list(tokens[-ORDERS[0] :])
        all_right = 1.0
        while len(guesses) < limit:
            token, right = self._memory.guess(text) or (None, 0.0)
            source: tuple[int, int] | None = None
            if at is not None:
                copied = _follower(tokens, at, place := len(guesses))
                share = self._survival.share(kind, place)
                if copied < 0:
                    at = None
                elif share >= right:
                    token, right, source = copied, share, (kind, place)
                elif copied != token:
                    at = None
            all_right *= right
            if token is None or all_right < least_share:
                break
            guesses.append(token)
            text.append(token)
            self._sources.append(source)
        if not guesses and at is not None and limit > 0 and self._survival.probes(kind):
            guesses.append(tokens[at])
            self._sources.append((kind, 0))
        return guesses

    def observe(self, tokens: Sequence[int], count: int, guesses: Sequence[int]) -> None:
        """The last `count` of `tokens` were said where these (the latest) guesses were made."""
        said = tokens[len(tokens) - count :]
        for token, guess, source in zip(said, guesses, self._sources, strict=False):
            if source is not None:
                self._survival.observe(*source, token == guess)
        self._memory.learn(tokens, count)

    def _look_up(self, tokens: Sequence[int]) -> tuple[int | None, int]:
        for size in range(LONGEST, SHORTEST - 1, -1):
            if min(tokens[-size:], default=-1) < 0:
                continue
            start = self._find(size)
            if start is not None and tokens[start] >= 0:
                return start, self._survival.kind(_agreeing(tokens, start, size))
        return None, 0

    def _find(self, size: int) -> int | None:
        """Index of the token after the latest earlier occurrence of the last `size` tokens."""
        end = len(self._text)
        if end <= size * _WIDTH:
            return None
        pattern = self._text[end - size * _WIDTH :]
        least = max(0, end - WINDOW * _WIDTH)
        end -= _WIDTH  # before the occurrence at the very end
        while (at := self._text.rfind(pattern, least, end)) >= 0:
            if at % _WIDTH == 0:
                return at // _WIDTH + size
            end = at + len(pattern) - 1
        return None


def _follower(tokens: Sequence[int], at: int, place: int) -> int:
    """What follows at `place` behind a match; where it reaches the end, the text repeats itself."""
    return tokens[at + place % (len(tokens) - at)]


def _agreeing(tokens: Sequence[int], start: int, size: int) -> int:
    """How many tokens before `start` are those at the end, from `size` on; counted to 16."""
    most = min(start, Survival.BORDERS[-1])
    while size < most and tokens[start - 1 - size] == tokens[len(tokens) - 1 - size]:
        size += 1
    return size
