"""The other routes: models, health, plain completions, tokens."""

from __future__ import annotations

from typing import Any

from perilune.exam.contract.check import Level, Skip, check, expect, expect_int, expect_text
from perilune.exam.contract.refusals import refused
from perilune.exam.contract.shapes import check_usage
from perilune.exam.contract.sse import DONE
from perilune.exam.contract.target import ANTHROPIC, Exchange, Target

COMPLETIONS = "/v1/completions"


@check(
    "models.list",
    "/v1/models is {object: list, data: [{id, object: model, created, owned_by}]}.",
    why="Clients choose the model from it.",
)
def models(target: Target) -> None:
    body = target.get("/v1/models").ok().json
    expect(body.get("object") == "list", f"object is {body.get('object')!r}")
    expect(body["data"], "no model")
    for row in body["data"]:
        expect_text(row.get("id"), "id")
        expect(row.get("object") == "model", f"object is {row.get('object')!r}")
        expect_int(row.get("created"), "created")
        expect_text(row.get("owned_by"), "owned_by")
    expect(target.model in [row["id"] for row in body["data"]], "the model is not in the list")


@check(
    "models.get",
    "/v1/models/ID is the model's row, 404 for another.",
    why="Clients check that a model is there.",
)
def model(target: Target) -> None:
    row = target.get(f"/v1/models/{target.model}").ok().json
    expect(row.get("id") == target.model, f"id is {row.get('id')!r}")
    refused(target.get("/v1/models/no-such-model"), (404,))


@check(
    "models.length",
    "The model's row tells max_model_len.",
    why="Agents compact their history before the limit, not at it.",
    level=Level.RECOMMENDED,
)
def length(target: Target) -> None:
    rows = target.get("/v1/models").ok().json["data"]
    row = next(row for row in rows if row["id"] == target.model)
    expect_int(row.get("max_model_len"), "max_model_len", at_least=1)


@check(
    "models.anthropic",
    "With the header anthropic-version the list has Anthropic's shape.",
    why="Anthropic's SDK lists models from the same route.",
    level=Level.RECOMMENDED,
    api="anthropic",
)
def anthropic_models(target: Target) -> None:
    body = target.get("/v1/models", headers=ANTHROPIC).ok().json
    for name in ("data", "has_more", "first_id", "last_id"):
        expect(name in body, f"the list lacks {name}")
    for row in body["data"]:
        expect(row.get("type") == "model", f"type is {row.get('type')!r}")
        for name in ("id", "display_name", "created_at"):
            expect_text(row.get(name), name)


@check(
    "health",
    "/health answers 200 without a key while the server can serve.",
    why="Load balancers ask it.",
    level=Level.RECOMMENDED,
)
def health(target: Target) -> None:
    exchange = target.get("/health", keyed=False)
    expect(exchange.status == 200, f"status {exchange.status}")


# --- completions ------------------------------------------------------------------------------


def _complete(target: Target, **fields: Any) -> Exchange:
    body = {"model": target.model, "prompt": "The moon", "max_tokens": 8, "temperature": 0}
    exchange = target.post(COMPLETIONS, body | fields)
    if exchange.status in (404, 405, 501):
        raise Skip("this server has no /v1/completions")
    return exchange


@check(
    "completions.fields",
    "/v1/completions gives object text_completion, a text, finish_reason and usage.",
    why="Evaluation harnesses use it.",
    level=Level.RECOMMENDED,
)
def completions(target: Target) -> None:
    answer = _complete(target).ok().json
    expect(answer.get("object") == "text_completion", f"object is {answer.get('object')!r}")
    choice = answer["choices"][0]
    expect(isinstance(choice.get("text"), str), f"text is {choice.get('text')!r}")
    expect(choice.get("index") == 0, "index is not 0")
    expect(choice.get("finish_reason") in ("stop", "length"), "finish_reason is missing")
    check_usage(answer.get("usage"), "usage")


@check(
    "completions.stream",
    "It streams the same text, and ends with [DONE].",
    why="Editors complete as they stream.",
    level=Level.RECOMMENDED,
)
def completions_stream(target: Target) -> None:
    whole = _complete(target).ok().json["choices"][0]["text"]
    exchange = _complete(target, stream=True).ok()
    events = exchange.events
    expect(events and events[-1].data == DONE, "the last event is not [DONE]")
    chunks = [event.json for event in events[:-1]]
    expect(all(c.get("object") == "text_completion" for c in chunks), "object differs")
    text = "".join(c["choices"][0]["text"] for c in chunks if c["choices"])
    expect(text == whole, f"streamed {text!r}, plain {whole!r}")


@check(
    "completions.prompts",
    "A list of prompts gives a choice for each, in order; token ids are taken as a prompt.",
    why="Evaluation harnesses send batches and ids.",
    level=Level.RECOMMENDED,
)
def completions_prompts(target: Target) -> None:
    single = [_complete(target, prompt=p).ok().json["choices"][0]["text"] for p in ("One", "Two")]
    answer = _complete(target, prompt=["One", "Two"]).ok().json
    texts = [choice["text"] for choice in answer["choices"]]
    expect([c["index"] for c in answer["choices"]] == [0, 1], "indices are not 0, 1")
    expect(texts == single, f"a batch gives {texts}, alone they are {single}")
    _complete(target, prompt=[5, 6, 7]).ok()


@check(
    "completions.echo",
    "echo with logprobs and max_tokens 0 or 1 scores the prompt: one logprob a token.",
    why="Harnesses compute the likelihood of an answer by it.",
    level=Level.RECOMMENDED,
)
def completions_echo(target: Target) -> None:
    choice = _complete(target, echo=True, logprobs=1, max_tokens=1).ok().json["choices"][0]
    expect(choice["text"].startswith("The moon"), f"the text is {choice['text']!r}")
    rows = choice["logprobs"]
    count = len(rows["tokens"])
    for name in ("token_logprobs", "text_offset", "top_logprobs"):
        expect(len(rows[name]) == count, f"{name} has {len(rows[name])} rows, tokens {count}")
    expect(rows["token_logprobs"][0] is None, "the first token has a logprob, with nothing before")
    values = rows["token_logprobs"][1:]
    expect(values and all(isinstance(v, float | int) for v in values), "a logprob is missing")


@check(
    "completions.refuses",
    "suffix, best_of without reason, and a prompt of a wrong type are refused with 400.",
    why="Ignoring them silently looks like doing them.",
    level=Level.RECOMMENDED,
)
def completions_refuses(target: Target) -> None:
    for fields in (
        {"suffix": "x"}, {"best_of": 100}, {"prompt": {"a": 1}}, {"prompt": [1.5]},
        {"prompt": [-1]}, {"prompt": [2**40]}, {"logprobs": 1000}, {"n": 0},
    ):  # fmt: skip
        refused(_complete(target, **fields))


# --- tokens -----------------------------------------------------------------------------------


@check(
    "tokens.roundtrip",
    "/tokenize and /detokenize are each other's inverse.",
    why="Clients that cut texts by tokens lose some.",
    level=Level.RECOMMENDED,
)
def tokenize(target: Target) -> None:
    for text in ("Hello, moon.", "月 🌘 naïve", "<|im_end|>"):
        exchange = target.post("/tokenize", {"model": target.model, "prompt": text})
        if exchange.status in (404, 405):
            raise Skip("this server has no /tokenize")
        answer = exchange.ok().json
        tokens = answer["tokens"]
        expect(answer["count"] == len(tokens), "count is not the number of tokens")
        back = target.post("/detokenize", {"model": target.model, "tokens": tokens}).ok().json
        expect(back.get("prompt") == text, f"{text!r} comes back as {back.get('prompt')!r}")


@check(
    "tokens.estimate",
    "/v1/tokenizers/estimate-token-count tells the prompt_tokens of a chat request.",
    why="Kimi's clients plan with it.",
    level=Level.KIMI,
)
def estimate(target: Target) -> None:
    body = target.chat_body()
    exchange = target.post(
        "/v1/tokenizers/estimate-token-count",
        {"model": target.model, "messages": body["messages"]},
    )
    total = exchange.ok().json["data"]["total_tokens"]
    used = target.chat().ok().json["usage"]["prompt_tokens"]
    expect(abs(total - used) <= 8, f"estimated {total}, used {used}")
