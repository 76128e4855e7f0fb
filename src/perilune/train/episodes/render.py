"""An episode as token ids and a loss mask, by the chat format that serves the model.

A sequence is what the model sees when it gives an answer, and that answer. Ids that it wrote itself
have loss 1; prompts, tool results and planted mistakes have 0. Reasoning of a finished chain is
dropped from later prompts when a model is served, so each chain is a sequence of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from perilune.agent.models.wire import to_wire
from perilune.chat.format import ChatFormat
from perilune.train.episodes.episode import Episode


class Rendered(NamedTuple):
    """Ids, and for each of them whether it is learned (1) or only read (0)."""

    ids: list[int]
    loss: list[int]


def render_episode(
    episode: Episode,
    chat_format: ChatFormat,
    *,
    thinking: bool = True,
    learn_mistakes: bool = False,
) -> list[Rendered]:
    """One sequence a chain of calls that ends in an answer; most episodes are one chain.

    With `thinking` False it is the episode of a model that was told not to think, where the format
    has such a thing. Raises ChatError for messages that the format cannot hold.
    """
    messages = to_wire(episode.messages)
    if not thinking and chat_format.template.can_switch_thinking:
        messages = [
            {key: value for key, value in message.items() if key != "reasoning_content"}
            for message in messages
        ]
    own = [at for at, message in enumerate(messages) if message["role"] == "assistant"]
    sequences = []
    begin = 0
    for answer in (at for at in own if not messages[at].get("tool_calls")):
        prompt = chat_format.encode(messages[:answer], episode.tools, thinking=thinking)
        whole = chat_format.encode(
            messages[: answer + 1],
            episode.tools,
            thinking=thinking,
            preserve_thinking=True,
            add_generation_prompt=False,
        )
        middle = chat_format.special_ids.im_middle
        opening = len(prompt) - _last(prompt, middle)
        ids = prompt + whole[_last(whole, middle) + opening :]
        learned = {
            number
            for number, at in enumerate(own)
            if begin <= at <= answer and (learn_mistakes or at not in episode.mistakes)
        }
        sequences.append(Rendered(ids, _loss(ids, learned, opening, chat_format)))
        begin = answer + 1
    return sequences


def _loss(
    ids: Sequence[int], learned: set[int], opening: int, chat_format: ChatFormat
) -> list[int]:
    """1 for the ids of the learned turns (by number), from where a prompt ends to their last.

    Only the format writes special tokens, so they mark turns and nothing else. `opening` counts
    the ids from a turn's `<|im_middle|>` to the end of its prompt.
    """
    special = chat_format.special_ids
    loss = [0] * len(ids)
    number = -1
    start = None
    ours = False
    for at, token in enumerate(ids):
        if token == special.im_assistant:
            number += 1
            ours = number in learned
        elif token == special.im_middle and ours:
            start = at + opening
        elif token == special.im_end and ours and start is not None:
            loss[start : at + 1] = [1] * (at + 1 - start)
            start, ours = None, False
    return loss


def _last(ids: Sequence[int], token: int | None) -> int:
    """The last place of a token."""
    return next(at for at in range(len(ids) - 1, -1, -1) if ids[at] == token)
