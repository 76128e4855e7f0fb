"""The oracle of all tasks over articles: it searches, fetches, reads, computes and answers.

It plays the task's solution through the tools, and relies only on what they really return: a page
that no search found, a value that no page tells, or a result that was not computed ends the episode
as lost. What it writes into its thinking is read off those pages.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator, Sequence
from fractions import Fraction
from typing import Literal

from perilune.agent.models.scripted import Call
from perilune.agent.world_tasks import article_address
from perilune.train.episodes import wording
from perilune.train.episodes.turn import LostError, Policy, Turn
from perilune.world.seed import Stream
from perilune.world.solution import Answer, Calculate, Read, Search, Step
from perilune.world.task import Task

Mistake = Literal["", "empty_hit", "wrong_key", "wrong_address", "exception"]
FEW = 3
"""Articles that one search found and that are read in one turn, also by who goes one by one."""
_LIMIT = re.compile(r"(?:above|than|exceeds?) (\d+)")


def mistakes_of(task: Task) -> list[Mistake]:
    """The mistakes that the oracle can make and repair in this task."""
    if task.family == "unanswerable":
        return ["wrong_key"]
    computes = any(isinstance(step, Calculate) for step in task.solution.serial)
    kinds: list[Mistake] = ["empty_hit", "wrong_key", "wrong_address"]
    return [*kinds, "exception"] if computes else kinds


class Researcher:
    """Plays one task. `together` puts calls that do not depend on each other into one turn."""

    def __init__(
        self, task: Task, stream: Stream, *, together: bool = False, mistake: Mistake = ""
    ) -> None:
        self._task = task
        self._stream = stream
        self._together = together and task.width > 1
        self._thoughts: list[str] = []
        self._read: list[Read] = []
        self._printed: dict[str, str] = {}
        self._mistake = mistake
        searches = sum(isinstance(step, Search) for step in task.solution.serial)
        self._right_before = 0 if self._together or not mistake else stream.below(searches)
        """How many searches go well before the mistake is made."""

    def play(self) -> Policy:
        self._think("begin")
        for steps in self._turns():
            first = steps[0]
            if isinstance(first, Calculate):
                yield from self._calculate(first)
            elif isinstance(first, Answer):
                yield from self._count(first)
                self._conclude(first)
                yield self._turn(answer=self._as_printed(first.text))
            else:
                searches = [step for step in steps if isinstance(step, Search)]
                if searches[0].reads:
                    yield from self._research(searches)
                else:
                    yield from self._find_nothing(searches[0])
                self._right_before -= 1

    def _turns(self) -> Iterator[Sequence[Step]]:
        """Steps that are played at once: all searches of a wide task, or each by itself."""
        steps = self._task.solution.serial
        if self._together:
            yield [step for step in steps if isinstance(step, Search)]
            steps = tuple(step for step in steps if not isinstance(step, Search))
        for step in steps:
            yield [step]

    def _errs(self, kind: Mistake) -> bool:
        """Whether this mistake is made now; each is made once."""
        if kind != self._mistake or self._right_before > 0:
            return False
        self._mistake = ""
        return True

    # --- searching and reading ----------------------------------------------------------------

    def _research(self, searches: Sequence[Search]) -> Policy:
        """Find and read the articles that these searches are for."""
        if self._errs("empty_hit"):
            yield from self._misspell(searches[0])
        results = yield from self._search([search.query for search in searches])
        unseen = [
            search
            for search, text in zip(searches, results, strict=True)
            if not all(_holds(text, read.article) for read in search.reads)
        ]
        if unseen:
            self._think("other_words")
            more = yield from self._search([_shorter(search) for search in unseen], most=20)
            results = [*results, *more]
        articles = list(dict.fromkeys(read.article for each in searches for read in each.reads))
        for article in articles:
            if not any(_holds(text, article) for text in results):
                raise LostError(f"no search finds {article}")
        pages = yield from self._fetch(articles)
        for search in searches:
            for read in search.reads:
                self._note(read, pages[read.article])

    def _search(
        self, queries: Sequence[str], *, most: int | None = None
    ) -> Generator[Turn, list[str], list[str]]:
        """Search for each of the queries; their results."""
        self._think("search_many" if len(queries) > 1 else "search", query=queries[0])
        count = {} if most is None else {"count": most}
        calls = [Call("search", {"query": query, **count}) for query in queries]
        if not self._errs("wrong_key"):
            return (yield self._turn(*calls))
        wrong = self._stream.below(len(calls))
        right, key = calls[wrong], self._stream.pick(("q", "text", "keywords"))
        calls[wrong] = Call("search", {key: queries[wrong]})
        results = yield self._turn(*calls, mistake="wrong_key")
        if "do not fit its schema" not in results[wrong]:
            raise LostError("a search with a wrong key was not refused")
        self._think("wrong_key")
        results[wrong] = (yield self._turn(right))[0]
        return results

    def _misspell(self, search: Search) -> Policy:
        """Search for a name or a number that is mistyped, and see that there is no such."""
        word = next((word for word in search.query.split() if word[0].isupper()), "")
        word = word or search.query.split()[-1]
        typed = self._mistyped(word)
        self._think("search", query=typed)
        (text,) = yield self._turn(Call("search", {"query": typed}), mistake="empty_hit")
        if not text.startswith("nothing found"):
            raise LostError(f"a search for {typed!r} found something")
        self._think("empty_hit", typed=typed, word=word)

    def _mistyped(self, word: str) -> str:
        """A word with one slip that stands in no article: two letters in the wrong order, or a
        digit too many."""
        text = " ".join(f"{each.title} {each.text}" for each in self._task.articles())
        known = set(re.findall(r"\w+", text))
        typed = word
        while typed in known or typed == word:
            if word.isdigit():
                typed = f"{word}{self._stream.below(1000)}"
            else:
                at = self._stream.between(1, len(word) - 2)
                typed = f"{word[:at]}{word[at + 1]}{word[at]}{word[at + 2 :]}"
        return typed

    def _fetch(self, articles: Sequence[str]) -> Generator[Turn, list[str], dict[str, str]]:
        """The pages of articles: all in one turn where calls are put together, or a few."""
        pages: dict[str, str] = {}
        if self._errs("wrong_address"):
            yield from self._wrong_address(articles[0])
        at_once = len(articles) if self._together or len(articles) <= FEW else 1
        for start in range(0, len(articles), at_once):
            these = articles[start : start + at_once]
            self._think("fetch_many" if len(these) > 1 else "fetch")
            calls = [Call("fetch", {"url": article_address(each)}) for each in these]
            pages.update(zip(these, (yield self._turn(*calls)), strict=True))
        return pages

    def _wrong_address(self, article: str) -> Policy:
        self._think("fetch")
        # Without its scheme, or one beyond the end of the corpus.
        beyond = article_address(f"a{900 + self._stream.below(100)}")
        url = self._stream.pick((article, beyond))
        (text,) = yield self._turn(Call("fetch", {"url": url}), mistake="wrong_address")
        if not text.startswith("Error"):
            raise LostError(f"fetching {url!r} gave no error")
        self._think("wrong_address", address=article_address(article))

    def _note(self, read: Read, page: str) -> None:
        """Write down what the page tells, after seeing that it does."""
        if re.search(rf"(?<!\w){re.escape(read.value)}(?!\w)", page) is None:
            raise LostError(f"{read.article} does not tell {read.fact} = {read.value}")
        self._read.append(read)
        title = page.split("\n", 1)[0].removeprefix("# ")
        source = "" if read.fact.startswith(f"{title}.") else f"{title}: "
        self._thoughts.append(f"{source}{read.fact} = {read.value}.")

    def _find_nothing(self, search: Search) -> Policy:
        """Look where it would stand, look once more in other words, and find nothing."""
        name = search.query.split()[0]
        article = self._task.world.article_ids.get(name)
        (hits,) = yield from self._search([search.query])
        found = article is not None and _holds(hits, article)
        if article is not None and found:
            yield from self._fetch([article])
            self._think("not_in_article", name=name)
        else:
            self._think("nobody", name=name)
        (hits,) = yield from self._search([name])
        if article is None and not hits.startswith("nothing found"):
            raise LostError(f"something was found on {name}, which does not exist")
        if article is not None and not found:
            if not _holds(hits, article):
                raise LostError(f"no search finds the article on {name}")
            yield from self._fetch([article])

    # --- computing and concluding --------------------------------------------------------------

    def _calculate(self, step: Calculate) -> Policy:
        if self._errs("exception"):
            code = _raising(step.expression, self._stream)
            self._think("calculate")
            (text,) = yield self._turn(Call("python", {"code": code}), mistake="exception")
            if "Error" not in text:
                raise LostError("wrong code raised nothing")
            self._think("exception", error=text.strip().splitlines()[-1].split(":")[0])
        self._think("calculate")
        (text,) = yield self._turn(Call("python", {"code": step.expression}))
        try:
            wrong = abs(Fraction(text.strip()) - Fraction(step.value)) > Fraction(1, 100)
        except ValueError:
            wrong = True
        if wrong:
            raise LostError(f"{step.expression} gave {text!r}, not {step.value}")
        # Python rounds halves to even; the answer is what it printed.
        self._printed[step.value] = text.strip()
        self._thoughts.append(f"The result is {text.strip()}.")

    def _count(self, answer: Answer) -> Policy:
        """Count with Python what is above a limit: a number of an answer must stand somewhere."""
        if self._task.variant != "count":
            return
        limit = _LIMIT.search(self._task.prompt)
        if limit is None:
            raise LostError("the limit of the count is not in the question")
        listed = ", ".join(read.value.split()[0] for read in self._read)
        code = f"sum(x > {limit[1]} for x in ({listed}))"
        yield from self._calculate(Calculate(code, answer.text))

    def _as_printed(self, text: str) -> str:
        for value, printed in self._printed.items():
            text = re.sub(rf"(?<![\d.]){re.escape(value)}(?![\d.]*\d)", printed, text)
        return text

    def _conclude(self, answer: Answer) -> None:
        if self._task.family in ("comparison", "selection"):
            self._thoughts += wording.compared(self._read, self._task, answer.text)
        if self._task.family == "unanswerable":
            self._think("unknown")
        else:
            self._think("answer")

    # --- turns -------------------------------------------------------------------------------

    def _think(self, key: str, **fields: str) -> None:
        self._thoughts.append(wording.sentence(key, self._stream, **fields))

    def _turn(self, *calls: Call, answer: str = "", mistake: str = "") -> Turn:
        thinking = " ".join(self._thoughts)
        self._thoughts.clear()
        return Turn(thinking, calls, answer, mistake)


def _holds(hits: str, article: str) -> bool:
    """Whether a list of hits names the article."""
    return f"   {article_address(article)}\n" in hits


def _shorter(search: Search) -> str:
    """Other words for a search: what is asked about, without what is asked of it."""
    first, *_, last = search.query.split()
    return first if first[0].isupper() else last


def _raising(expression: str, stream: Stream) -> str:
    """An expression with a slip for which Python raises."""
    if stream.chance(0.5):
        return f"({expression}"
    return re.sub(r"\d+", lambda number: f"'{number[0]}'", expression, count=1)
