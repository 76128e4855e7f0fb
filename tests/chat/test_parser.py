from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from perilune.chat import (
    Channel,
    ChatFormat,
    ChatParser,
    ContentDelta,
    Delta,
    Finished,
    ReasoningDelta,
    Tokenizer,
    ToolCallArguments,
    ToolCallEnd,
    ToolCallStart,
    Truncated,
    assemble,
)
from perilune.chat.special_tokens import NAME_BY_OFFSET
from perilune.config import Family
from perilune.errors import ChatError

Formats = dict[Family, ChatFormat]
SPECIAL = re.compile(r"(<\|\w+\|>|</?think>|\[EOS\])")

THINK, END_THINK, END = "<think>", "</think>", "<|im_end|>"
SECTION, SECTION_END = "<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"
CALL, ARGS, CALL_END = (
    "<|tool_call_begin|>",
    "<|tool_call_argument_begin|>",
    "<|tool_call_end|>",
)
SINGULAR, SINGULAR_END = "<|tool_call_section_begin|>", "<|tool_call_section_end|>"


def one_call(index: int = 0, arguments: str = "{}") -> str:
    return f"{CALL}functions.f:{index}{ARGS}{arguments}{CALL_END}"


def ids_of(tokenizer: Tokenizer, text: str) -> list[int]:
    """Ids of a text in which a spelled special token is that token, where there is one."""
    ids: list[int] = []
    for piece in SPECIAL.split(text):
        special = tokenizer.special_tokens.get(piece)
        ids.extend(tokenizer.encode(piece) if special is None else [special])
    return ids


def merged(deltas: Iterable[Delta]) -> list[Delta]:
    """Neighbouring pieces of one text as one delta."""
    result: list[Delta] = []
    for delta in deltas:
        match result[-1] if result else None, delta:
            case ReasoningDelta(before), ReasoningDelta(text):
                result[-1] = ReasoningDelta(before + text)
            case ContentDelta(before), ContentDelta(text):
                result[-1] = ContentDelta(before + text)
            case ToolCallArguments(index, before), ToolCallArguments(_, text):
                result[-1] = ToolCallArguments(index, before + text)
            case _:
                result.append(delta)
    return result


def run(parser: ChatParser, ids: Iterable[int], reason: Any = None) -> list[Delta]:
    deltas = [delta for token_id in ids for delta in parser.feed(token_id)]
    return merged([*deltas, *parser.finish(reason)])


def parse(chat: ChatFormat, text: str, **options: Any) -> list[Delta]:
    return run(chat.parser(**options), ids_of(chat.tokenizer, text))


def test_reasoning_content_and_calls(formats: Formats) -> None:
    text = f"Thinking{END_THINK}Let me see.{SECTION}{one_call(3)}"
    text += one_call(4, '{"a": "é"}')
    expected = [
        ReasoningDelta("Thinking"),
        ContentDelta("Let me see."),
        ToolCallStart(0, "functions.f:3", "f"),
        ToolCallArguments(0, "{}"),
        ToolCallEnd(0),
        ToolCallStart(1, "functions.f:4", "f"),
        ToolCallArguments(1, '{"a": "é"}'),
        ToolCallEnd(1),
        Finished("tool_calls"),
    ]
    for family in (Family.K25, Family.K2_THINKING):
        assert parse(formats[family], text + SECTION_END + END) == expected
    # K2 Thinking writes <think> itself.
    assert parse(formats[Family.K2_THINKING], THINK + text + SECTION_END + END) == expected


def test_where_a_turn_starts(formats: Formats) -> None:
    k2, thinking, k25 = (formats[f] for f in (Family.K2, Family.K2_THINKING, Family.K25))
    answer = [ContentDelta("yes"), Finished("stop")]
    assert parse(k2, f"yes{END}") == answer
    assert parse(k25, f"yes{END}", thinking=False) == answer
    assert parse(thinking, f"yes{END}", thinking=False) == answer
    thought = [ReasoningDelta("yes"), Truncated("reasoning", ""), Finished("stop")]
    assert parse(k25, f"yes{END}") == thought
    assert parse(thinking, f"yes{END}") == thought
    both = [ReasoningDelta("why"), *answer]
    for chat in formats.values():
        for flag in (True, False):
            assert parse(chat, f"{THINK}why{END_THINK}yes{END}", thinking=flag) == both


def test_the_section_ends_thinking(formats: Formats) -> None:
    deltas = parse(formats[Family.K25], f"why{SECTION}{one_call()}{SECTION_END}then{END}")
    assert deltas == [
        ReasoningDelta("why"),
        ToolCallStart(0, "functions.f:0", "f"),
        ToolCallArguments(0, "{}"),
        ToolCallEnd(0),
        ContentDelta("then"),
        Finished("tool_calls"),
    ]


def test_several_sections(formats: Formats) -> None:
    section = f"{SECTION}{one_call()}{SECTION_END}"
    deltas = parse(formats[Family.K2], f"a{section}b{section}c{END}")
    assert [d.text for d in deltas if isinstance(d, ContentDelta)] == ["a", "b", "c"]
    assert [d.index for d in deltas if isinstance(d, ToolCallEnd)] == [0, 1]


@pytest.mark.parametrize(
    ("call_id", "name"),
    [
        (" functions.f:0\n", "f"),
        ("f:0", "f"),
        ("functions.f", "f"),
        ("f", "f"),
        ("functions.a.b-c:12", "a.b-c"),
    ],
)
def test_looser_ids(formats: Formats, call_id: str, name: str) -> None:
    deltas = parse(formats[Family.K2], f"{SECTION}{CALL}{call_id}{ARGS}{{}}{CALL_END}{END}")
    assert deltas[0] == ToolCallStart(0, call_id.strip(), name)
    assert deltas[-1] == Finished("tool_calls")


def test_known_tools_decide_the_name(formats: Formats) -> None:
    tools = [{"type": "function", "function": {"name": "a:1"}}, {"type": "builtin_function"}]
    deltas = parse(formats[Family.K2], f"{CALL}functions.a:1{ARGS}{{}}{CALL_END}", tools=tools)
    assert deltas[0] == ToolCallStart(0, "functions.a:1", "a:1")
    deltas = parse(formats[Family.K2], f"{CALL}g{ARGS}{{}}{CALL_END}", tools=tools)
    assert deltas[0] == ToolCallStart(0, "g", "g")


START = ToolCallStart(0, "functions.f:0", "f")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("why", [ReasoningDelta("why"), Truncated("reasoning", "")]),
        (f"{END_THINK}so", [ContentDelta("so")]),
        (SECTION, [Truncated("tool_section", "")]),
        (f"{SECTION}{CALL}functions.", [Truncated("tool_call_id", "functions.")]),
        (f"{SECTION}{CALL}functions.f:0{ARGS}", [START, Truncated("tool_call_arguments", "")]),
        (
            f'{SECTION}{CALL}functions.f:0{ARGS}{{"a',
            [START, ToolCallArguments(0, '{"a'), Truncated("tool_call_arguments", "")],
        ),
        (
            f"{SECTION}{one_call()}",
            [START, ToolCallArguments(0, "{}"), ToolCallEnd(0), Truncated("tool_section", "")],
        ),
        (f"{CALL}two words{ARGS}{{}}", [Truncated("tool_call_id", "two words" + "{}")]),
    ],
)
def test_cut_at_the_length(formats: Formats, text: str, expected: list[Delta]) -> None:
    assert parse(formats[Family.K25], text) == [*expected, Finished("length")]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # The turn ends inside the id or the arguments.
        (f"{SECTION}{CALL}functions.f:0{END}", [Truncated("tool_call_id", "functions.f:0")]),
        (f"{CALL}{END}", [Truncated("tool_call_id", "")]),
        (
            f"{CALL}functions.f:0{ARGS}{{{END}",
            [START, ToolCallArguments(0, "{"), Truncated("tool_call_arguments", "")],
        ),
        # The id names no function: the whole call comes raw.
        (
            f"{SECTION}{CALL}no id{ARGS}{{{THINK}}}{CALL_END}{SECTION_END}ok{END}",
            [Truncated("tool_call_id", "no id{<think>}"), ContentDelta("ok")],
        ),
        (f"{CALL}{ARGS}{{}}{CALL_END}{END}", [Truncated("tool_call_id", "{}")]),
        (f"{CALL}functions.f:0{CALL_END}{END}", [Truncated("tool_call_id", "functions.f:0")]),
        # Text between calls.
        (f"a{SECTION}some words\n{SECTION_END}{END}", [ContentDelta("asome words\n")]),
        (f"{SECTION}word{SECTION_END} b{END}", [ContentDelta("word b")]),
        (f"{SECTION} \n{SECTION_END}b{END}", [ContentDelta("b")]),
        (f"{SECTION}word{END}", [ContentDelta("word")]),
        # Stray markers: ends with nothing to end are ignored, other special tokens are text.
        (f"a{CALL_END}{SECTION_END}{END_THINK}b{END}", [ContentDelta("ab")]),
        (f"a{SECTION}{SECTION_END}b{END}", [ContentDelta("ab")]),
        (
            "a<|im_user|>b<|media_pad|>[EOS]",
            [ContentDelta("a<|im_user|>b<|media_pad|>")],
        ),
        (
            f"a{THINK}b{THINK}c{END_THINK}d{END}",
            [ContentDelta("a"), ReasoningDelta("bc"), ContentDelta("d")],
        ),
        # Spelled out as text, and not the marker.
        (f"a <|tool_call_sec{END}", [ContentDelta("a <|tool_call_sec")]),
        (f"a {SINGULAR} b{END}", [ContentDelta(f"a {SINGULAR} b")]),
        (f"a {SINGULAR}{END}", [ContentDelta(f"a {SINGULAR}")]),
        (f"x < y <{END}", [ContentDelta("x < y <")]),
    ],
)
def test_broken_output(formats: Formats, text: str, expected: list[Delta]) -> None:
    assert parse(formats[Family.K2], text) == [*expected, Finished("stop")]


@pytest.mark.parametrize(
    "text",
    [
        one_call(),  # no section
        f"{SECTION}{CALL}functions.f:0{ARGS}{{}}{SECTION_END}",  # no end of the call
        f"{SECTION}functions.f:0{ARGS}{{}}{CALL_END}{SECTION_END}",  # no begin of the call
        f"{SECTION}\n{one_call()}\n{SECTION_END}",
        f"{SINGULAR}{one_call()}{SINGULAR_END}",
        f"{SINGULAR}\n{one_call()}\n{SINGULAR_END}\n",
    ],
)
def test_a_call_is_a_call(formats: Formats, text: str) -> None:
    call = [START, ToolCallArguments(0, "{}"), ToolCallEnd(0)]
    deltas = [d for d in parse(formats[Family.K2], text + END) if d != ContentDelta("\n")]
    assert deltas == [*call, Finished("tool_calls")]


def test_a_new_call_closes_the_one_before(formats: Formats) -> None:
    deltas = parse(formats[Family.K2], f"{CALL}f:0{ARGS}1{CALL}f:1{ARGS}2{CALL_END}{END}")
    assert [d for d in deltas if isinstance(d, ToolCallEnd)] == [ToolCallEnd(0), ToolCallEnd(1)]


def test_the_end_of_the_section_closes_call_and_section(formats: Formats) -> None:
    text = f"{SECTION}{CALL}f:0{ARGS}{{}}{SECTION_END}\n{END}"
    assert parse(formats[Family.K2], text)[-2:] == [ContentDelta("\n"), Finished("tool_calls")]


def test_text_after_a_singular_section_is_content(formats: Formats) -> None:
    text = f"{SINGULAR}{one_call()}{SINGULAR_END}and more text{END}"
    assert ContentDelta("and more text") in parse(formats[Family.K2], text)


def test_the_singular_spelling_as_a_token(small: Tokenizer) -> None:
    special = {i: n for n, i in small.special_tokens.items()}
    first = small.vocab_size - 256
    special |= {first + 11: SINGULAR, first + 12: SINGULAR_END}
    token_bytes = [small.token_bytes(i) for i in range(first)]
    token_bytes += [special[i].encode() for i in range(first, first + 256)]
    tokenizer = Tokenizer(small.encode, token_bytes, special)
    chat = ChatFormat(tokenizer, Family.K2)
    assert chat.special_ids.tool_calls_section_begin == first + 11
    deltas = parse(chat, f"a{SINGULAR}{one_call()}{SINGULAR_END}b{END}")
    assert [d for d in deltas if isinstance(d, ContentDelta)] == [
        ContentDelta("a"),
        ContentDelta("b"),
    ]


def test_markers_inside_arguments_are_their_text(formats: Formats) -> None:
    inside = f"{THINK}{SECTION}{ARGS}<|im_user|>{END_THINK}"
    deltas = parse(formats[Family.K2], f"{SECTION}{one_call(0, inside)}{SECTION_END}{END}")
    assert deltas[1] == ToolCallArguments(0, inside)


def test_channel(formats: Formats) -> None:
    chat = formats[Family.K25]
    parser = chat.parser()
    seen = []
    for piece in ("r", END_THINK, SECTION, CALL, "f", ARGS, "{", CALL_END, SECTION_END, END):
        for token_id in ids_of(chat.tokenizer, piece):
            parser.feed(token_id)
        seen.append(parser.channel)
    assert seen == [
        Channel.REASONING, Channel.CONTENT, Channel.TOOL_SECTION, Channel.TOOL_CALL_ID,
        Channel.TOOL_CALL_ID, Channel.TOOL_ARGUMENTS, Channel.TOOL_ARGUMENTS,
        Channel.TOOL_SECTION, Channel.CONTENT, Channel.ENDED,
    ]  # fmt: skip


def test_finish_reasons(formats: Formats) -> None:
    chat = formats[Family.K2]
    text = ids_of(chat.tokenizer, "yes")
    calls = ids_of(chat.tokenizer, f"{SECTION}{one_call()}{SECTION_END}")
    open_call = ids_of(chat.tokenizer, f"{CALL}f{ARGS}")
    cases = [
        (text, None, "length"), (text, "length", "length"), (text, "stop", "stop"),
        (calls, None, "length"), (calls, "stop", "tool_calls"), (open_call, "stop", "stop"),
    ]  # fmt: skip
    for ids, reason, finished in cases:
        assert run(chat.parser(), ids, reason)[-1] == Finished(finished)
    assert Truncated("tool_call_arguments", "") in run(chat.parser(), open_call, "stop")
    parser = chat.parser()
    assert len(run(parser, text)) == 2
    assert parser.finish() == []


def test_misuse(formats: Formats) -> None:
    chat = formats[Family.K2]
    parser = chat.parser()
    parser.feed(next(iter(chat.stop_ids)))
    with pytest.raises(ChatError, match="after the end of the turn"):
        parser.feed(1)
    for token_id in (-1, chat.tokenizer.vocab_size):
        with pytest.raises(ChatError, match="outside the vocabulary"):
            chat.parser().feed(token_id)


def test_half_a_character_before_a_marker(formats: Formats) -> None:
    chat = formats[Family.K25]
    half = list("é".encode()[:1])
    ids = [*half, *ids_of(chat.tokenizer, END_THINK), *half]
    assert run(chat.parser(), ids) == [
        ReasoningDelta("\ufffd"),
        ContentDelta("\ufffd"),
        Finished("length"),
    ]


@pytest.mark.parametrize("family", Family)
@pytest.mark.parametrize("thinking", [True, False])
@pytest.mark.parametrize(
    "fields",
    [
        {"content": "Sure <"},
        {"reasoning_content": "R"},
        {"content": "é", "reasoning_content": "R"},
    ],
)
def test_a_partial_message_is_continued(
    formats: Formats, family: Family, thinking: bool, fields: dict[str, str]
) -> None:
    """The parser starts where the prompt ends, and does not repeat what the prompt holds."""
    chat = formats[family]
    partial = {"role": "assistant", "partial": True, **fields}
    prompt = chat.encode([{"role": "user", "content": "hi"}, partial], thinking=thinking)
    deltas = run(
        chat.parser(thinking=thinking, prompt=prompt), ids_of(chat.tokenizer, f"more{END}")
    )
    thinks = family is Family.K2_THINKING or (family is Family.K25 and thinking)
    if thinks and "content" not in fields:
        assert deltas[0] == ReasoningDelta("more")
    else:
        assert deltas == [ContentDelta("more"), Finished("stop")]


@pytest.mark.parametrize("thinking", [True, False])
def test_the_prompt_says_the_same_as_the_flag(formats: Formats, thinking: bool) -> None:
    for chat in formats.values():
        prompt = chat.encode([{"role": "user", "content": "hi"}], thinking=thinking)
        parser = chat.parser(thinking=thinking, prompt=prompt)
        assert parser.channel is chat.parser(thinking=thinking).channel
    closed = formats[Family.K25].encode(
        [{"role": "user", "content": "hi"}], add_generation_prompt=False
    )
    assert formats[Family.K25].parser(prompt=closed).channel is Channel.REASONING


# --- properties --------------------------------------------------------------------------------

WORDS = ["the", " ", "\n", "functions.f:0", "f:1", '{"a": 1}', "<", "|>", SINGULAR, SINGULAR_END,
         "two words", "é", "你好", "😀", "", *NAME_BY_OFFSET.values()]  # fmt: skip
MARKERS = [THINK, END_THINK, SECTION, SECTION_END, CALL, ARGS, CALL_END]


def streams(small: Tokenizer) -> st.SearchStrategy[list[int]]:
    """Ids of a turn without its end: markers, ordinary text, lone bytes, other special tokens."""
    first = small.vocab_size - 256
    stop = {first + 1, first + 2}
    piece = st.one_of(
        st.sampled_from(MARKERS).map(lambda m: [small.special_tokens[m]]),
        st.sampled_from(MARKERS).map(lambda m: [small.special_tokens[m]]),
        st.sampled_from(WORDS).map(small.encode),
        st.integers(0, first - 1).map(lambda i: [i]),
        st.integers(first, first + 255).filter(lambda i: i not in stop).map(lambda i: [i]),
    )
    return st.lists(piece, max_size=25).map(lambda parts: [i for part in parts for i in part])


def text_of(delta: Delta) -> str:
    match delta:
        case ReasoningDelta(text) | ContentDelta(text) | ToolCallArguments(_, text):
            assert text
            return text
        case ToolCallStart(_, call_id, _):
            return call_id
        case Truncated(_, detail):
            return detail
        case _:
            return ""


def accounted(text: str) -> str:
    """What must survive of a text: all but white space and spelled special tokens."""
    return "".join(SPECIAL.sub("", re.sub(r"\[\w+\]", "", text)).split())


@settings(max_examples=600, deadline=None)
@given(data=st.data(), ended=st.booleans(), family=st.sampled_from(Family))
def test_every_id_is_accounted_for(
    formats: Formats, small: Tokenizer, data: st.DataObject, ended: bool, family: Family
) -> None:
    ids = data.draw(streams(small))
    chat = formats[family]
    end = [small.special_ids.im_end] if ended else []
    deltas = run(chat.parser(), [*ids, *end])
    # All text comes out, once, in order; special ids only separate it.
    runs: list[list[int]] = [[]]
    for token_id in ids:
        if small.is_special(token_id):
            runs.append([])
        else:
            runs[-1].append(token_id)
    expected = "".join(accounted(small.decode(r)) for r in runs)
    assert accounted("".join(map(text_of, deltas))) == expected
    # Special tokens that are not markers come out as their text.
    markers = {small.special_tokens[m] for m in MARKERS}
    spelled = [small.decode([i]) for i in ids if small.is_special(i) and i not in markers]
    everything = "".join(map(text_of, deltas))
    for name in set(spelled):
        assert everything.count(name) >= spelled.count(name)
    # The deltas tell a consistent story.
    assert isinstance(deltas[-1], Finished)
    assert [isinstance(d, Finished) for d in deltas].count(True) == 1
    started, open_call = 0, None
    for delta in deltas:
        match delta:
            case ToolCallStart(index):
                assert index == started and open_call is None
                started, open_call = started + 1, index
            case ToolCallArguments(index):
                assert index == open_call
            case ToolCallEnd(index):
                assert index == open_call
                open_call = None
            case Truncated("tool_call_arguments"):
                assert open_call is not None
                open_call = None
    assert open_call is None
    completed = any(isinstance(d, ToolCallEnd) for d in deltas)
    reason = ("tool_calls" if completed else "stop") if ended else "length"
    assert deltas[-1] == Finished(reason)


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_a_clone_goes_its_own_way(formats: Formats, small: Tokenizer, data: st.DataObject) -> None:
    ids, other = data.draw(streams(small)), data.draw(streams(small))
    chat = formats[Family.K25]
    expected = run(chat.parser(), ids)
    at = data.draw(st.integers(0, len(ids)))
    parser = chat.parser()
    before = [delta for i in ids[:at] for delta in parser.feed(i)]
    clone = parser.clone()
    run(clone, other)
    twin = parser.clone()
    assert merged([*before, *run(parser, ids[at:])]) == expected
    assert merged([*before, *run(twin, ids[at:])]) == expected


texts = st.lists(st.text(max_size=8) | st.sampled_from(WORDS), max_size=5).map("".join)
names = st.from_regex(r"[a-zA-Z_][a-zA-Z0-9_-]{0,10}(\.[a-z]{1,5})?", fullmatch=True)


@settings(max_examples=400, deadline=None)
@given(
    content=texts,
    reasoning=texts,
    calls=st.lists(st.tuples(names, texts), max_size=3),
    thinking=st.booleans(),
    family=st.sampled_from(Family),
)
@example("a", "", [("f", "")], True, Family.K25)
@example(SINGULAR, SINGULAR + "\n", [("f", SINGULAR_END)], True, Family.K25)
def test_parse_of_render_is_the_message(
    formats: Formats,
    content: str,
    reasoning: str,
    calls: list[tuple[str, str]],
    thinking: bool,
    family: Family,
) -> None:
    chat = formats[family]
    message: dict[str, Any] = {"role": "assistant", "content": content or None}
    thinks = family is Family.K2_THINKING or (family is Family.K25 and thinking)
    if reasoning and thinks:
        message["reasoning_content"] = reasoning
    if calls:
        message["tool_calls"] = [
            {
                "id": f"functions.{name}:{index}",
                "type": "function",
                "function": {"name": name, "arguments": arguments},
            }
            for index, (name, arguments) in enumerate(calls)
        ]
    before = [{"role": "user", "content": "hi"}]
    prompt = chat.encode(before, thinking=thinking, preserve_thinking=True)
    whole = chat.encode(
        [*before, message], thinking=thinking, preserve_thinking=True, add_generation_prompt=False
    )
    assert whole[: len(prompt)] == prompt
    tools = [{"type": "function", "function": {"name": name}} for name, _ in calls]
    parser = chat.parser(thinking=thinking, tools=tools, prompt=prompt)
    deltas = run(parser, whole[len(prompt) :])
    assert assemble(deltas) == message
    assert deltas[-1] == Finished("tool_calls" if calls else "stop")
    assert not any(isinstance(d, Truncated) for d in deltas)


def test_assemble_leaves_open_calls_out(formats: Formats) -> None:
    text = f"why{END_THINK}so{SECTION}{one_call()}{CALL}functions.f:1{ARGS}{{"
    assert assemble(parse(formats[Family.K25], text)) == {
        "role": "assistant",
        "content": "so",
        "reasoning_content": "why",
        "tool_calls": [
            {
                "id": "functions.f:0",
                "type": "function",
                "function": {"name": "f", "arguments": "{}"},
            }
        ],
    }
    assert assemble([Finished("stop")]) == {"role": "assistant", "content": None}


def test_tools_of_an_endpoint_are_no_functions(formats: Formats) -> None:
    tools: list[dict[str, Any]] = [
        {"type": "builtin_function", "function": "$web_search"},
        {"type": "builtin_function", "function": {"name": ["f"]}},
    ]
    chat = formats[Family.K25]
    assert chat.encode([{"role": "user", "content": "hi"}], tools)
    assert chat.parser(tools=tools).channel == "reasoning"
