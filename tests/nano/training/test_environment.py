"""nano's tasks through the agent's own loop, with a policy that plays the oracle's turns."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import pytest

from perilune.chat.tokenizer import Tokenizer
from perilune.nano.training.environment import NanoTasks
from perilune.nano.training.episode import play
from perilune.nano.training.facts import facts_of_seed
from perilune.nano.training.policy import POLICIES
from perilune.nano.training.render import Renderer
from perilune.train.rl.rollout import Policy, Sample, make_environment
from perilune.train.tokenizer import write_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bytes")
    write_tokenizer(folder, [bytes([byte]) for byte in range(256)])
    return folder


class Oracle:
    """Continues a prompt as the ids of a solved episode do; `spoilt` changes the last answer."""

    def __init__(self, ids: list[int], stop: int, *, spoilt: int | None = None) -> None:
        self._ids, self._stop, self._spoilt = ids, stop, spoilt

    def sample(
        self,
        prompt: Sequence[int],
        *,
        samples: int,
        max_tokens: int,
        temperature: float,
        stop_ids: Collection[int],
        seed: int,
    ) -> list[Sample]:
        assert self._ids[: len(prompt)] == list(prompt)
        rest = self._ids[len(prompt) :]
        said = rest[: rest.index(self._stop) + 1][:max_tokens]
        if self._spoilt is not None and len(said) == len(rest):
            said[-2] = self._spoilt
        return [Sample(said, [-0.5] * len(said), said[-1] == self._stop)] * samples


def test_an_oracle_is_rewarded_and_only_its_own_tokens_are_learnt(tokenizer: Path):
    environment = make_environment("nano", 0, tokenizer, {"families": {"lookup": 1, "hops": 1}})
    assert isinstance(environment, NanoTasks)
    vocabulary = Tokenizer.from_pretrained(tokenizer)
    renderer = Renderer(vocabulary)
    stop = vocabulary.special_ids.im_end
    assert stop is not None
    for index in range(3):
        task = environment.task(index)
        played = play(task.prompt, POLICIES[task.family](task), facts_of_seed(task.seed))
        ids, trained = renderer.render(played.messages)
        whole = [*renderer.header, *ids]

        def attempt(policy: Policy, limit: int = 4000, index: int = index):
            (one,) = environment.rollouts(
                policy, index, samples=1, max_tokens=limit, temperature=1.0, seed=1
            )
            return one, environment.reward(index, one)

        right, reward = attempt(Oracle(whole, stop))
        assert (reward, right.answer, right.finished) == (1.0, played.answer, True)
        assert right.ids == ids
        assert right.generated == trained
        assert list(right.header) == renderer.header
        wrong, reward = attempt(Oracle(whole, stop, spoilt=ord("?")))
        assert wrong.answer != played.answer or reward == 1.0
        cut, reward = attempt(Oracle(whole, stop), limit=60)
        assert (reward, cut.finished, cut.tokens) == (0.0, False, 60)


def test_tasks_are_a_pure_function_of_the_index(tokenizer: Path):
    one, other = NanoTasks(0, tokenizer), NanoTasks(0, tokenizer)
    assert [one.task(i).prompt for i in range(5)] == [other.task(i).prompt for i in range(5)]
    assert NanoTasks(1, tokenizer).task(0).prompt != one.task(0).prompt
