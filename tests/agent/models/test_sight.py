"""Refusals of pictures in the words of real servers, and what an endpoint learns from them."""

from __future__ import annotations

import itertools
import json

import pytest

from perilune.agent.agent import Agent
from perilune.agent.models.endpoint import EndpointModel
from perilune.agent.models.refusals import status_error
from perilune.agent.models.retry import RetryPolicy
from perilune.agent.models.wire import ToolPictures, to_wire
from perilune.agent.tool import ToolResult, tool
from tests.agent.drawn import image_part, png
from tests.agent.openai_server import OpenAIServer, call, delta

NO_VISION = [
    (400, "this model does not support image input (ref: b8bd630e-4a39-4b57-82af-9158ee9d5703)"),
    (400, "Model do not support image input. Request id: 021788846573420402c3547e09b7409e"),
    (404, "No endpoints found that support image input"),
    (400, "Invalid content type. image_url is only supported by certain models."),
    (400, "At most 0 image(s) may be provided in one prompt."),
    (500, "image input is not supported - hint: if this is unexpected, you may need to provide the "
          "mmproj"),
    (400, "Invalid image. The model does not support vision input."),
    (400, "multimodal content is not supported by this endpoint"),
    (400, "served-model is not a multimodal model"),
    (400, "Model does not support images. Please use a model that does."),
    (500, "this model is missing data required for image input"),
    (400, "<400> InternalError.Algo.InvalidParameter: Unexpected item type in content."),
    (400, "'messages.0' : for 'role:user' the following must be satisfied[('messages.0.content' : "
          "value must be a string)]"),
    (422, "Image inputs are not supported by this model."),
    (400, "messages[1].content[1]: the conversation holds an image, and it reads text only"),
]  # fmt: skip
WRONG_PLACE = [
    (400, "Invalid 'messages[2]'. Image URLs are only allowed for messages with role 'user', but "
          "this message with role 'tool' contains an image URL."),
    (400, "'messages.2' : for 'role:tool' the following must be satisfied[('messages.2.content' : "
          "value must be a string)]"),
    (400, "3 validation errors for ToolMessage content.list[TextChunk].1.type Input should be "
          "<ChunkTypes.text: 'text'>"),
    (400, "Failed to deserialize the JSON body into the target type: messages[137]: unknown "
          "variant `image_url`, expected `text` at line 1 column 3"),
    (500, "unsupported content[].type"),
    (400, "Unexpected role 'user' after role 'tool'"),
    (422, "messages[2].content must be a string"),
]  # fmt: skip
LEARNT = [each for each in WRONG_PLACE if "Unexpected" not in each[1]]
TOO_MANY = [
    (400, "At most 4 image(s) may be provided in one prompt.", 4),
    (400, "Too many images in request: the maximum is 20", 20),
    (400, "the conversation has 120 pictures, and at most 100 are taken", 100),
]
NOT_OF_PICTURES = [
    (400, "This model's maximum context length is 4096 tokens", "context"),
    (429, "Rate limit reached; image models do not support this tier", "rate_limit"),
    (401, "this key does not support image input", "auth"),
    (400, "tools[0].function.name must be a string of at most 64 characters", "request"),
    (503, "The service is not available", "overloaded"),
]


def error_of(status: int, message: str):
    return status_error(status, {}, json.dumps({"error": {"message": message}}).encode())


@pytest.mark.parametrize(("status", "message"), NO_VISION)
def test_no_vision(status: int, message: str) -> None:
    assert error_of(status, message).kind == "no_vision"


@pytest.mark.parametrize(("status", "message"), WRONG_PLACE)
def test_the_wrong_place(status: int, message: str) -> None:
    assert error_of(status, message).kind == "tool_pictures"


@pytest.mark.parametrize(("status", "message", "most"), TOO_MANY)
def test_too_many(status: int, message: str, most: int) -> None:
    error = error_of(status, message)
    assert (error.kind, error.room) == ("pictures", most)


@pytest.mark.parametrize(("status", "message", "kind"), NOT_OF_PICTURES)
def test_other_refusals_stay_what_they_are(status: int, message: str, kind: str) -> None:
    assert error_of(status, message).kind == kind


TOOL = {"role": "tool", "tool_call_id": "c", "name": "look",
        "content": [{"type": "text", "text": "a chart"}, image_part(png())]}  # fmt: skip


def test_the_three_places() -> None:
    image = TOOL["content"][1]
    assert to_wire([TOOL]) == [TOOL]
    behind = to_wire([TOOL, TOOL], ToolPictures.BEHIND)
    assert [each["role"] for each in behind] == ["tool", "tool", "user"]
    assert behind[2]["content"][1:] == [image, image]
    assert behind[0]["content"].startswith("a chart")
    (nowhere,) = to_wire([TOOL], ToolPictures.NOWHERE)
    assert nowhere["content"] == "a chart\n[1 image(s) cannot be shown here]"


@tool(side_effects=False)
def look() -> ToolResult:
    """See."""
    return ToolResult([{"type": "text", "text": "a chart"}, image_part(png(), name="chart.png")])


CALL = [delta(tool_calls=[call(0, None, "look", "{}")], finish="tool_calls")]
DONE = [delta(content="seen", finish="stop")]


def run_on(answer, workspace, home, task="t"):
    with OpenAIServer([answer]) as server:
        model = EndpointModel(server.url, "served-model")
        agent = Agent(model, [look], workspace=workspace, home=home, retry=RetryPolicy(base=0.001))
        result = agent.run(task)
    return result, server.requests


def places(request) -> list[str]:
    return [
        message["role"]
        for message in request["messages"]
        if isinstance(message.get("content"), list)
        and any(part["type"] == "image_url" for part in message["content"])
    ]


def turns(request) -> int:
    return sum(message["role"] == "assistant" for message in request["messages"])


@pytest.mark.parametrize(
    ("status", "message"), [w for w in WRONG_PLACE if "Unexpected" not in w[1]]
)
def test_the_place_is_learnt_from_one_refusal(workspace, home, status, message) -> None:
    def answer(request):
        if "tool" in places(request):
            return status, {}, {"error": {"message": message}}
        return CALL if turns(request) < 2 else DONE

    result, requests = run_on(answer, workspace, home)
    assert (result.answer, result.reason) == ("seen", "done")
    assert [places(each) for each in requests] == [[], ["tool"], ["user"], ["user", "user"]]


def test_a_server_that_takes_none_behind_a_tool_either(workspace, home) -> None:
    def answer(request):
        roles = [message["role"] for message in request["messages"]]
        if "tool" in places(request):
            return 400, {}, {"error": {"message": "2 validation errors for ToolMessage"}}
        if ("tool", "user") in itertools.pairwise(roles):
            return 400, {}, {"error": {"message": "Unexpected role 'user' after role 'tool'"}}
        return CALL if turns(request) < 1 else DONE

    result, requests = run_on(answer, workspace, home)
    assert result.answer == "seen"
    assert "cannot be shown here" in requests[-1]["messages"][-1]["content"]


@pytest.mark.parametrize(("status", "message"), NO_VISION)
def test_a_server_without_eyes_is_asked_once(workspace, home, status, message) -> None:
    def answer(request):
        if places(request):
            return status, {}, {"error": {"message": message}}
        return CALL if turns(request) < 2 else DONE

    task = [{"type": "text", "text": "t"}, image_part(png(), name="mock.png")]
    result, requests = run_on(answer, workspace, home, task)
    assert (result.answer, result.reason) == ("seen", "done")
    assert sum(bool(places(each)) for each in requests) == 1
    assert "mock.png, PNG, 56 x 28" in str(requests[-1]["messages"])
    assert str(requests[-1]["messages"]).count("You cannot see pictures") == 1


def test_words_about_pictures_without_a_picture_are_a_refusal(workspace, home) -> None:
    result, requests = run_on(
        lambda request: (400, {}, {"error": {"message": NO_VISION[0][1]}}), workspace, home
    )
    assert result.reason == "model"
    assert len(requests) == 1
