"""Structured output: which tokens may come next, by where in its message the model is.

    thinking --</think>--> answer --<|tool_calls_section_begin|>--> section --end--> done
                                        section: (call begin, id, arguments, call end) ...

Thinking is free but for its budget. The answer is free, or follows the request's grammar. A
section is a grammar of its own: the markers in their order, ids `functions.NAME:INDEX` of declared
tools with K2's running index, arguments by the tool's JSON schema. The state goes forward only;
`fork` gives a copy for tokens that are merely guessed.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

import torch
from torch import Tensor

from perilune.chat.special_tokens import SpecialIds
from perilune.chat.tokenizer import Tokenizer
from perilune.engine.grammar import GrammarCompiler, Matcher
from perilune.engine.request import ToolChoice, Tools
from perilune.engine.sampling_params import Grammar
from perilune.errors import RequestError


class Phase(Enum):
    THINKING = auto()
    ANSWER = auto()
    SECTION = auto()  # between calls
    CALL_ID = auto()
    CALL_ARGUMENTS = auto()
    DONE = auto()


@dataclass(frozen=True, slots=True)
class ToolGrammar:
    """The calls a request may make, compiled."""

    tools: Tools
    arguments: Mapping[str, Matcher]  # by tool name, at its start
    compiler: GrammarCompiler | None
    tokenizer: Tokenizer

    @classmethod
    def compile(
        cls, tools: Tools, compiler: GrammarCompiler | None, tokenizer: Tokenizer
    ) -> ToolGrammar:
        """`compiler` may be None where no call may be made.

        Raises RequestError (param "tools" or "tool_choice").
        """
        if tools.choice is ToolChoice.NONE or compiler is None:
            return cls(tools, {}, None, tokenizer)
        schemas = dict(map(_name_and_schema, tools.declarations))
        if tools.choice is ToolChoice.NAMED:
            if tools.name not in schemas:
                raise RequestError(f"no tool is named {tools.name!r}", param="tool_choice")
            schemas = {tools.name: schemas[tools.name]}
        if not schemas and tools.choice is ToolChoice.REQUIRED:
            raise RequestError("a tool call is required, but there are no tools", param="tools")
        arguments = {}
        for name, schema in schemas.items():
            try:
                arguments[name] = compiler.compile_arguments(schema, tools.whitespace)
            except RequestError as error:
                raise RequestError(
                    f"the parameters of tool {name!r}: {error.message}", param="tools"
                ) from None
        return cls(tools, arguments, compiler, tokenizer)

    @property
    def must_call(self) -> bool:
        return self.tools.choice in (ToolChoice.REQUIRED, ToolChoice.NAMED)

    @property
    def may_call(self) -> bool:
        return self.tools.choice is not ToolChoice.NONE and bool(self.arguments)

    def call_id(self, calls: int) -> Matcher:
        """The id of the next call after `calls` of this message."""
        names = " | ".join(json.dumps(name) for name in self.arguments)
        index = json.dumps(f":{self.tools.first_index + calls}")
        assert self.compiler is not None
        return self.compiler.compile(Grammar.lark(f'start: "functions." ({names}) {index}'))

    def arguments_of(self, call_id: list[int]) -> Matcher:
        text = self.tokenizer.decode(call_id).removeprefix("functions.")
        return self.arguments[text.rpartition(":")[0]].fork()


class StructuredOutput:
    """The state of one sequence. Terminators are the ids that end it.

    `stray` are special ids that belong nowhere in free text: a marker out of its place, a role
    token, a reserved id. `</think>` is in its place in thinking. `masks`: those of free text, by
    what they forbid, which states of one vocabulary may share.
    """

    def __init__(
        self,
        *,
        vocab_size: int,
        terminators: Collection[int],
        stray: Collection[int] = (),
        ids: SpecialIds | None = None,
        thinking: bool = False,
        thinking_budget: int | None = None,
        answer: Matcher | None = None,
        tools: ToolGrammar | None = None,
        masks: dict[frozenset[int | None], Tensor] | None = None,
    ) -> None:
        self._vocab_size = vocab_size
        self._terminators = list(terminators)
        self._stray = list(stray)
        self._masks = {} if masks is None else masks
        self._free: dict[bool, Tensor | None] = {}  # of them: in thinking, in the answer
        self._ids = ids or SpecialIds()
        self._budget = thinking_budget
        self._answer = answer
        self._tools = tools
        self._matcher: Matcher | None = None  # of the call id or the arguments under way
        self._call_id: list[int] = []
        self._calls = 0
        self._answered = 0  # tokens of the answer so far
        self._thought = 0
        self.phase = Phase.THINKING if thinking else Phase.ANSWER

    @property
    def ended(self) -> bool:
        """Nothing but a terminator can follow."""
        if self.phase is Phase.ANSWER and self._answer is not None:
            return self._answer.stopped
        return self.phase is Phase.DONE

    def fork(self) -> StructuredOutput:
        """The same state, to go its own way."""
        twin = copy.copy(self)
        twin._answer = self._answer and self._answer.fork()
        twin._matcher = self._matcher and self._matcher.fork()
        twin._call_id = self._call_id.copy()
        return twin

    def end_thinking(self) -> None:
        """From now on, the only way out of thinking is its end."""
        self._budget = 0

    def allowed(self) -> Tensor | None:
        """Tokens that may come next, bool [V]; None: any. May be called in another thread."""
        ids, tools = self._ids, self._tools
        match self.phase:
            case Phase.THINKING:
                if self._budget is not None and self._thought >= self._budget:
                    return self._only(ids.end_think)
                if self._answer is not None or (tools is not None and tools.must_call):
                    # Not before the answer.
                    return self._all_but(*self._terminators, *self._forbidden(thinking=True))
                return self._free_text()
            case Phase.ANSWER:
                return self._allowed_in_answer()
            case Phase.SECTION:
                return self._allowed_in_section()
            case Phase.CALL_ID:
                assert self._matcher is not None
                return self._matched(self._matcher, [ids.tool_call_argument_begin])
            case Phase.CALL_ARGUMENTS:
                assert self._matcher is not None
                return self._matched(self._matcher, [ids.tool_call_end])
            case Phase.DONE:
                return self._only(*self._terminators)

    def advance(self, token: int) -> None:
        """Raises RequestError when a grammar does not allow the token."""
        ids = self._ids
        if token in self._terminators:
            self.phase = Phase.DONE
            return
        match self.phase:
            case Phase.THINKING:
                if token == ids.end_think:
                    self.phase = Phase.ANSWER
                elif not self._begins_section(token) and token != ids.think:
                    self._thought += 1
            case Phase.ANSWER:
                if token == ids.think and token is not None and not self._answered:
                    self.phase = Phase.THINKING
                elif not self._begins_section(token):
                    self._answered += 1
                    if self._answer is not None:
                        self._answer.advance(token)
            case Phase.SECTION:
                self._advance_section(token)
            case Phase.CALL_ID:
                self._advance_call_id(token)
            case Phase.CALL_ARGUMENTS:
                assert self._matcher is not None
                if token == ids.tool_call_end:
                    self._calls += 1
                    self._matcher = None
                    self.phase = Phase.SECTION
                else:
                    self._matcher.advance(token)
            case Phase.DONE:
                pass

    # --- answer ------------------------------------------------------------------------------

    def _allowed_in_answer(self) -> Tensor | None:
        if self._tools is not None and self._tools.must_call:
            return self._only(self._ids.tool_calls_section_begin)
        if self._answer is None:
            return self._free_text()
        ends: list[int | None] = list(self._terminators)
        mask = self._matched(self._answer, ends)
        if not self._answered and self._tools is not None and self._tools.may_call:
            _set(mask, [self._ids.tool_calls_section_begin], True)
        return mask

    def _free_text(self) -> Tensor | None:
        """Everything but stray markers, and but calls where the request forbids their use."""
        thinking = self.phase is Phase.THINKING
        if thinking not in self._free:
            forbidden = frozenset(self._forbidden(thinking))
            if forbidden and forbidden not in self._masks:
                self._masks[forbidden] = self._all_but(*forbidden)
            self._free[thinking] = self._masks.get(forbidden)
        return self._free[thinking]

    def _forbidden(self, thinking: bool) -> set[int | None]:
        forbidden: set[int | None] = set(self._stray)
        if thinking:
            forbidden.discard(self._ids.end_think)
        if self._tools is not None and not self._tools.may_call:
            forbidden |= {self._ids.tool_calls_section_begin, self._ids.tool_call_begin}
        return forbidden

    # --- the section of tool calls -----------------------------------------------------------

    def _begins_section(self, token: int) -> bool:
        """Enter the section. A call without a section, which the parser reads too, enters it."""
        if self._tools is None or not self._tools.may_call:
            return False
        if token == self._ids.tool_calls_section_begin:
            self.phase = Phase.SECTION
        elif token == self._ids.tool_call_begin:
            self._begin_call()
        else:
            return False
        return True

    def _begin_call(self) -> None:
        assert self._tools is not None
        self._matcher = self._tools.call_id(self._calls)
        self._call_id = []
        self.phase = Phase.CALL_ID

    def _allowed_in_section(self) -> Tensor:
        assert self._tools is not None
        if not self._calls:
            return self._only(self._ids.tool_call_begin)
        if not self._tools.tools.parallel:
            return self._only(self._ids.tool_calls_section_end)
        return self._only(self._ids.tool_call_begin, self._ids.tool_calls_section_end)

    def _advance_section(self, token: int) -> None:
        if token == self._ids.tool_call_begin:
            self._begin_call()
        elif token == self._ids.tool_calls_section_end:
            self.phase = Phase.DONE
        else:
            raise RequestError(f"token {token} does not fit between tool calls", param="tools")

    def _advance_call_id(self, token: int) -> None:
        assert self._tools is not None and self._matcher is not None
        if token == self._ids.tool_call_argument_begin:
            self._matcher = self._tools.arguments_of(self._call_id)
            self.phase = Phase.CALL_ARGUMENTS
        else:
            self._matcher.advance(token)
            self._call_id.append(token)

    # --- masks -------------------------------------------------------------------------------

    def _matched(self, matcher: Matcher, ends: list[int | None]) -> Tensor:
        mask, may_end = matcher.allowed()
        _set(mask, ends, may_end)
        return mask

    def _only(self, *tokens: int | None) -> Tensor:
        mask = torch.zeros(self._vocab_size, dtype=torch.bool)
        return _set(mask, tokens, True)

    def _all_but(self, *tokens: int | None) -> Tensor:
        mask = torch.ones(self._vocab_size, dtype=torch.bool)
        return _set(mask, tokens, False)


def _set(mask: Tensor, tokens: Collection[int | None], value: bool) -> Tensor:
    for token in tokens:
        if token is not None:
            mask[token] = value
    return mask


def _name_and_schema(declaration: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    function = declaration.get("function")
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise RequestError("a tool needs a function with a name", param="tools")
    schema = function.get("parameters") or {}
    if not isinstance(schema, Mapping):
        raise RequestError(
            f"the parameters of tool {function['name']!r} must be a JSON schema", param="tools"
        )
    return function["name"], schema
