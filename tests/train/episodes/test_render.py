"""Ids and loss of an episode are what a served model would see and write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from perilune.agent.models.wire import to_wire
from perilune.chat import ChatFormat
from perilune.chat.deltas import (
    ContentDelta,
    Delta,
    ReasoningDelta,
    ToolCallArguments,
    ToolCallStart,
)
from perilune.errors import UsageError
from perilune.sandbox import Sandbox
from perilune.train.episodes import (
    Episode,
    Plan,
    encode_episode,
    read_episodes,
    record_episode,
    render_episode,
)
from perilune.world import Seed, Split


@pytest.fixture
async def episode(sandbox: Sandbox) -> Episode:
    """Nine turns, one of them a planted mistake."""
    plan = Plan(mistakes=1, together=False)
    played = await record_episode(Seed(Split.TRAIN, 3), "hops", plan=plan, sandbox=sandbox)
    assert isinstance(played, Episode) and played.mistakes
    return played


def runs(rendered: tuple[list[int], list[int]]) -> list[tuple[int, list[int]]]:
    """Each run of learned ids, with where it starts."""
    ids, loss = rendered
    found: list[tuple[int, list[int]]] = []
    for at, learned in enumerate(loss):
        if learned and (at == 0 or not loss[at - 1]):
            found.append((at, []))
        if learned:
            found[-1][1].append(ids[at])
    return found


def said(deltas: list[Delta]) -> tuple[str, str, list[tuple[str, str]]]:
    """Reasoning, content and calls of a parsed turn."""
    reasoning = "".join(each.text for each in deltas if isinstance(each, ReasoningDelta))
    content = "".join(each.text for each in deltas if isinstance(each, ContentDelta))
    names = [each.name for each in deltas if isinstance(each, ToolCallStart)]
    arguments = [""] * len(names)
    for each in deltas:
        if isinstance(each, ToolCallArguments):
            arguments[each.index] += each.text
    return reasoning, content, list(zip(names, arguments, strict=True))


def expected(
    message: dict[str, Any], chat_format: ChatFormat, thinking: bool
) -> tuple[str, str, list[tuple[str, str]]]:
    template = chat_format.template
    thinks = template.has_thinking and (thinking or not template.can_switch_thinking)
    reasoning = message["reasoning_content"] if thinks else ""
    functions = [call["function"] for call in message.get("tool_calls", ())]
    calls = [(function["name"], function["arguments"]) for function in functions]
    return reasoning, message["content"] or "", calls


@pytest.mark.parametrize("thinking", [True, False])
def test_every_turn_follows_its_own_prompt(
    episode: Episode, chat_format: ChatFormat, thinking: bool
) -> None:
    """Before a learned run stands the very prompt that the engine would get at that step, and the
    run, parsed as the engine parses it, is the turn."""
    (sequence,) = render_episode(episode, chat_format, thinking=thinking, learn_mistakes=True)
    messages = to_wire(episode.messages)
    own = [at for at, message in enumerate(messages) if message["role"] == "assistant"]
    found = runs(sequence)
    assert len(found) == len(own) == episode.steps
    for (start, written), at in zip(found, own, strict=True):
        history = messages[:at]
        if not thinking and chat_format.template.can_switch_thinking:
            history = [{k: v for k, v in m.items() if k != "reasoning_content"} for m in history]
        prompt = chat_format.encode(history, episode.tools, thinking=thinking)
        assert sequence.ids[:start] == prompt
        assert written[-1] == chat_format.special_ids.im_end
        parser = chat_format.parser(thinking=thinking, tools=episode.tools, prompt=prompt)
        deltas = [delta for token in written for delta in parser.feed(token)]
        deltas += parser.finish("stop")
        assert said(deltas) == expected(messages[at], chat_format, thinking)
    assert found[-1][0] + len(found[-1][1]) == len(sequence.ids)


def test_mistakes_and_results_are_not_learned(episode: Episode, chat_format: ChatFormat) -> None:
    (sequence,) = render_episode(episode, chat_format)
    (everything,) = render_episode(episode, chat_format, learn_mistakes=True)
    assert sequence.ids == everything.ids
    left_out = [
        (a, b) for a, b in zip(sequence.loss, everything.loss, strict=True) if (a, b) == (0, 1)
    ]
    (at,) = episode.mistakes
    call = episode.messages[at]["tool_calls"][0]["function"]["arguments"]
    assert len(left_out) >= len(chat_format.tokenizer.encode(call))
    learned = chat_format.decode([i for i, use in zip(*sequence, strict=True) if use])
    for message in episode.messages:
        if message["role"] == "tool":
            assert message["content"] not in learned
    assert call not in learned
    assert episode.answer in learned
    assert ("I search" in learned or "look" in learned) is chat_format.template.has_thinking


def test_an_objection_makes_a_second_chain(episode: Episode, chat_format: ChatFormat) -> None:
    """After an answer that was objected to, a served prompt holds no old reasoning."""
    asked = {"role": "user", "content": "Are you sure?"}
    again = {"role": "assistant", "content": episode.answer, "reasoning_content": "Yes, quite."}
    longer = Episode(
        **{name: getattr(episode, name) for name in episode.__struct_fields__}
        | {"messages": [*episode.messages, asked, again]}
    )
    first, second = render_episode(longer, chat_format, learn_mistakes=True)
    assert [first] == render_episode(episode, chat_format, learn_mistakes=True)
    ((start, written),) = runs(second)
    assert second.ids[:start] == chat_format.encode(to_wire(longer.messages[:-1]), episode.tools)
    assert (episode.answer in chat_format.decode(written)) is True
    if chat_format.template.has_thinking:
        assert "Yes, quite." in chat_format.decode(written)
        assert "Yes, quite." not in chat_format.decode(first.ids)


async def test_episodes_on_disk(episode: Episode, tmp_path: Path) -> None:
    path = tmp_path / "episodes.jsonl"
    path.write_bytes(encode_episode(episode) + b"\n" + encode_episode(episode) + b"\n")
    assert list(read_episodes(path)) == [episode, episode]
    with path.open("ab") as file:
        file.write(b'{"family": "hops"\n')
    with pytest.raises(UsageError, match="line 3 is no episode"):
        list(read_episodes(path))
