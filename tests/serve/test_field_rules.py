"""Each field that servers are known to take is read, fine to ignore, or refused by its name."""

from __future__ import annotations

from typing import Any

import pytest

from perilune.serve.anthropic.schema import MessagesBody
from perilune.serve.api_error import ApiError
from perilune.serve.chat_schema import ChatCompletionBody
from perilune.serve.completions import CompletionBody
from perilune.serve.constraints import CONSTRAINTS
from perilune.serve.field_rules import IGNORED, REFUSED
from perilune.serve.fields import EXTENSIONS, check_fields
from perilune.serve.responses.schema import ResponsesBody

from .scripted import Turn

CHAT, PLAIN, MESSAGES, RESPONSES = (
    "/v1/chat/completions", "/v1/completions", "/v1/messages", "/v1/responses"
)  # fmt: skip
USER = [{"role": "user", "content": "x"}]
BASE: dict[str, dict[str, Any]] = {
    CHAT: {"messages": USER, "max_tokens": 4},
    PLAIN: {"prompt": "x", "max_tokens": 4},
    MESSAGES: {"model": "tiny", "messages": USER, "max_tokens": 4},
    RESPONSES: {"model": "tiny", "input": "x", "max_output_tokens": 16},
}  # fmt: skip
BODIES: dict[str, Any] = {
    CHAT: ChatCompletionBody, PLAIN: CompletionBody, MESSAGES: MessagesBody,
    RESPONSES: ResponsesBody,
}  # fmt: skip
# Every name of a field that shapes an answer, of the servers named in field_rules.py.
NAMES = """
logit_bias stop n best_of suffix prediction modalities min_tokens ignore_eos bad_words
allowed_token_ids prompt_logprobs truncate_prompt_tokens repetition_penalty top_k min_p typical_p
mirostat mirostat_tau mirostat_eta dry_multiplier dry_base dry_allowed_length xtc_probability
xtc_threshold lora lora_request lora_path use_beam_search length_penalty skip_special_tokens
include_stop_str_in_output logits_processors echo add_generation_prompt continue_final_message
n_probs cache_prompt samplers previous_response_id conversation truncation background container
mcp_servers context_management stop_sequences response_format grammar json_schema regex ebnf
guided_json guided_regex guided_choice guided_grammar guided_whitespace_pattern
guided_decoding_backend guided_json_object structured_outputs structural_tag format json_mode
nvext response_schema response_mime_type output_config output_format text extra_body options
parameters sampling_params tfs_z top_a repeat_penalty n_predict num_predict max_new_tokens
do_sample num_beams no_repeat_ngram_size stop_regex no_stop_trim custom_logit_processor functions
function_call audio store web_search_options moderation documents chat_template prompt_embeds
reasoning think enable_thinking thinking_budget enable_search search_parameters plugins transforms
models reasoning_format return_hidden_states separate_reasoning random_seed system instructions
verbosity service_tier seed temperature top_p presence_penalty frequency_penalty logprobs
top_logprobs tools tool_choice parallel_tool_calls max_tokens max_completion_tokens
max_output_tokens stream_options
"""
KNOWN = NAMES.split()


@pytest.mark.parametrize("path", BODIES)
def test_every_known_field_has_a_rule(path: str) -> None:
    declared = set(BODIES[path].model_fields)
    rules = declared | set(EXTENSIONS) | set(CONSTRAINTS) | set(REFUSED) | set(IGNORED)
    assert not [name for name in KNOWN if name not in rules]


def test_no_field_has_two_rules() -> None:
    tables = [set(CONSTRAINTS), set(REFUSED), set(IGNORED)]
    for n, table in enumerate(tables):
        for other in tables[n + 1 :]:
            assert not table & other
    assert not set(EXTENSIONS) & (set(REFUSED) | set(IGNORED) | set(CONSTRAINTS))


def test_refusals_and_their_neutral_values() -> None:
    for name, refusal in REFUSED.items():
        for value in (None, *refusal.neutral):
            check_fields({name: value}, strict_params=True)
        with pytest.raises(ApiError) as caught:
            check_fields({name: {"something": "else"}})
        assert caught.value.param == name and caught.value.code == "unsupported_parameter"
    check_fields({"typical_p": 1.0, "dry_multiplier": 0.0})
    for name, value in (("use_beam_search", 0), ("dry_multiplier", 0.8), ("best_of", True)):
        with pytest.raises(ApiError):
            check_fields({name: value})
    check_fields(dict.fromkeys(IGNORED, "x"), strict_params=True)
    with pytest.raises(ApiError, match="not a known"):
        check_fields({"never_heard_of": 1}, strict_params=True)


@pytest.mark.parametrize("path", BODIES)
async def test_refused_fields_are_400_in_every_api(scripted: Any, path: str) -> None:
    async with scripted(Turn("Hi")) as client:
        names = [name for name in REFUSED if name not in BODIES[path].model_fields]
        for name in names:
            reply = await client.post(path, json={**BASE[path], name: {"some": "thing"}})
            error = reply.json()["error"]
            assert reply.status_code == 400 and name in error["message"], (name, reply.text)
        assert len(names) > 80
        everything: dict[str, Any] = {
            name: REFUSED[name].neutral[0] for name in names if REFUSED[name].neutral
        }
        everything |= {n: "x" for n in IGNORED if n not in BODIES[path].model_fields}
        reply = await client.post(path, json={**BASE[path], **everything})
        assert reply.status_code == 200, reply.text


async def test_sampling_extensions_work_in_messages_and_responses(scripted: Any) -> None:
    async with scripted(Turn("Hello there")) as client:
        ids = (await client.post("/tokenize", json={"prompt": "H"})).json()["tokens"]
        for path, read in (
            (MESSAGES, lambda body: body["content"][0]["text"]),
            (RESPONSES, lambda body: body["output"][-1]["content"][0]["text"]),
        ):
            base = {**BASE[path], "temperature": 0}
            base |= {"reasoning": {"effort": "none"}} if path == RESPONSES else {}
            plain = (await client.post(path, json=base)).json()
            assert read(plain)[0] == "H"
            # The script is sure by 100; a bias of 100 on another token and -100 on this decides.
            bias = {str(ids[0]): -100}
            biased = await client.post(path, json={**base, "logit_bias": bias, "min_p": 0.0})
            assert biased.status_code == 200 and read(biased.json())[:1] != "H"
            for bad in ({"logit_bias": {"x": 1}}, {"min_p": 3}, {"seed": "x"}, {"n": 2}):
                assert (await client.post(path, json={**base, **bad})).status_code == 400


async def test_edits_of_the_history_are_refused_where_they_would_be_missed(scripted: Any) -> None:
    async with scripted(Turn("Hi")) as client:
        for edits, status in (
            ([], 200),
            ([{"type": "clear_thinking_20251015", "keep": "all"}], 200),
            ([{"type": "clear_tool_uses_20250919"}], 400),
            ([{"type": "compact_20260112"}], 400),
        ):
            body = {**BASE[MESSAGES], "context_management": {"edits": edits}}
            reply = await client.post(MESSAGES, json=body)
            assert reply.status_code == status, reply.text


async def test_counting_takes_the_whole_body(scripted: Any) -> None:
    body = {**BASE[MESSAGES], "stream": True, "stop_sequences": ["x"], "temperature": 1.0}
    async with scripted(Turn("Hi")) as client:
        reply = await client.post("/v1/messages/count_tokens", json=body)
        assert reply.status_code == 200, reply.text
