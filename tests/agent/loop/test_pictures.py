"""Pictures in a run: by hash in the journal, whole before the model, dropped with words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from perilune.agent.agent import Agent
from perilune.agent.journal.journal import read_journal
from perilune.agent.journal.state import fold
from perilune.agent.models.scripted import Call, Refused, Reply, ScriptedModel
from perilune.agent.pictures.part import pictures_of
from perilune.agent.tool import ToolResult, tool
from perilune.errors import MediaError
from perilune.events import Compacted, ModelHasNoVision, PictureLost, ToolFinished, encode_event
from tests.agent.drawn import image_part, png, url


@tool(side_effects=False)
def look(name: str) -> ToolResult:
    """See a picture."""
    size = 30 + int(name)
    return ToolResult([{"type": "text", "text": name}, image_part(png(size, size), name=name)])


def urls_of(messages) -> list[str]:
    return [
        part["image_url"]["url"]
        for message in messages
        if isinstance(message["content"], list)
        for part in message["content"]
        if part["type"] == "image_url"
    ]


def texts_of(messages) -> str:
    return json.dumps([message["content"] for message in messages])


TASK = [{"type": "text", "text": "What is this?"}, image_part(png(), name="mock.png")]


def test_a_task_and_a_tool_show_pictures(make_agent, home: Path) -> None:
    agent = make_agent([Reply(calls=[Call("look", {"name": "4"})]), Reply("A red one.")], [look])
    result = agent.run(TASK)
    assert result.ok
    assert urls_of(agent.model.prompts[0]) == [url(png())]
    assert urls_of(agent.model.prompts[1]) == [url(png()), url(png(34, 34))]
    folder = home / "runs" / result.run
    assert len(list((folder / "pictures").iterdir())) == 2
    records = read_journal(folder).records
    for record in records:
        assert b"base64" not in encode_event(record.event)
    (done,) = [r.event for r in records if isinstance(r.event, ToolFinished)]
    (picture,) = pictures_of(done.content)
    assert (picture.name, picture.tokens, picture.mime) == ("4", 4, "image/png")


def test_a_task_with_a_broken_picture_is_refused_before_it_begins(make_agent, home) -> None:
    agent = make_agent([Reply("no")])
    with pytest.raises(MediaError, match="not PNG"):
        agent.run([image_part(b"<svg>")])
    (folder,) = (home / "runs").iterdir()
    assert read_journal(folder).records == []


def test_a_tool_with_a_broken_picture_says_so(make_agent) -> None:
    @tool(side_effects=False)
    def bad() -> ToolResult:
        """Give what is no picture."""
        return ToolResult([image_part(png()[:-9])])

    agent = make_agent([Reply(calls=[Call("bad", {})]), Reply("I saw nothing.")], [bad])
    assert agent.run("look").ok
    assert "a picture was not taken" in texts_of(agent.model.prompts[1])


@pytest.mark.parametrize("harm", ["none", "missing", "changed"])
def test_resume_shows_them_again_or_says_that_they_are_lost(
    make_agent, home: Path, harm: str
) -> None:
    first = make_agent([Reply(calls=[Call("look", {"name": "4"})]), Refused(kind="auth")], [look])
    ended = first.run(TASK)
    assert ended.reason == "model"
    folder = home / "runs" / ended.run
    task = fold(read_journal(folder).records).messages[0]
    (picture,) = pictures_of(task["content"])
    file = folder / "pictures" / picture.file_name
    if harm == "missing":
        file.unlink()
    elif harm == "changed":
        file.write_bytes(bytes(file.stat().st_size))
    again = make_agent([Reply("never"), Reply("Done.")], [look])
    assert again.run(resume=ended.run).ok
    shown = again.model.prompts[0]
    lost = [r.event for r in read_journal(folder).records if isinstance(r.event, PictureLost)]
    if harm == "none":
        assert urls_of(shown) == [url(png()), url(png(34, 34))]
        assert lost == []
    else:
        assert urls_of(shown) == [url(png(34, 34))]
        assert "it is lost" in texts_of(shown)
        assert [each.sha256 for each in lost] == [picture.sha256]


class Blind(ScriptedModel):
    """Refuses every prompt with a picture."""

    async def complete(self, messages, tools, sampling):
        if urls_of(messages):
            self.refused = getattr(self, "refused", 0) + 1
            from perilune.agent.models.chat_model import ModelError

            raise ModelError("this model does not support image input", kind="no_vision")
        async for delta in super().complete(messages, tools, sampling):
            yield delta


def test_a_model_without_eyes_is_told_once_and_goes_on(workspace: Path, home: Path) -> None:
    model = Blind(
        [Reply(calls=[Call("look", {"name": "4"})]), Reply(calls=[Call("look", {"name": "5"})]),
         Reply("I cannot see it.")]
    )  # fmt: skip
    agent = Agent(model, [look], workspace=workspace, home=home)
    result = agent.run(TASK)
    assert result.ok
    assert model.refused == 1
    told = texts_of(model.prompts[-1])
    assert told.count("You cannot see pictures") == 1
    assert f"mock.png, PNG, 56 x 28, {len(png())} bytes; this model cannot see it" in told
    assert told.count("this model cannot see it") == 3
    records = read_journal(home / "runs" / result.run).records
    assert sum(isinstance(r.event, ModelHasNoVision) for r in records) == 1


@pytest.mark.parametrize("strategy", ["hide", "summarise", "discard"])
def test_old_pictures_go_first_and_a_note_stays(make_agent, home, strategy: str) -> None:
    turns = [Reply(calls=[Call("look", {"name": str(n * 8 + 300)})]) for n in range(12)]
    agent = make_agent(
        [*turns, Reply("Done.")], [look], window=3000, context=strategy, system_prompt="Work."
    )
    result = agent.run(TASK)
    assert result.ok, result.detail
    records = read_journal(home / "runs" / result.run).records
    made = [r.event for r in records if isinstance(r.event, Compacted)]
    assert made
    assert {each.strategy for each in made} == {"pictures"}
    last = agent.model.prompts[-1]
    assert " dropped: " in texts_of(last)
    assert url(png()) in urls_of(last)  # the task's own is the last to go
    assert all(each.tokens_after < each.tokens_before for each in made)


def test_no_prompt_has_more_pictures_than_a_request_may(make_agent, home) -> None:
    class Few(ScriptedModel):
        async def complete(self, messages, tools, sampling):
            from perilune.agent.models.chat_model import ModelError

            if len(urls_of(messages)) > 4:
                raise ModelError("At most 4 image(s) may be provided", kind="pictures", room=4)
            async for delta in super().complete(messages, tools, sampling):
                yield delta

    turns = [Reply(calls=[Call("look", {"name": str(n)})]) for n in range(9)]
    agent = make_agent([*turns, Reply("Done.")], [look])
    agent.model = Few([*turns, Reply("Done.")])
    assert agent.run(TASK).ok
    assert len(urls_of(agent.model.prompts[-1])) <= 4
    assert texts_of(agent.model.prompts[-1]).count(" dropped: ") >= 5


def test_recall_shows_a_dropped_picture_again(make_agent) -> None:
    turns = [Reply(calls=[Call("look", {"name": str(400 + n)}, id=f"c{n}")]) for n in range(12)]
    agent = make_agent(
        [*turns, Reply(calls=[Call("recall", {"call_id": "c0"})]), Reply("Done.")],
        [look],
        window=3000,
        system_prompt="Work.",
    )
    assert agent.run(TASK).ok
    before, after = urls_of(agent.model.prompts[-2]), urls_of(agent.model.prompts[-1])
    again = url(png(430, 430))
    assert again not in before
    assert again in after
