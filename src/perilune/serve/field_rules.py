"""Request fields that are not of an API's own: which are refused, and which are fine to ignore.

A field that would mislead if it were ignored is enforced or refused. The tables hold what clients
of other servers are known to send (OpenAI, Anthropic, vLLM, SGLang, llama.cpp, Ollama, TGI, text
generation web UIs, routers); a field that an API declares is read there and never looked up here.
Other names are unknown: ignored with a line in the log, or refused with `--strict-params`.

Sources: the API references of these servers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Refusal:
    """`why`: the reason, or what to use. neutral: values that ask for nothing, beside null."""

    why: str = ""
    neutral: tuple[Any, ...] = ()

    def allows(self, value: Any) -> bool:
        return value is None or any(_same(value, one) for one in self.neutral)


_NOTHING: tuple[Any, ...] = ([], {}, "", False)
_OFF: tuple[Any, ...] = (0, False)
_ONE: tuple[Any, ...] = (1,)
_SAMPLER = "no such sampler here"
_LENGTH = "use max_tokens (Responses: max_output_tokens)"
_FORM = "use response_format (Responses: text.format; Messages: output_config.format)"
_LORA = "the weights are those that were loaded"
_WEB = "nothing is searched by this server"

REFUSED: Mapping[str, Refusal] = {
    # OpenAI
    "audio": Refusal(),
    "modalities": Refusal("only text comes out", (["text"],)),
    "web_search_options": Refusal(_WEB),
    "moderation": Refusal(),
    "prediction": Refusal(),
    "functions": Refusal("use tools"),
    "function_call": Refusal("use tool_choice"),
    "store": Refusal("nothing is stored; leave it out or send false", (False,)),
    "data_sources": Refusal(_WEB, _NOTHING),
    "conversation": Refusal("nothing is stored; send the whole conversation"),
    "previous_response_id": Refusal("nothing is stored; send the whole conversation"),
    # another API's way to say it
    "messages": Refusal("this API has prompt or input"),
    "prompt": Refusal("this API has messages or input"),
    "input": Refusal("this API has messages or prompt"),
    "instructions": Refusal("put it into messages"),
    "system": Refusal("put it into the messages or instructions"),
    "tools": Refusal("tools belong to a conversation", ([],)),
    "tool_choice": Refusal("tools belong to a conversation", ("none", "auto")),
    "parallel_tool_calls": Refusal("use tool_choice.disable_parallel_tool_use", (True,)),
    "max_tokens": Refusal("use max_output_tokens"),
    "max_completion_tokens": Refusal(_LENGTH),
    "max_output_tokens": Refusal("use max_tokens"),
    "max_tokens_to_sample": Refusal(_LENGTH),
    "max_new_tokens": Refusal(_LENGTH),
    "max_gen_len": Refusal(_LENGTH),
    "max_length": Refusal(_LENGTH),
    "n_predict": Refusal(_LENGTH, (-1,)),
    "num_predict": Refusal(_LENGTH, (-1,)),
    "stop": Refusal("Messages has stop_sequences, chat completions stop", ([], "")),
    "stop_sequences": Refusal("use stop", ([],)),
    "stop_str": Refusal("use stop", _NOTHING),
    "random_seed": Refusal("use seed"),
    "n": Refusal("one answer comes", _ONE),
    "echo": Refusal("/v1/completions has it", (False,)),
    "suffix": Refusal("the model only goes on", ("",)),
    "best_of": Refusal("give n", _ONE),
    "logprobs": Refusal("this API has no log probabilities here", (False,)),
    "top_logprobs": Refusal("use logprobs", _OFF),
    "prompt_logprobs": Refusal("use /v1/completions with echo and logprobs"),
    "n_probs": Refusal("use logprobs", _OFF),
    "return_token_ids": Refusal("chat completions and completions have it", (False,)),
    "text": Refusal(_FORM),
    "output_config": Refusal(_FORM),
    "output_format": Refusal(_FORM),
    "response_schema": Refusal(_FORM),
    "response_mime_type": Refusal(_FORM, ("text/plain",)),
    "reasoning": Refusal("use reasoning_effort or thinking", ({},)),
    "reasoning_effort": Refusal("use reasoning.effort or thinking"),
    "thinking": Refusal("use reasoning.effort"),
    "think": Refusal("use thinking or reasoning_effort"),
    "enable_thinking": Refusal("use thinking or reasoning_effort"),
    "thinking_budget": Refusal("use thinking_token_budget"),
    "thinking_token_budget": Refusal("use reasoning.effort or thinking.budget_tokens"),
    "chat_template_kwargs": Refusal("use reasoning.effort or thinking", ({},)),
    "include_reasoning": Refusal("chat completions has it", (True,)),
    "continue_final_message": Refusal("chat completions has it", (False,)),
    "add_generation_prompt": Refusal("chat completions has it", (True,)),
    # objects whose content would be lost
    "extra_body": Refusal("send its fields beside the others", ({},)),
    "extra_query": Refusal("an SDK's own option, not a field", ({},)),
    "sampling_params": Refusal("send its fields beside the others", ({},)),
    "parameters": Refusal("send its fields beside the others", ({},)),
    "options": Refusal("send its fields beside the others", ({},)),
    "generation_config": Refusal("send its fields beside the others", ({},)),
    "vllm_xargs": Refusal("", ({},)),
    # texts and tensors that are never taken
    "prompt_embeds": Refusal("tensors are never read"),
    "input_embeds": Refusal("tensors are never read"),
    "image_data": Refusal("put images into messages", ([],)),
    "images": Refusal("put images into messages", ([],)),
    "mm_processor_kwargs": Refusal("pictures are read by the rule of the checkpoint", ({},)),
    "chat_template": Refusal("templates are never taken from a request"),
    "template": Refusal("templates are never taken from a request", ("",)),
    "raw": Refusal("use /v1/completions", (False,)),
    "documents": Refusal("put them into messages", ([],)),
    "context": Refusal("send the whole conversation", ([],)),
    "negative_prompt": Refusal("", ("",)),
    # weights
    "lora": Refusal(_LORA, _NOTHING),
    "lora_path": Refusal(_LORA, _NOTHING),
    "lora_request": Refusal(_LORA, _NOTHING),
    "adapter_id": Refusal(_LORA, _NOTHING),
    "adapters": Refusal(_LORA, _NOTHING),
    "control_vectors": Refusal(_LORA, _NOTHING),
    "models": Refusal("one model is served", ([],)),
    # what may be said
    "bad_words": Refusal("use logit_bias", ([],)),
    "bad_words_ids": Refusal("use logit_bias", ([],)),
    "banned_tokens": Refusal("use logit_bias", ([], "")),
    "custom_token_bans": Refusal("use logit_bias", ("",)),
    "banned_strings": Refusal("", ([], "")),
    "allowed_token_ids": Refusal("use regex or structured_outputs.choice", ([],)),
    "force_words_ids": Refusal("", ([],)),
    "logits_processors": Refusal("no code is taken from a request", ([],)),
    "custom_logit_processor": Refusal("no code is taken from a request"),
    "stop_regex": Refusal("use stop", ([], "")),
    "no_stop_trim": Refusal("stop texts are never part of the answer", (False,)),
    "include_stop_str_in_output": Refusal("stop texts are never part of the answer", (False,)),
    "skip_special_tokens": Refusal("special tokens are never shown", (True,)),
    "truncate_prompt_tokens": Refusal("leave out yourself what does not fit"),
    "transforms": Refusal("leave out yourself what does not fit", ([],)),
    "truncation": Refusal("leave out yourself what does not fit", ("disabled",)),
    "n_keep": Refusal("nothing is left out of a context here", (0, -1)),
    "n_discard": Refusal("nothing is left out of a context here", (0,)),
    "t_max_predict_ms": Refusal("use max_tokens", (0, -1)),
    "min_length": Refusal("use min_tokens", (0,)),
    "n_indent": Refusal("", (0,)),
    "grammar_lazy": Refusal("", (False,)),
    "grammar_triggers": Refusal("use structural_tag", ([],)),
    "response_fields": Refusal("a reply is whole", ([],)),
    "return_hidden_states": Refusal("", (False,)),
    "return_tokens_as_token_ids": Refusal("use return_token_ids", (False,)),
    "post_sampling_probs": Refusal("use logprobs", (False,)),
    "separate_reasoning": Refusal("thinking comes apart from the answer", (True,)),
    "stream_reasoning": Refusal("thinking is streamed as it comes", (True,)),
    "reasoning_format": Refusal(
        "thinking comes as reasoning_content", ("auto", "deepseek", "parsed")
    ),
    "thinking_forced_open": Refusal("use thinking", (False,)),
    "parse_tool_calls": Refusal("calls are always read", (True,)),
    # ways to pick tokens
    "use_beam_search": Refusal("", (False,)),
    "num_beams": Refusal("", _ONE),
    "num_beam_groups": Refusal("", _ONE),
    "length_penalty": Refusal("", _ONE),
    "early_stopping": Refusal("", (False,)),
    "do_sample": Refusal("use temperature 0", (True,)),
    "samplers": Refusal("their order is fixed", ([],)),
    "sampler_order": Refusal("their order is fixed", ([],)),
    "sampler_priority": Refusal("their order is fixed", ([],)),
    "sampler_seq": Refusal("their order is fixed", ("",)),
    "temperature_last": Refusal("their order is fixed", (False,)),
    "mirostat": Refusal(_SAMPLER, _OFF),
    "mirostat_mode": Refusal(_SAMPLER, _OFF),
    "dry_multiplier": Refusal(_SAMPLER, _OFF),
    "xtc_probability": Refusal(_SAMPLER, _OFF),
    "typical_p": Refusal(_SAMPLER, _ONE),
    "typical": Refusal(_SAMPLER, _ONE),
    "tfs_z": Refusal(_SAMPLER, _ONE),
    "tfs": Refusal(_SAMPLER, _ONE),
    "top_a": Refusal(_SAMPLER, _OFF),
    "top_n_sigma": Refusal(_SAMPLER, (0, -1)),
    "nsigma": Refusal(_SAMPLER, _OFF),
    "dynatemp_range": Refusal(_SAMPLER, _OFF),
    "dynamic_temperature": Refusal(_SAMPLER, (False,)),
    "smoothing_factor": Refusal(_SAMPLER, _OFF),
    "epsilon_cutoff": Refusal(_SAMPLER, _OFF),
    "eta_cutoff": Refusal(_SAMPLER, _OFF),
    "skew": Refusal(_SAMPLER, _OFF),
    "penalty_alpha": Refusal(_SAMPLER, _OFF),
    "guidance_scale": Refusal(_SAMPLER, (1, 0)),
    "no_repeat_ngram_size": Refusal(_SAMPLER, _OFF),
    "encoder_repetition_penalty": Refusal(_SAMPLER, _ONE),
    "repeat_penalty": Refusal("use repetition_penalty", _ONE),
    "repetition_detection": Refusal("", ({},)),
    # what runs at other providers
    "plugins": Refusal(_WEB, ([],)),
    "enable_search": Refusal(_WEB, (False,)),
    "search_options": Refusal(_WEB, ({},)),
    "search_parameters": Refusal(_WEB, ({},)),
    "web_search": Refusal(_WEB, _NOTHING),
    "container": Refusal("", _NOTHING),
    "mcp_servers": Refusal("", ([],)),
    "safe_prompt": Refusal("", (False,)),
    "safety_settings": Refusal("", ([],)),
    "cached_content": Refusal("nothing is stored"),
    "background": Refusal("nothing is stored", (False,)),
    "context_management": Refusal("leave out yourself what does not fit", ([], {})),
    "kv_transfer_params": Refusal("", ({},)),
}

# Fine to ignore. Value: why nothing is lost.
IGNORED: Mapping[str, str] = {
    "verbosity": "a wish about the style",
    "service_tier": "there is one",
    "speed": "there is one",
    "safety_identifier": "for the provider's records",
    "user": "for the provider's records",
    "metadata": "for the client's records",
    "client_metadata": "for the client's records",
    "user_id": "for the provider's records",
    "prompt_cache_key": "prefixes are found without it",
    "prompt_cache_options": "prefixes are found without it",
    "prompt_cache_retention": "prefixes are kept while there is room",
    "cache_control": "prefixes are found without it",
    "cache_prompt": "prefixes are found without it",
    "session_id": "for the provider's records",
    "request_id": "the header x-request-id is used",
    "rid": "the header x-request-id is used",
    "betas": "they are headers",
    "stream_options": "usage always comes at the end",
    "priority": "the order of the queue only",
    "id_slot": "places are given by the server",
    "slot_id": "places are given by the server",
    "data_parallel_rank": "places are given by the server",
    "keep_alive": "the model stays loaded",
    "num_ctx": "the context is the server's",
    "add_special_tokens": "the tokenizer adds none",
    "spaces_between_special_tokens": "special tokens are never shown",
    "preserved_tokens": "special tokens are never shown",
    "timings_per_token": "timings come at the end",
    "return_progress": "timings come at the end",
    "provider": "a router's choice",
    "route": "a router's choice",
    "usage": "usage always comes",
    "guided_decoding_backend": "there is one",
    "mirostat_tau": "means nothing without mirostat",
    "mirostat_eta": "means nothing without mirostat",
    "dry_base": "means nothing without dry_multiplier",
    "dry_allowed_length": "means nothing without dry_multiplier",
    "dry_penalty_last_n": "means nothing without dry_multiplier",
    "dry_sequence_breakers": "means nothing without dry_multiplier",
    "xtc_threshold": "means nothing without xtc_probability",
    "dynatemp_exponent": "means nothing without dynatemp_range",
    "smoothing_curve": "means nothing without smoothing_factor",
    "min_keep": "means nothing without the samplers that are refused",
    "repeat_last_n": "means nothing without repeat_penalty",
    "penalize_nl": "means nothing without repeat_penalty",
}


def _same(value: Any, neutral: Any) -> bool:
    """Equal, where true is not 1 and false is not 0, but 1.0 is."""
    if isinstance(value, bool) or isinstance(neutral, bool):
        return isinstance(value, bool) and isinstance(neutral, bool) and value == neutral
    return bool(value == neutral)
