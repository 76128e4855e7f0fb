"""Episodes as token ids by the real template."""

from __future__ import annotations

from typing import Any

from perilune.agent.models.scripted import ScriptedModel
from perilune.agent.tool_registry import ToolRegistry
from perilune.chat.format import ChatFormat
from perilune.chat.tokenizer import Tokenizer
from perilune.config import Family
from perilune.nano.agent import SYSTEM_PROMPT
from perilune.nano.swarm import ORCHESTRATOR_PROMPT, nano_swarm
from perilune.nano.tools import compact_tools

Message = dict[str, Any]


class Renderer:
    """Messages -> ids, with what is to be learnt marked.

    `header` holds the ids of tool declarations and system prompt, the beginning of every prompt;
    both are those of nano by itself where they are left out.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        system_prompt: str = SYSTEM_PROMPT,
        declarations: list[dict[str, Any]] | None = None,
    ) -> None:
        self._chat = ChatFormat(tokenizer, Family.K25)
        self._tools = declarations or ToolRegistry(compact_tools()).declarations()
        self._system: list[Message] = [{"role": "system", "content": system_prompt}]
        self.header = self._chat.encode(self._system, self._tools, add_generation_prompt=False)

    def render(self, messages: list[Message]) -> tuple[list[int], list[bool]]:
        """-> ids behind the header, and for each whether the model is to produce it.

        What the model produces begins behind the generation prompt (`<think>` is part of it) and
        ends with `<|im_end|>`. The reasoning of every turn stays, as it does in a running chain of
        tool calls. A text of the user or of a tool cannot hold special ids, so ids tell it all.
        """
        conversation = [*self._system, *messages]
        ids = self._chat.encode(
            conversation, self._tools, add_generation_prompt=False, preserve_thinking=True
        )[len(self.header) :]
        special = self._chat.special_ids
        trained: list[bool] = []
        inside = assistant = False
        for id_ in ids:
            trained.append(inside)
            if id_ == special.im_assistant:
                assistant = True
            elif id_ == special.think and assistant:
                inside, assistant = True, False
            elif id_ == special.im_end:
                inside = False
        return ids, trained


def orchestrator_renderer(tokenizer: Tokenizer) -> Renderer:
    """Renders behind the header of nano as the orchestrator of a swarm."""
    swarm = nano_swarm(ScriptedModel([]))
    return Renderer(tokenizer, ORCHESTRATOR_PROMPT, swarm.declarations())
