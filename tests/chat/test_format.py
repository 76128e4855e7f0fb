from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perilune.chat import ChatFormat, Tokenizer
from perilune.chat.special_tokens import NAME_BY_OFFSET
from perilune.config import Family
from perilune.errors import ChatError, ConfigError

Formats = dict[Family, ChatFormat]
SYSTEM = "You are Kimi, an AI assistant created by Moonshot AI."
USER = {"role": "user", "content": "hi"}
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]


def call(
    call_id: str, name: str = "get_weather", arguments: Any = '{"city": "NYC"}'
) -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def rendered(chat: ChatFormat, messages: Any, tools: Any = None, **options: Any) -> str:
    return chat.decode(chat.encode(messages, tools, **options))


# An answered turn, then a tool-calling chain under way.
CHAIN = [
    {"role": "user", "content": "hi"},
    {"role": "assistant", "content": "A1", "reasoning_content": "R1"},
    {"role": "user", "content": "...see"},
    {
        "role": "assistant",
        "content": None,
        "reasoning_content": "R2",
        "tool_calls": [call("functions.get_weather:0", arguments={"city": "NYC"})],
    },
    {
        "role": "tool",
        "name": "get_weather",
        "tool_call_id": "functions.get_weather:0",
        "content": "Sunny",
    },
]
USER_HI = "<|im_user|>user<|im_middle|>hi<|im_end|>"
CALL = (
    "<|tool_calls_section_begin|><|tool_call_begin|>functions.get_weather:0"
    '<|tool_call_argument_begin|>{"city": "NYC"}<|tool_call_end|><|tool_calls_section_end|>'
)
RESULT = (
    "<|im_system|>get_weather<|im_middle|>## Return of functions.get_weather:0\nSunny<|im_end|>"
)
TURN = "<|im_assistant|>assistant<|im_middle|>"


def chain(system: str, first: str, second: str, prompt: str) -> str:
    return (
        f"{system}{USER_HI}{TURN}{first}A1<|im_end|>"
        f"<|im_user|>user<|im_middle|>...see<|im_end|>{TURN}{second}{CALL}<|im_end|>{RESULT}{prompt}"
    )


DEFAULT = f"<|im_system|>system<|im_middle|>{SYSTEM}<|im_end|>"


def test_golden_k2_thinking(formats: Formats) -> None:
    """The published template, rendered: the reasoning of an earlier turn is dropped."""
    expected = chain(DEFAULT, "<think></think>", "<think>R2</think>", TURN)
    for thinking in (True, False):  # this model cannot be told not to think
        assert rendered(formats[Family.K2_THINKING], CHAIN, thinking=thinking) == expected


def test_golden_k2(formats: Formats) -> None:
    assert rendered(formats[Family.K2], CHAIN) == chain(DEFAULT + "\n", "", "", TURN)


def test_golden_k25(formats: Formats) -> None:
    chat = formats[Family.K25]
    empty, first, second = "<think></think>", "<think>R1</think>", "<think>R2</think>"
    assert rendered(chat, CHAIN) == chain("", empty, second, TURN + "<think>")
    off = TURN + empty
    assert rendered(chat, CHAIN, thinking=False) == chain("", empty, empty, off)
    kept = chain("", first, second, TURN + "<think>")
    assert rendered(chat, CHAIN, preserve_thinking=True) == kept
    # Published with K2.6: what was thought before stays, even when this turn does not think.
    both = rendered(chat, CHAIN, preserve_thinking=True, thinking=False)
    assert both == chain("", first, second, off)


def test_golden_ids(kimi: Tokenizer) -> None:
    ids = ChatFormat(kimi, Family.K25).encode([{"role": "user", "content": "Hello, world!"}])
    hello = [19180, 11, 2695, 0]
    assert ids == [163587, 2482, 163601, *hello, 163586, 163588, 69702, 163601, 163606]


def test_without_generation_prompt(formats: Formats) -> None:
    for family, system in [(Family.K2, DEFAULT + "\n"), (Family.K25, "")]:
        text = rendered(formats[family], [USER], add_generation_prompt=False)
        assert text == system + USER_HI


@pytest.mark.parametrize("role", ["system", "developer"])
def test_a_system_message_replaces_the_default(formats: Formats, role: str) -> None:
    messages = [{"role": role, "content": "Be brief."}, USER]
    for chat in formats.values():
        text = rendered(chat, messages, add_generation_prompt=False)
        assert text == f"<|im_system|>system<|im_middle|>Be brief.<|im_end|>{USER_HI}"


def test_tools_come_first(formats: Formats) -> None:
    declared = "<|im_system|>tool_declare<|im_middle|>{}<|im_end|>"
    as_json = '[{"function":{"name":"f","parameters":{"type":"object"}},"type":"function"}]'
    as_typescript = "# Tools\n\n## functions\nnamespace functions {\ntype f = (_: {}) => any;\n}\n"
    expected = {
        Family.K2: declared.format(as_json) + DEFAULT + "\n",
        Family.K2_THINKING: declared.format(as_json) + DEFAULT,
        Family.K25: declared.replace("{}", as_typescript),
    }
    for family, head in expected.items():
        text = rendered(formats[family], [USER], TOOLS, add_generation_prompt=False)
        assert text == head + USER_HI
        assert rendered(formats[family], [USER], []) == rendered(formats[family], [USER])


def test_names_and_other_roles(formats: Formats) -> None:
    messages = [
        {"role": "user", "name": "Ada", "content": "hi"},
        {"role": "assistant", "name": "kimi", "content": "yo"},
        {"role": "tool_declare", "content": "[]"},
        {"role": "system", "name": "note", "content": None},
    ]
    assert rendered(formats[Family.K25], messages, add_generation_prompt=False) == (
        "<|im_user|>Ada<|im_middle|>hi<|im_end|>"
        "<|im_assistant|>kimi<|im_middle|><think></think>yo<|im_end|>"
        "<|im_system|>tool_declare<|im_middle|>[]<|im_end|>"
        "<|im_system|>note<|im_middle|><|im_end|>"
    )


def test_foreign_ids_are_renamed_in_calls_and_results(formats: Formats) -> None:
    def conversation(*ids: str) -> list[dict[str, Any]]:
        first, second, third = ids
        return [
            USER,
            {"role": "assistant", "tool_calls": [call(first), call(second, "f")]},
            {"role": "tool", "tool_call_id": second, "content": "2"},
            {"role": "tool", "tool_call_id": first, "content": "1"},
            {"role": "assistant", "tool_calls": [call(third)]},
            {"role": "tool", "tool_call_id": third, "content": "3"},
        ]

    native = conversation("functions.get_weather:0", "functions.f:1", "functions.get_weather:2")
    for chat in formats.values():
        assert chat.encode(conversation("call_x", "toolu_y", "call_z")) == chat.encode(native)
    text = rendered(formats[Family.K25], native)
    results = "## Return of functions.f:1\n2", "## Return of functions.get_weather:0\n1"
    assert text.index(results[0]) < text.index(results[1])


def test_text_on_both_sides_of_a_part_is_encoded_in_one_piece(formats: Formats) -> None:
    parts = [{"type": "text", "text": "the t"}, {"type": "text", "text": "he"}]
    for chat in formats.values():
        whole = chat.encode([{"role": "user", "content": "the the"}])
        assert chat.encode([{"role": "user", "content": parts}]) == whole


def test_golden_media(formats: Formats) -> None:
    chat = formats[Family.K25]
    image = {"type": "image_url", "image_url": {"url": "data:,"}}
    video = {"type": "video_url", "video_url": {"url": "ms://1"}}
    spoof = "<|media_pad|><|kimi_k25_video_placeholder|>"
    content = [image, image, {"type": "text", "text": f"see {spoof}"}, video, "?"]
    prompt = chat.render([{"role": "user", "content": content}], add_generation_prompt=False)
    one = "<|media_begin|>image<|media_content|><|media_pad|><|media_end|>\n"
    assert chat.decode(prompt.ids) == (
        f"<|im_user|>user<|im_middle|>{one}{one}see {spoof}"
        "<|kimi_k25_video_placeholder|>?<|im_end|>"
    )
    first, second, third = prompt.media
    pad = chat.special_ids.media_pad
    assert [i for i, token in enumerate(prompt.ids) if token == pad] == [
        first.position,
        second.position,
    ]
    assert first.length == second.length == 1 and first.media.part is image
    placeholder = prompt.ids[third.position : third.position + third.length]
    assert chat.decode(placeholder) == "<|kimi_k25_video_placeholder|>"
    assert chat.decode(prompt.ids[third.position + third.length :]) == "?<|im_end|>"


@pytest.mark.parametrize("family", [Family.K2, Family.K2_THINKING])
def test_text_models_refuse_media(formats: Formats, family: Family) -> None:
    image = {"type": "image_url", "image_url": {"url": "data:,"}}
    with pytest.raises(ChatError, match="reads text only") as caught:
        formats[family].encode([{"role": "user", "content": [image]}])
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("fields", "k2", "k2_thinking", "k25", "k25_off"),
    [
        ({"content": "Sure"}, "Sure", *["<think></think>Sure"] * 3),
        (
            {"content": "Sure", "reasoning_content": "R"},
            "Sure",
            *["<think>R</think>Sure"] * 2,
            "<think></think>Sure",
        ),
        ({"reasoning_content": "R"}, "", *["<think>R"] * 2, "<think></think>"),
        ({"content": ""}, "", "", "<think>", "<think></think>"),
    ],
)
def test_partial(
    formats: Formats, fields: Any, k2: str, k2_thinking: str, k25: str, k25_off: str
) -> None:
    """The last message stays open; the chain before it keeps its reasoning."""
    messages = [*CHAIN, {"role": "assistant", "partial": True, **fields}]
    expected = [
        (Family.K2, True, k2),
        (Family.K2_THINKING, True, k2_thinking),
        (Family.K25, True, k25),
        (Family.K25, False, k25_off),
    ]
    for family, thinking, body in expected:
        chat = formats[family]
        for add_generation_prompt in (True, False):
            text = rendered(
                chat, messages, thinking=thinking, add_generation_prompt=add_generation_prompt
            )
            before = rendered(chat, CHAIN, thinking=thinking, add_generation_prompt=False)
            assert text == before + TURN + body


def test_partial_name(formats: Formats) -> None:
    partial = {"role": "assistant", "name": "Dr. K", "content": "So", "partial": True}
    text = rendered(formats[Family.K2], [USER, partial])
    assert text.endswith("<|im_assistant|>Dr. K<|im_middle|>So")


SPELLED = "".join([*NAME_BY_OFFSET.values(), "<|reserved_token_163589|>"])


@settings(max_examples=100, deadline=None)
@given(texts=st.lists(st.text(max_size=5).map(lambda t: t + SPELLED + t), min_size=9, max_size=9))
def test_no_text_becomes_a_special_token(formats: Formats, texts: list[str]) -> None:
    """Every field that a user, a tool or a model fills; only the template writes special ids."""

    def conversation(*t: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        messages = [
            {"role": "system", "content": t[0]},
            {"role": "user", "name": t[1], "content": t[2]},
            {
                "role": "assistant",
                "content": t[3],
                "reasoning_content": t[4],
                "tool_calls": [call("x", t[5], t[6])],
            },
            {"role": "tool", "name": t[1], "tool_call_id": "x", "content": t[7]},
        ]
        return messages, [{"type": "function", "function": {"name": "f", "description": t[8]}}]

    for chat in formats.values():
        special = chat.tokenizer.is_special
        messages, tools = conversation(*texts)
        ids = chat.encode(messages, tools)
        plain = chat.encode(*conversation(*["t"] * 9))
        assert [i for i in ids if special(i)] == [i for i in plain if special(i)]
        assert chat.decode(ids).count(texts[2]) >= 1


def test_history_renders_as_a_prefix(formats: Formats) -> None:
    """With reasoning kept, a longer conversation starts with the ids of the shorter one."""
    chat = formats[Family.K25]
    for length in range(1, len(CHAIN)):
        shorter = chat.encode(
            CHAIN[:length], TOOLS, preserve_thinking=True, add_generation_prompt=False
        )
        assert chat.encode(CHAIN, TOOLS, preserve_thinking=True)[: len(shorter)] == shorter


def test_special_and_stop_ids(formats: Formats, small: Tokenizer) -> None:
    first = small.vocab_size - 256
    for chat in formats.values():
        assert chat.special_ids.im_end == first + 2
        assert chat.stop_ids == {first + 1, first + 2}
    assert ChatFormat(small, Family.K2, eos_token_ids=[9]).stop_ids == {9, first + 1, first + 2}


def test_from_pretrained(kimi_folder: Path) -> None:
    chat = ChatFormat.from_pretrained(kimi_folder)
    assert chat.family is Family.K25
    assert chat.stop_ids == {163585, 163586}
    assert ChatFormat.from_pretrained(kimi_folder, family=Family.K2).family is Family.K2


def write_checkpoint(folder: Path, vocab_size: int) -> None:
    from tests.chat.conftest import write_tiktoken_model

    config = {
        "model_type": "deepseek_v3", "n_group": 1, "topk_group": 1, "q_lora_rank": None,
        "vocab_size": vocab_size, "hidden_size": 8,
        "num_hidden_layers": 1, "first_k_dense_replace": 1, "intermediate_size": 8,
        "moe_intermediate_size": 8, "n_routed_experts": 4, "num_experts_per_tok": 2,
        "n_shared_experts": 1, "norm_topk_prob": True, "routed_scaling_factor": 1.0,
        "num_attention_heads": 2, "kv_lora_rank": 4, "qk_nope_head_dim": 4, "qk_rope_head_dim": 2,
        "v_head_dim": 4, "rms_norm_eps": 1e-6, "max_position_embeddings": 64,
        "rope_theta": 50000.0,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    write_tiktoken_model(folder / "tiktoken.model", [bytes([b]) for b in range(256)])


def test_a_small_checkpoint(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, 512)
    chat = ChatFormat.from_pretrained(tmp_path)
    assert chat.family is Family.K2 and chat.tokenizer.vocab_size == 512
    assert rendered(chat, [{"role": "system", "content": "é"}]) == (
        "<|im_system|>system<|im_middle|>é<|im_end|><|im_assistant|>assistant<|im_middle|>"
    )


def test_a_vocabulary_larger_than_the_models_is_refused(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, 511)
    with pytest.raises(ChatError, match=r"has 512 ids.* knows 511"):
        ChatFormat.from_pretrained(tmp_path)
    with pytest.raises(ConfigError):
        ChatFormat.from_pretrained(tmp_path / "absent")


def test_a_vocabulary_without_the_needed_tokens(small: Tokenizer) -> None:
    special = {i: n for n, i in small.special_tokens.items()}

    def without(*names: str) -> Tokenizer:
        kept = {i: n for i, n in special.items() if n not in names}
        token_bytes = [small.token_bytes(i) for i in range(small.vocab_size)]
        return Tokenizer(small.encode, token_bytes, kept)

    with pytest.raises(ChatError, match=r"no token <\|im_middle\|>"):
        ChatFormat(without("<|im_middle|>"), Family.K2)
    with pytest.raises(ChatError, match="no token </think>"):
        ChatFormat(without("</think>"), Family.K25)
    chat = ChatFormat(without("<think>", "<|tool_call_begin|>"), Family.K2)
    assert chat.special_ids.think is None
    assert chat.encode([USER])
    with pytest.raises(ChatError, match=r"no token <\|tool_call_begin\|>"):
        chat.encode([{"role": "assistant", "tool_calls": [call("x")]}])


def test_importing_chat_is_light() -> None:
    code = (
        "import sys, perilune.chat; "
        "heavy = {'torch', 'numpy', 'transformers', 'jinja2', 'tokenizers', 'tiktoken'}; "
        "sys.exit(' '.join(heavy & sys.modules.keys()) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
