"""Grammars, tool calls and thinking budgets, through the engine and against the definitions.

The model is tiny and random: what it says is noise, so whatever is well formed is so because of
the state of the structured output. Both a free run and a run with speculation must say the same.
"""

from __future__ import annotations

import json
import re
from typing import Any

import jsonschema
import pytest
import torch

from perilune.chat.deltas import FinishReason
from perilune.chat.format import ChatFormat
from perilune.engine.grammar import GrammarCompiler
from perilune.engine.llm import LLM, Result
from perilune.engine.request import ToolChoice, Tools
from perilune.engine.sampling_params import Grammar, SamplingParams
from perilune.engine.structured_output import Phase, StructuredOutput, ToolGrammar
from perilune.errors import RequestError

from .models import VOCAB

USER = [{"role": "user", "content": "What is the weather?"}]
SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 8},
        "days": {"type": "integer", "minimum": 1, "maximum": 14},
    },
    "required": ["city", "days"],
    "additionalProperties": False,
}


def tool(name: str, parameters: dict[str, Any] | None = None) -> dict[str, Any]:
    function: dict[str, Any] = {"name": name, "description": "A tool."}
    if parameters is not None:
        function["parameters"] = parameters
    return {"type": "function", "function": function}


TOOLS = [tool("get_weather", SCHEMA), tool("stop.it-now", {"type": "object", "maxProperties": 0})]


def chat(llm: LLM, seed: int, **arguments: Any) -> Result:
    names = ("max_tokens", "thinking_budget", "grammar", "logit_bias")
    params = {name: arguments.pop(name) for name in names if name in arguments}
    params = {"max_tokens": 400, "temperature": 1.0, "seed": seed, **params}
    (result,) = llm.chat(USER, SamplingParams(**params), **arguments)
    return result


@pytest.mark.parametrize("seed", range(5))
def test_a_json_schema_holds_and_thinking_is_free(llm: LLM, seed: int) -> None:
    result = chat(llm, seed, grammar=Grammar.json_schema(SCHEMA), thinking_budget=20)
    answer = result.answers[0]
    assert answer.finish_reason is FinishReason.STOP
    jsonschema.validate(json.loads(answer.text), SCHEMA)
    assert answer.reasoning  # noise, and not JSON
    assert not answer.reasoning.lstrip().startswith("{")


def test_json_objects_regexes_and_lark(llm: LLM) -> None:
    for grammar, check in (
        (Grammar.regex(r"[a-f]{3}-[0-9]{2}"), lambda t: re.fullmatch(r"[a-f]{3}-[0-9]{2}", t)),
        (Grammar.lark('start: ("ja" | "nein") "!"'), lambda t: t in ("ja!", "nein!")),
        (Grammar.json_schema({"enum": ["x", 3, None]}), lambda t: json.loads(t) in ("x", 3, None)),
    ):
        result = chat(llm, 2, grammar=grammar, thinking=False)
        assert check(result.text), result.text
    (plain,) = llm.generate(
        "Hello", SamplingParams(grammar=Grammar.regex("(yes|no)"), seed=3, max_tokens=9)
    )
    assert plain.text in ("yes", "no")


def test_the_text_ends_with_its_grammar_where_no_stop_id_may(llm: LLM) -> None:
    params = SamplingParams(grammar=Grammar.regex("abc"), ignore_eos=True, max_tokens=50)
    (result,) = llm.generate("Hello", params)
    assert result.text == "abc" and result.answers[0].finish_reason is FinishReason.STOP


@pytest.mark.parametrize(
    "grammar",
    [
        Grammar.regex("((("),
        Grammar.lark("start: nothing"),
        Grammar.json_schema({"type": "no such type"}),
        Grammar.json_schema({"bad": object()}),
        Grammar.json_schema("x"),  # type: ignore[arg-type]
        Grammar.regex(3),  # type: ignore[arg-type]
    ],
)
def test_a_bad_grammar_fails_its_request_only(llm: LLM, grammar: Grammar) -> None:
    good = llm.engine.add_request([1, 2], SamplingParams(max_tokens=2, ignore_eos=True))
    with pytest.raises(RequestError) as error:
        chat(llm, 0, grammar=grammar)
    assert error.value.param == "grammar"
    outputs = [o for _ in range(3) for o in llm.engine.step()]
    assert [o.request_id for o in outputs if o.finish_reason] == [good]


def ends_sections(llm: LLM) -> dict[int, float]:
    """A model of noise would call on and on."""
    assert llm.chat_format is not None
    end = llm.chat_format.special_ids.tool_calls_section_end
    assert end is not None
    return {end: 4.0}


@pytest.mark.parametrize("parallel", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_required_calls_are_well_formed(llm: LLM, seed: int, parallel: bool) -> None:
    result = chat(
        llm, seed, tools=TOOLS, tool_choice="required", parallel_tool_calls=parallel,
        thinking_budget=4, max_tokens=1500, logit_bias=ends_sections(llm),
    )  # fmt: skip
    calls = result.message["tool_calls"]
    assert result.answers[0].finish_reason is FinishReason.TOOL_CALLS
    assert parallel or len(calls) == 1
    for index, call in enumerate(calls):
        name = call["function"]["name"]
        assert call["id"] == f"functions.{name}:{index}"
        parameters = {t["function"]["name"]: t["function"]["parameters"] for t in TOOLS}[name]
        jsonschema.validate(json.loads(call["function"]["arguments"]), parameters)


def test_a_named_tool_is_the_one_called_and_ids_go_on_counting(llm: LLM) -> None:
    call = {"id": "call_x", "type": "function", "function": {"name": "a", "arguments": "{}"}}
    history = [
        *USER,
        {"role": "assistant", "content": "", "tool_calls": [call, {**call, "id": "call_y"}]},
        {"role": "tool", "tool_call_id": "call_x", "content": "1"},
        {"role": "tool", "tool_call_id": "call_y", "content": "2"},
    ]
    choice = {"type": "function", "function": {"name": "get_weather"}}
    (result,) = llm.chat(
        history, SamplingParams(max_tokens=400, seed=1, thinking_budget=0), tools=TOOLS,
        tool_choice=choice, parallel_tool_calls=False,
    )  # fmt: skip
    (made,) = result.message["tool_calls"]
    assert made["id"] == "functions.get_weather:2"


@pytest.mark.parametrize("seed", range(3))
def test_none_forbids_calls(llm: LLM, seed: int) -> None:
    section = llm.chat_format.special_ids.tool_calls_section_begin  # type: ignore[union-attr]
    # The model is pushed to call, and may not.
    params = SamplingParams(max_tokens=40, seed=seed, logit_bias={section: 100.0})  # type: ignore[dict-item]
    (free,) = llm.chat(USER, params, tools=TOOLS)
    assert section in free.answers[0].token_ids
    (held,) = llm.chat(USER, params, tools=TOOLS, tool_choice="none")
    assert section not in held.answers[0].token_ids


def test_auto_leaves_the_text_free_and_holds_the_section(llm: LLM) -> None:
    assert llm.chat_format is not None
    section = llm.chat_format.special_ids.tool_calls_section_begin
    assert section is not None
    # Somewhere in free text a section begins; from there on the grammar holds.
    for seed in range(4):
        params = SamplingParams(max_tokens=800, seed=seed, logit_bias={section: 6.0})
        (result,) = llm.chat(USER, params, tools=TOOLS, thinking=False, parallel_tool_calls=False)
        if section in result.answers[0].token_ids:
            assert result.answers[0].finish_reason is FinishReason.TOOL_CALLS
            assert result.message["tool_calls"]


@pytest.mark.parametrize(
    ("tools", "choice", "param"),
    [
        (TOOLS, {"type": "function", "function": {"name": "other"}}, "tool_choice"),
        (TOOLS, "sometimes", "tool_choice"),
        (TOOLS, {"type": "function"}, "tool_choice"),
        (None, "required", "tools"),
        ([tool("x", {"type": "object", "properties": {"a": {"type": "nope"}}})], "auto", "tools"),
    ],
)
def test_bad_tool_requests_name_the_field(llm: LLM, tools: Any, choice: Any, param: str) -> None:
    with pytest.raises(RequestError) as error:
        chat(llm, 0, tools=tools, tool_choice=choice)
    assert error.value.param == param


@pytest.mark.parametrize("budget", [0, 1, 7])
def test_the_thinking_budget_is_kept(llm: LLM, budget: int) -> None:
    assert llm.chat_format is not None
    end = llm.chat_format.special_ids.end_think
    result = chat(llm, 3, thinking_budget=budget, max_tokens=30)
    assert result.answers[0].token_ids.index(end) == budget  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", range(3))
def test_speculation_changes_nothing_under_a_grammar(llm: LLM, seed: int) -> None:
    """Proposals run ahead of the grammar in a fork; the text stays the same, guess or no guess."""
    grammar = Grammar.json_schema(
        {"type": "array", "items": {"enum": ["abc", "abd"]}, "minItems": 6, "maxItems": 9}
    )
    texts, proposed = [], 0
    for speculate in (False, True):
        params = SamplingParams(
            max_tokens=300, seed=seed, grammar=grammar, speculate=speculate, temperature=0.7
        )
        (result,) = llm.chat(USER, params, thinking=False)
        texts.append(result.answers[0].token_ids)
        assert result.metrics is not None
        proposed = result.metrics.proposed_tokens
    assert texts[0] == texts[1] and proposed > 0


def test_answers_of_one_request_have_grammars_of_their_own(llm: LLM) -> None:
    params = SamplingParams(
        n=3, seed=5, max_tokens=200, grammar=Grammar.regex("[a-d]{2,9}"), temperature=1.5
    )
    (result,) = llm.chat(USER, params, thinking=False)
    texts = [answer.text for answer in result.answers]
    assert all(re.fullmatch("[a-d]{2,9}", text) for text in texts) and len(set(texts)) > 1


# --- the state machine by hand -----------------------------------------------------------------


@pytest.fixture
def chat_format(llm: LLM) -> ChatFormat:
    assert llm.chat_format is not None
    return llm.chat_format


def state_of(chat_format: ChatFormat, **arguments: Any) -> StructuredOutput:
    compiler = GrammarCompiler(chat_format.tokenizer, VOCAB)
    if tools := arguments.pop("tools", None):
        arguments["tools"] = ToolGrammar.compile(tools, compiler, chat_format.tokenizer)
    if answer := arguments.pop("answer", None):
        arguments["answer"] = compiler.compile(answer)
    return StructuredOutput(
        vocab_size=VOCAB, terminators=chat_format.stop_ids, ids=chat_format.special_ids, **arguments
    )


def only(state: StructuredOutput) -> set[int]:
    mask = state.allowed()
    assert mask is not None
    return set(torch.nonzero(mask).flatten().tolist())


def test_a_fork_goes_its_own_way(chat_format: ChatFormat) -> None:
    state = state_of(chat_format, answer=Grammar.regex("ab|cd"))
    a, b, c = (chat_format.tokenizer.encode(letter)[0] for letter in "abc")
    before = only(state)
    twin = state.fork()
    twin.advance(a)
    assert b in only(twin) and c not in only(twin)
    assert only(state) == before and c in before
    state.advance(c)
    with pytest.raises(RequestError):
        state.advance(a)
    twin.advance(b)
    assert twin.ended and only(twin) == set(chat_format.stop_ids)


def test_no_stop_in_thinking_before_a_required_call(chat_format: ChatFormat) -> None:
    ids = chat_format.special_ids
    tools = Tools(TOOLS, ToolChoice.REQUIRED)
    state = state_of(chat_format, tools=tools, thinking=True)
    assert only(state) == set(range(VOCAB)) - chat_format.stop_ids
    state.advance(ids.end_think)  # type: ignore[arg-type]
    assert only(state) == {ids.tool_calls_section_begin}


def test_a_section_in_the_middle_of_thinking_ends_it(chat_format: ChatFormat) -> None:
    ids = chat_format.special_ids
    state = state_of(chat_format, tools=Tools(TOOLS), thinking=True)
    assert state.allowed() is None
    state.advance(5)
    state.advance(ids.tool_calls_section_begin)  # type: ignore[arg-type]
    assert state.phase is Phase.SECTION and only(state) == {ids.tool_call_begin}
    state.advance(ids.tool_call_begin)  # type: ignore[arg-type]
    for token in chat_format.tokenizer.encode("functions.stop.it-now:0"):
        state.advance(token)
    assert only(state) == {ids.tool_call_argument_begin}
    state.advance(ids.tool_call_argument_begin)  # type: ignore[arg-type]
    for token in chat_format.tokenizer.encode("{}"):
        state.advance(token)
    assert only(state) == {ids.tool_call_end}
    state.advance(ids.tool_call_end)  # type: ignore[arg-type]
    assert only(state) == {ids.tool_call_begin, ids.tool_calls_section_end}
    state.advance(ids.tool_calls_section_end)  # type: ignore[arg-type]
    assert state.ended and only(state) == set(chat_format.stop_ids)


def test_stray_markers_are_nowhere_in_free_text(llm: LLM) -> None:
    """A bias that wants them as much as can be: no role token, no marker out of its place."""
    assert llm.chat_format is not None
    chat_format = llm.chat_format
    size = chat_format.tokenizer.vocab_size
    special = [i for i in range(size) if chat_format.tokenizer.is_special(i)]
    bias = {i: 50.0 for i in special if i not in chat_format.stop_ids}
    result = chat(llm, 4, tools=TOOLS, tool_choice="none", logit_bias=bias, max_tokens=40,
                  thinking_budget=5)  # fmt: skip
    spoken = [i for i in result.answers[0].token_ids if i in special]
    assert spoken[:1] == [chat_format.special_ids.end_think]
    assert set(spoken[1:]) <= chat_format.stop_ids
    assert "<|" not in result.answers[0].text and "<|" not in result.answers[0].reasoning


def test_definitions_may_have_any_name_and_properties_that_of_a_keyword(llm: LLM) -> None:
    schema = {
        "type": "object",
        "properties": {"enum": {"$ref": "#/$defs/Größe 1"}, "$ref": {"const": {"$ref": "a b"}}},
        "required": ["enum", "$ref"],
        "additionalProperties": False,
        "$defs": {"Größe 1": {"enum": [7]}},
    }
    result = chat(llm, 1, grammar=Grammar.json_schema(schema), thinking=False)
    assert json.loads(result.text) == {"enum": 7, "$ref": {"$ref": "a b"}}
