"""A server's refusal, in whatever words -> `ModelError`: what it is, and whether to try again.

The hard case is a prompt that is too long: every server has words of its own for it, and some of
the same words mean something else (one field is too long, too many tokens per minute, more output
asked for than the model gives). The wordings in the tests are those of the servers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from perilune.agent.models.chat_model import ModelError
from perilune.agent.models.retry import retry_after
from perilune.agent.models.server_events import read_json
from perilune.agent.models.sight import read_refusal
from perilune.text import valid_text

MAX_MESSAGE = 500
SMALLEST_OUTPUT = 16
"""Fewer tokens than this are no room for an answer: then it is the prompt that is too long."""

_CONTEXT_CODES = frozenset(
    {
        "context_length_exceeded",
        "context_window_exceeded",
        "model_context_window_exceeded",
        "exceed_context_size_error",
        "exceed_context_size",
        "prompt_too_long",
        "input_too_long",
        "tokens_limit_reached",
        "request_too_large",
        "max_context_length_exceeded",
        "string_too_long_for_context",
    }
)
_NUMBER = r"\d[\d,_]*"
# One alternative a family of wordings; "tokens per minute" and single fields are sorted out before.
_CONTEXT = re.compile(
    r"""
      context[ _-]?(?:length|size|window|limit)        # OpenAI, vLLM, llama.cpp, Anthropic
    | context\ the\ overflows | context\ (?:has\ )?overflow(?:s|ed)? | overflows?\ the\ context
    | (?:exceed\w*|over|above)\ (?:the\ |this\ )?(?:model'?s?\ )?(?:max\w*\ )?token\ limit
    | exceeded\ model\ token\ limit                    # Moonshot
    | (?:prompt|input|conversation|messages?|request)\ (?:is|are|was)?\ ?too\ (?:long|large|big)
    | prompt\ contains\ \d+\ tokens                    # Mistral
    | longer\ than\ the\ (?:maximum|model)             # vLLM, SGLang
    | exceeds?\ the\ (?:model'?s\ )?(?:maximum|max)\ (?:allowed|input|prompt|number\ of\ tokens
        |model|context|sequence)                       # SGLang, Gemini
    | (?:prompt|input|request|conversation)\ exceeds | must\ have\ less\ than\ \d+\ tokens
    | inputs?\W*\ tokens\ \+ | sum\ of\ (?:the\ )?(?:prompt|input)\ length  # TGI, TensorRT-LLM
    | input\ token\ count | range\ of\ input\ length\ should\ be
    | (?:maximum|max)[ _](?:input|prompt|sequence|model)[ _](?:length|tokens?|len)
    | reduce\ (?:the|your)\ (?:length|size)\ of\ (?:the|your)\ (?:messages?|prompt|input)
    | reduce\ your\ (?:prompt|message\ size)
    | too\ many\ (?:input\ |prompt\ )?tokens
    | tokens?\ (?:in\ the\ (?:prompt|messages|input)\ )?exceeds?\b
    | (?:payload|entity|body)\ too\ large | request\ exceeds\ the\ maximum
    """,
    re.VERBOSE,
)
_RATE = re.compile(
    r"(?:tokens|requests) per (?:min|hour|day|second)|\b(?:tpm|rpm|tpd)\b|rate.?limit"
)
# The text of one field, or the number of its items, is too large: less history would not help.
_ONE_FIELD = re.compile(
    r"""(?:string|array|object|value|list)\ (?:is\ )?too\ (?:long|large)
    | _above_max_(?:length|items) | but\ got\ an?\ (?:string|array)
    | at\ most\ \d+\ (?:characters|items|tools|chars)
    | (?:name|description|title|stop|user|metadata|tool_call_id|tools?|schema)['"\]\)]*:?
        \ (?:is\ |are\ |must\ |has\ |should\ )[^.]*(?:too\ long|characters|at\ most|maximum\ length)
    | too\ many\ tools | image\ [^.]*(?:exceeds|too\ large)
    """,
    re.VERBOSE,
)
_OUTPUT = re.compile(
    r"""['"`]?max_(?:completion_|output_|new_)?tokens['"`]?
        (?:\ or\ ['"`]max_completion_tokens['"`])?
        (?:\ value)?(?:\ is|:|\ must|\ cannot|\ should|\ exceeds|\ \(|,\ the\ valid)
    | invalid\ max_tokens
    | requested\ \d+\ tokens\ \(\d+\ in\ the\ (?:messages|prompt)
    | input\ length\ and\ `?max_tokens`?\ exceed
    | \d+\ in\ (?:your|the)\ (?:prompt|messages);?\ (?:and\ )?\d+\ (?:for|in)\ the\ completion
    """,
    re.VERBOSE,
)
# The limit of prompt and output together, without saying which of them is too large.
_SUM = re.compile(r"inputs?\W* tokens \+|sum of (?:the )?(?:prompt|input) length")
_WINDOWS = tuple(
    re.compile(pattern)
    for pattern in (
        rf"model token limit:? ({_NUMBER})",
        rf"exceed context limit: {_NUMBER} \+ {_NUMBER} > ({_NUMBER})",
        rf"model's context length is only ({_NUMBER})",
        rf"must be <= ({_NUMBER})",
        rf"max_num_tokens \(({_NUMBER})",
        rf"must have less than ({_NUMBER}) tokens",
        rf"maximum (?:context|model|input|prompt|sequence)? ?(?:length|window|size)"
        rf"(?: \(max_model_len\))?(?: is| of|:)? ?\(?(?:only )?({_NUMBER})",
        rf"context (?:length|window|size|limit)(?: is| of|:)?(?: only)? ?\(?({_NUMBER})",
        rf"maximum allowed length \(?({_NUMBER})",
        rf"> ({_NUMBER}) maximum",
        rf"model with ({_NUMBER}) maximum context",
        rf"maximum number of (?:input )?tokens allowed \(?({_NUMBER})",
        rf"input length should be \[\d+, ?({_NUMBER})\]",
        rf"(?:token|tokens|input) limit (?:is|of|:) ?({_NUMBER})",
        rf"(?:limit|maximum|max|at most)(?: is| of|:)? ?({_NUMBER}) (?:tokens|input tokens)",
        rf"context (?:length|window|size) ?\(?n_ctx ?= ?({_NUMBER})",
        rf"context length of only ({_NUMBER})",
        rf"max size: ?({_NUMBER})",
    )
)
_PROMPTS = tuple(
    re.compile(pattern)
    for pattern in (
        rf"\(({_NUMBER}) in (?:the|your) (?:messages|prompt)",
        rf"request has ({_NUMBER}) input tokens",
        rf"exceed context limit: ({_NUMBER}) \+",
        rf"({_NUMBER}) in (?:the|your) (?:prompt|messages)",
        rf"prompt contains at least ({_NUMBER}) input tokens",
    )
)
_OUTPUT_LIMITS = tuple(
    re.compile(pattern)
    for pattern in (
        rf"at most ({_NUMBER}) (?:completion|output) tokens",
        rf"max_tokens: {_NUMBER} > ({_NUMBER})",
        rf"range of max_tokens (?:is|should be) \[\d+, ?({_NUMBER})\]",
        rf"max_(?:completion_|output_)?tokens\W* (?:must be|should be|cannot be)"
        rf"[^0-9]*({_NUMBER})",
        rf"from 1 \(inclusive\) to ({_NUMBER})",
    )
)


def status_error(status: int, headers: Mapping[str, str], body: bytes) -> ModelError:
    """The refusal that an HTTP status and its body are."""
    message, words, error = _read_body(body)
    said = f"the endpoint answered {status}: {valid_text(message)[:MAX_MESSAGE]}".rstrip(": ")
    return _classified(status, said, message, words, error, wait=retry_after(headers))


def names_no_model(body: bytes) -> bool:
    """Whether the words of a 404 say that the model is not there, rather than the path."""
    low = valid_text(_read_body(body)[0])[:MAX_MESSAGE].lower()
    return "model" in low and ("not" in low or "unknown" in low or "exist" in low)


def _read_body(body: bytes) -> tuple[str, str, Any]:
    """(words for people, words for programs, the error's object) of a refusal's body."""
    text = body.decode("utf-8", "replace")
    try:
        value = read_json(text)
    except ValueError:
        value = None
    about = value if isinstance(value, dict) else {}
    if isinstance(value, list) and value and isinstance(value[0], dict):  # Gemini's is in a list
        about = value[0]
    error = about.get("error") or about
    if isinstance(error, dict) and error:
        message, words = _message(error), _words(error, about)
    else:
        message = error if isinstance(error, str) else " ".join(_plain(text).split())
        words = ""
    return message, words, error


def stream_error(error: Any, chunk: Mapping[str, Any]) -> ModelError:
    """The refusal that stands inside a stream which began with 200."""
    if isinstance(error, dict):
        message, words = _message(error), _words(error, chunk)
        codes = [error.get("code"), error.get("status"), error.get("status_code")]
    else:
        message, words, codes = str(error), "", []
    codes += [chunk.get("status"), chunk.get("code"), chunk.get("status_code")]
    status = next((c for c in map(_status, codes) if c), 0)
    said = f"the endpoint failed: {valid_text(message)[:MAX_MESSAGE]}"
    return _classified(status, said, message, words, error, wait=None)


def _classified(
    status: int, said: str, message: str, words: str, error: Any, *, wait: float | None
) -> ModelError:
    low = message[:4000].lower()
    limited = status == 429 or "rate_limit" in words
    if ("quota" in words and ("exceeded" in words or "insufficient" in words)) or status == 402:
        return ModelError(said, kind="quota", remedy="Add credit, or use another key.")
    if limited and status != 413:
        cause = "overloaded" if "overloaded" in words else "rate_limit"
        return ModelError(said, kind=cause, retryable=True, retry_after=wait)
    if status in (401, 403):
        return ModelError(said, kind="auth", remedy="Check the key and --api-key-env.")
    if (sight := read_refusal(status, low)) is not None:
        return ModelError(said, kind=sight.kind, status=status, room=sight.most)
    if status in (0, 400, 413, 422) or status >= 500:
        window = _first(_WINDOWS, low) or _context_field(error)
        if _OUTPUT.search(low) and not _SUM.search(low):
            return _output_error(status, said, low, window)
        if (
            _CONTEXT_CODES.intersection(words.split())
            or status == 413
            or (_CONTEXT.search(low) and not _ONE_FIELD.search(low) and not _RATE.search(low))
        ):
            return ModelError(said, kind="context", status=status, window=window)
    if status in (0, 408, 409, 425) or status >= 500:
        return ModelError(said, kind="overloaded", retryable=True, retry_after=wait)
    explained = bool(_ONE_FIELD.search(low))
    return ModelError(said, kind="request", status=status, explained=explained)


def _output_error(status: int, said: str, low: str, window: int | None) -> ModelError:
    """More output was asked for than there is room, or than the model ever gives."""
    prompt = _first(_PROMPTS, low)
    if window is not None and prompt is not None:
        room = window - prompt
        if room < max(SMALLEST_OUTPUT, window // 20):
            return ModelError(said, kind="context", status=status, window=window)
        return ModelError(said, kind="max_tokens", status=status, window=window, room=room)
    return ModelError(
        said, kind="max_tokens", status=status, room=_first(_OUTPUT_LIMITS, low) or window
    )


def _message(error: Mapping[str, Any]) -> str:
    """The words for people: `message`, FastAPI's `detail`, what a gateway passes on, or all."""
    for key in ("message", "detail", "msg", "error"):
        value = error.get(key)
        if isinstance(value, str) and value:
            raw = error.get("metadata")
            inner = raw.get("raw") if isinstance(raw, dict) else None  # OpenRouter's provider
            return f"{value}: {inner}" if isinstance(inner, str) else value
    try:
        return json.dumps(error, ensure_ascii=False)
    except (ValueError, RecursionError):
        return "an error without a message"


def _words(error: Mapping[str, Any], about: Mapping[str, Any]) -> str:
    """The words for programs, of `type`, `code` and `status`, in small letters."""
    found = [part.get(key) for part in (error, about) for key in ("type", "code", "status")]
    return " ".join(str(each) for each in found if isinstance(each, str)).lower()[:500]


def _context_field(error: Any) -> int | None:
    """llama.cpp says `n_ctx` beside its message."""
    value = error.get("n_ctx") if isinstance(error, dict) else None
    return value if isinstance(value, int) and 0 < value < 10**9 else None


def _first(patterns: tuple[re.Pattern[str], ...], text: str) -> int | None:
    for pattern in patterns:
        if match := pattern.search(text):
            value = int(match[1].replace(",", "").replace("_", "")[:12])
            return value if 0 < value < 10**9 else None
    return None


def _status(value: Any) -> int:
    if isinstance(value, str) and value.isdecimal() and len(value) == 3:
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and 400 <= value < 600:
        return value
    return 0


def _plain(text: str) -> str:
    """The words of a web page."""
    if "<" not in text[:500]:
        return text[: 4 * MAX_MESSAGE]
    start = re.sub(r"(?s)<(script|style)\b.{0,20000}?</\1>", " ", text[:20000])
    return re.sub(r"<[^<>]{0,500}>", " ", start)
