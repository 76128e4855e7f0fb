"""A `ChatModel` that samples from the policy in training, and keeps the very ids that it sampled.

The agent's loop sees messages; what is trained is token ids. Between two completions only what is
new (results of tools, words of Perilune's own) is encoded: what was sampled stays as it was
sampled, also where the tokenizer would cut the same text otherwise.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection, Sequence
from typing import Any, Protocol

from perilune.agent.models.chat_model import Message, Sampling
from perilune.agent.models.wire import to_wire
from perilune.chat.deltas import Delta, Finished, FinishReason, Truncated
from perilune.chat.format import ChatFormat
from perilune.errors import UsageError
from perilune.train.rl.rollout import Policy, Sample, Trajectory


class AsyncPolicy(Protocol):
    """What continues token ids, many prompts at a time."""

    async def sample(
        self,
        prompt: Sequence[int],
        *,
        max_tokens: int,
        temperature: float,
        stop_ids: Collection[int],
        seed: int,
    ) -> Sample:
        """One continuation. The same seed and weights give the same one."""
        ...


class OneByOne:
    """A `Policy` as an `AsyncPolicy`: each prompt by itself."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy

    async def sample(
        self,
        prompt: Sequence[int],
        *,
        max_tokens: int,
        temperature: float,
        stop_ids: Collection[int],
        seed: int,
    ) -> Sample:
        (sample,) = self._policy.sample(
            prompt, samples=1, max_tokens=max_tokens, temperature=temperature, stop_ids=stop_ids,
            seed=seed,
        )  # fmt: skip
        return sample


class PolicyModel:
    """One attempt's model. `max_tokens` bounds what all of its completions generate together,
    `longest` the whole conversation; beyond them the attempt is cut off.
    """

    name = "policy"
    endpoint = "policy"
    context_window = None

    def __init__(
        self, policy: AsyncPolicy, chat: ChatFormat, *, max_tokens: int, temperature: float,
        seed: int, longest: int | None = None,
    ) -> None:  # fmt: skip
        self._policy, self._chat, self._longest = policy, chat, longest
        self._left, self._temperature, self._seed = max_tokens, temperature, seed
        self._ids: list[int] = []
        self._generated: list[bool] = []
        self._logprobs: list[float] = []
        self._messages = 0  # of the conversation, as far as `_ids` tells it
        self._whole = True

    async def prepare(self) -> None:
        pass

    async def close(self) -> None:
        pass

    def count_tokens(
        self, messages: Sequence[Message], tools: Sequence[dict[str, Any]]
    ) -> int | None:
        return None

    async def complete(
        self, messages: Sequence[Message], tools: Sequence[dict[str, Any]], sampling: Sampling
    ) -> AsyncGenerator[Delta, None]:
        new = self._new_ids(messages, tools) if self._whole else None
        prompt = [*self._ids, *(new or ())]
        limits = [self._left]
        if sampling.max_tokens is not None:
            limits.append(sampling.max_tokens)
        if self._longest is not None:
            limits.append(self._longest - len(prompt))
        if new is None or min(limits) <= 0:
            self._whole = False
            yield Finished(FinishReason.STOP)
            return
        sample = await self._policy.sample(
            prompt,
            max_tokens=min(limits),
            temperature=self._temperature,
            stop_ids=self._chat.stop_ids,
            seed=self._seed + len(prompt),
        )
        self._left -= len(sample.ids)
        self._ids = [*prompt, *sample.ids]
        self._generated += [False] * len(new) + [True] * len(sample.ids)
        self._logprobs += sample.logprobs
        self._messages = len(messages) + 1
        parser = self._chat.parser(tools=tools)
        deltas = [delta for id_ in sample.ids for delta in parser.feed(id_)] + parser.finish()
        cut = not sample.finished
        for delta in deltas:
            cut = cut or isinstance(delta, Truncated)
            if not isinstance(delta, Finished):  # its own comes below
                yield delta
        self._whole = self._whole and sample.finished
        yield Finished(FinishReason.LENGTH if cut else FinishReason.STOP)

    def trajectory(self, header: Sequence[int], answer: str) -> Trajectory:
        """What was sampled, behind the `header` that every prompt begins with."""
        behind = len(header)
        if not self._ids:  # cut off before its first completion
            return Trajectory([], [], [], False, tuple(header), answer)
        if tuple(self._ids[:behind]) != tuple(header):
            raise UsageError("the prompts do not begin with the header that was given")
        return Trajectory(
            self._ids[behind:], self._generated[behind:], self._logprobs, self._whole,
            tuple(header), answer,
        )  # fmt: skip

    def _new_ids(
        self, messages: Sequence[Message], tools: Sequence[dict[str, Any]]
    ) -> list[int] | None:
        """What the conversation says behind `_ids`; None where it goes on otherwise."""
        prompt = self._chat.encode(to_wire(messages), tools)
        known = self._ids
        if prompt[: len(known)] != known:
            told = to_wire(messages[: self._messages])
            known = self._chat.encode(
                told, tools, add_generation_prompt=False, preserve_thinking=True
            )
        return prompt[len(known) :] if prompt[: len(known)] == known else None
