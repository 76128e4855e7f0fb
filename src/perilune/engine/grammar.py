"""Grammars over our vocabulary: which tokens may come next so that the text still matches.

llguidance does the parsing. Matchers only ever go forward: where several futures are looked at
(speculation), a fork goes there and is thrown away, because rolling back is slower and has been
wrong for some grammars. Source: github.com/guidance-ai/llguidance.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import llguidance
import numpy as np
import torch
from torch import Tensor

from perilune.chat.tokenizer import Tokenizer
from perilune.engine.sampling_params import Grammar, GrammarKind
from perilune.errors import RequestError

if TYPE_CHECKING:
    from llguidance._lib import JsonCompileOptions

MAX_COMPILED = 256
_DATA = frozenset({"enum", "const", "default", "examples"})  # values in a schema, not schemas
_SCHEMAS_BY_NAME = frozenset({"properties", "$defs", "definitions", "patternProperties"})
# Models under a JSON grammar sometimes write white space without end; 32 is a deep indentation.
_JSON_OPTIONS: JsonCompileOptions = {"whitespace_pattern": r"[\x20\x0A\x0D\x09]{1,32}"}


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
        """Raises RequestError when the grammar does not allow the token."""
        if not self._matcher.consume_token(token):
            self._raise_error()
            raise RequestError(f"token {token} does not fit the grammar", param="grammar")

    def fork(self) -> Matcher:
        return Matcher(self._matcher.deep_copy(), self._end_token, self._size)

    def _raise_error(self) -> None:
        if self._matcher.is_error():
            raise RequestError(
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
        """A matcher at the start of the grammar. Raises RequestError (param "grammar")."""
        return self._matcher(_source(grammar))

    def compile_arguments(self, schema: Mapping[str, Any]) -> Matcher:
        """For a tool's arguments: an object; keywords that llguidance lacks are left out."""
        schema = {**schema, "type": "object"}
        return self._matcher(_json_source(schema, {**_JSON_OPTIONS, "lenient": True}))

    def _matcher(self, source: str) -> Matcher:
        template = self._compiled.get(source)
        if template is None:
            template = llguidance.LLMatcher(self._tokenizer, source, log_level=0)
            if template.is_error():
                raise RequestError(
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
    if grammar.kind is GrammarKind.JSON_OBJECT:
        return _json_source({"type": "object"}, _JSON_OPTIONS)
    if grammar.kind is GrammarKind.JSON_SCHEMA:
        if not isinstance(definition, Mapping):
            raise RequestError("a JSON schema must be an object", param="grammar")
        return _json_source(definition, _JSON_OPTIONS)
    if not isinstance(definition, str):
        raise RequestError(f"a {grammar.kind} grammar must be text", param="grammar")
    if grammar.kind is GrammarKind.REGEX:
        return llguidance.LLMatcher.grammar_from_regex(definition)
    return llguidance.LLMatcher.grammar_from_lark(definition)


def _json_source(schema: Mapping[str, Any], options: JsonCompileOptions) -> str:
    try:
        text = json.dumps(_encode_references(schema))
        return llguidance.LLMatcher.grammar_from_json_schema(text, overrides=options)
    except (TypeError, ValueError, RecursionError) as error:
        raise RequestError(f"the JSON schema cannot be used: {error}", param="grammar") from None


def _encode_references(node: Any, *, by_name: bool = False) -> Any:
    """References as the URIs that they are: names of definitions may hold any character.

    by_name: the keys of `node` are names of schemas, not keywords.
    """
    if isinstance(node, list):
        return [_encode_references(item) for item in node]
    if not isinstance(node, Mapping):
        return node
    encoded = {
        key: value
        if key in _DATA and not by_name
        else _encode_references(value, by_name=key in _SCHEMAS_BY_NAME and not by_name)
        for key, value in node.items()
    }
    reference = node.get("$ref")
    if isinstance(reference, str) and "%" not in reference and not by_name:
        encoded["$ref"] = quote(reference, safe="#/:?&=+,;@~!$'()*")
    return encoded


def _end_token(tokenizer: Tokenizer) -> int:
    """The special token that stands for the end of the text inside llguidance."""
    ids = tokenizer.special_ids
    for token in (ids.im_end, ids.eos):
        if token is not None:
            return token
    raise RequestError("the vocabulary has no end token, which grammars need", param="grammar")


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
