"""Grammars over our vocabulary: which tokens may come next so that the text still matches.

llguidance does the parsing. Matchers only ever go forward: where several futures are looked at
(speculation), a fork goes there and is thrown away, because rolling back is slower and has been
wrong for some grammars. Source: github.com/guidance-ai/llguidance.
"""

from __future__ import annotations

import functools
import json
import logging
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import llguidance
import numpy as np
import torch
from torch import Tensor

from perilune.chat.tokenizer import Tokenizer
from perilune.engine.foreign_grammars import lark_of_gbnf, structural_tags
from perilune.engine.json_schema import constrain
from perilune.engine.sampling_params import Grammar, GrammarKind
from perilune.errors import GrammarError

if TYPE_CHECKING:
    from llguidance._lib import JsonCompileOptions

log = logging.getLogger("perilune.engine")
MAX_COMPILED = 256
# Arguments may have the space behind `:` and `,` that the published models write there.
_ARGUMENTS: JsonCompileOptions = {
    "whitespace_flexible": False, "item_separator": ", ?", "key_separator": ": ?",
}  # fmt: skip


class Matcher:
    """Where one text stands in its grammar."""

    def __init__(self, matcher: llguidance.LLMatcher, end_token: int, size: int) -> None:
        self._matcher = matcher
        self._end_token = end_token
        self._size = size

    def allowed(self) -> tuple[Tensor, bool]:
        """(tokens that may come next, bool [V]; whether the text may end here)."""
        bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        mask = np.zeros(self._size, dtype=np.bool_)
        unpacked = np.unpackbits(bits, bitorder="little", count=min(self._size, bits.size * 8))
        mask[: unpacked.size] = unpacked
        may_end = bool(mask[self._end_token])
        mask[self._end_token] = False
        self._raise_error()
        return torch.from_numpy(mask), may_end

    @property
    def stopped(self) -> bool:
        """The text is complete and nothing can follow."""
        return bool(self._matcher.is_stopped())

    def advance(self, token: int) -> None:
        """Raises GrammarError when the grammar does not allow the token."""
        if not self._matcher.consume_token(token):
            self._raise_error()
            raise GrammarError(f"token {token} does not fit the grammar", param="grammar")

    def fork(self) -> Matcher:
        return Matcher(self._matcher.deep_copy(), self._end_token, self._size)

    def _raise_error(self) -> None:
        if self._matcher.is_error():
            raise GrammarError(
                f"the grammar cannot be used: {self._matcher.get_error().strip()}",
                param="grammar",
                remedy="Correct or simplify it",
            )


class GrammarCompiler:
    """Compiles grammars for one tokenizer and keeps the latest. Making one takes about a second.

    vocab_size: width of the model's logits, at least that of the tokenizer.
    """

    def __init__(self, tokenizer: Tokenizer, vocab_size: int) -> None:
        self._vocab_size = vocab_size
        self._end_token = _end_token(tokenizer)
        self._tokenizer = _ll_tokenizer(tokenizer, self._end_token)
        self._compiled: OrderedDict[str, llguidance.LLMatcher] = OrderedDict()

    def compile(self, grammar: Grammar) -> Matcher:
        """A matcher at the start of the grammar. Raises GrammarError (param "grammar")."""
        return self._matcher(_source(grammar))

    def compile_arguments(self, schema: Mapping[str, Any], whitespace: str = "") -> Matcher:
        """For a tool's arguments, an object. Raises GrammarError (param "grammar").

        What no grammar can hold is left out; where the rest is still too much for the grammar
        library, the arguments are any object.
        """
        options = _options(whitespace) if whitespace else _ARGUMENTS
        source = _json_source({**schema, "type": "object"}, options)
        try:
            return self._matcher(source)
        except GrammarError as error:
            log.warning("the schema of a tool's arguments is not held: %s", error.message[:200])
            return self._matcher(_json_source({"type": "object"}, options))

    def _matcher(self, source: str) -> Matcher:
        template = self._compiled.get(source)
        if template is None:
            template = llguidance.LLMatcher(self._tokenizer, source, log_level=0)
            if template.is_error():
                raise GrammarError(
                    f"the grammar cannot be used: {template.get_error().strip()}",
                    param="grammar",
                    remedy="Correct or simplify it",
                )
            self._compiled[source] = template
            while len(self._compiled) > MAX_COMPILED:
                self._compiled.popitem(last=False)
        return Matcher(template.deep_copy(), self._end_token, self._vocab_size)


def _source(grammar: Grammar) -> str:
    """llguidance's own form of a grammar."""
    definition = grammar.definition
    match grammar.kind:
        case GrammarKind.JSON_OBJECT:
            return _json_source({"type": "object"}, _options(grammar.whitespace))
        case GrammarKind.JSON_SCHEMA:
            if not isinstance(definition, Mapping | bool):
                raise GrammarError("a JSON schema must be an object", param="grammar")
            return _json_source(definition, _options(grammar.whitespace))
        case GrammarKind.STRUCTURAL_TAG if isinstance(definition, Mapping):
            return structural_tags(definition)
        case GrammarKind.CHOICE if isinstance(definition, Sequence) and definition:
            return llguidance.LLMatcher.grammar_from_lark(_choice(definition))
    if not isinstance(definition, str):
        raise GrammarError(f"a {grammar.kind} grammar must be text", param="grammar")
    if grammar.kind is GrammarKind.REGEX:
        return llguidance.LLMatcher.grammar_from_regex(definition)
    if grammar.kind is GrammarKind.GBNF:
        return llguidance.LLMatcher.grammar_from_lark(lark_of_gbnf(definition))
    return llguidance.LLMatcher.grammar_from_lark(definition)


def _choice(texts: Sequence[str]) -> str:
    return "start: " + " | ".join(json.dumps(text, ensure_ascii=False) for text in texts)


def _options(whitespace: str) -> JsonCompileOptions:
    if not whitespace:
        return {"whitespace_flexible": False}
    return {"whitespace_pattern": whitespace}


def _json_source(schema: Mapping[str, Any] | bool, options: JsonCompileOptions) -> str:
    try:
        return _json_source_of(json.dumps(schema), json.dumps(options))
    except (TypeError, ValueError, RecursionError, AttributeError) as error:
        raise GrammarError(f"the JSON schema cannot be used: {error}", param="grammar") from None


@functools.lru_cache(maxsize=MAX_COMPILED)
def _json_source_of(schema: str, options: str) -> str:
    held = constrain(json.loads(schema)).schema
    text = json.dumps({} if held is True else held)
    return llguidance.LLMatcher.grammar_from_json_schema(text, overrides=json.loads(options))


def _end_token(tokenizer: Tokenizer) -> int:
    """The special token that stands for the end of the text inside llguidance."""
    ids = tokenizer.special_ids
    for token in (ids.im_end, ids.eos):
        if token is not None:
            return token
    raise GrammarError("the vocabulary has no end token, which grammars need", param="grammar")


class _Vocabulary:
    """A tokenizer as llguidance reads any: the bytes of each id, and an encoder."""

    def __init__(self, tokenizer: Tokenizer, end_token: int) -> None:
        ids = range(tokenizer.vocab_size)
        self.eos_token_id = end_token
        self.bos_token_id = None
        self.tokens = [tokenizer.token_bytes(i) for i in ids]
        self.special_token_ids = [i for i in ids if tokenizer.is_special(i)]
        self._tokenizer = tokenizer

    def __call__(self, text: str | bytes) -> list[int]:
        if isinstance(text, bytes):
            text = text.decode("utf-8", "replace")
        return self._tokenizer.encode(text)


def _ll_tokenizer(tokenizer: Tokenizer, end_token: int) -> llguidance.LLTokenizer:
    if tokenizer.encoding is not None:
        from llguidance.tiktoken import lltokenizer_from_encoding

        return lltokenizer_from_encoding(
            tokenizer.encoding, n_vocab=tokenizer.vocab_size, eos_token=end_token
        )
    wrapper = llguidance.TokenizerWrapper(_Vocabulary(tokenizer, end_token))
    return llguidance.LLTokenizer(wrapper, n_vocab=tokenizer.vocab_size)
