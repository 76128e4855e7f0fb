"""A conversation -> token ids, in the format of the checkpoint's family.

A message is ROLE_TOKEN name <|im_middle|> body <|im_end|>, with nothing between messages; the
formats differ in the few points of `Template`. `prompt.py` writes the ids.

Sources: the chat templates published with Kimi K2-Instruct, K2 Thinking and K2.5, and the changes
announced for K2.6 (`preserve_thinking`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from perilune.chat.media.items import MediaOpener
from perilune.chat.media.template import video_newline
from perilune.chat.messages import Media, Message, read_messages
from perilune.chat.parser import Channel, ChatParser
from perilune.chat.prompt import Prompt, PromptWriter
from perilune.chat.special_tokens import SpecialIds, spelling
from perilune.chat.tokenizer import Tokenizer
from perilune.chat.tool_declaration import as_json, as_typescript, read_tools
from perilune.config import CheckpointConfig, Family, read_config
from perilune.errors import ChatError

DEFAULT_SYSTEM_PROMPT = "You are Kimi, an AI assistant created by Moonshot AI."


@dataclass(frozen=True, slots=True)
class Template:
    """What tells the formats of the family apart."""

    declare_tools: Callable[[Sequence[Mapping[str, Any]]], str]
    default_system: str | None  # put first when messages[0] is not a system message
    after_default_system: str  # text between that message and the next
    has_thinking: bool  # assistant bodies start with a think block
    can_switch_thinking: bool  # the prompt itself turns thinking on or off
    reads_media: bool
    # A newline stands after every image. Whether one stands after a video the checkpoint's own
    # template says, see `video_newline`; this is for checkpoints without one.
    newline_after_video: bool = False


TEMPLATES: Mapping[Family, Template] = {
    Family.K2: Template(
        declare_tools=as_json,
        default_system=DEFAULT_SYSTEM_PROMPT,
        after_default_system="\n",
        has_thinking=False,
        can_switch_thinking=False,
        reads_media=False,
    ),
    Family.K2_THINKING: Template(
        declare_tools=as_json,
        default_system=DEFAULT_SYSTEM_PROMPT,
        after_default_system="",
        has_thinking=True,
        can_switch_thinking=False,
        reads_media=False,
    ),
    Family.K25: Template(
        declare_tools=as_typescript,
        default_system=None,
        after_default_system="",
        has_thinking=True,
        can_switch_thinking=True,
        reads_media=True,
    ),
}


class ChatFormat:
    """Conversation <-> ids of one checkpoint: `encode`, `decode`, `parser`.

    `special_ids` are the ids of the structuring tokens, `stop_ids` those that end a turn.
    `reads_media` is whether pictures and clips may be in a conversation; set it to False where the
    model was loaded without its tower.
    """

    def __init__(
        self, tokenizer: Tokenizer, family: Family, *, eos_token_ids: Iterable[int] = ()
    ) -> None:
        """Raises ChatError where the vocabulary lacks a token that the format needs."""
        self.tokenizer = tokenizer
        self.family = family
        self.template = TEMPLATES[family]
        self.reads_media = self.template.reads_media
        self.special_ids: SpecialIds = tokenizer.special_ids
        for field in ("im_end", "im_user", "im_assistant", "im_system", "im_middle"):
            self._special(field)
        if self.template.has_thinking:
            self._special("think")
            self._special("end_think")
        ends = (self.special_ids.im_end, self.special_ids.eos, *eos_token_ids)
        self.stop_ids = frozenset(i for i in ends if i is not None)

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        *,
        family: Family | None = None,
        config: CheckpointConfig | None = None,
    ) -> ChatFormat:
        """The format and tokenizer of a checkpoint folder; `family` overrides what it says.

        `config`: its configuration, where somebody has read it already.
        Raises ConfigError or UnsupportedArchitectureError (config.json), ChatError (tokenizer).
        """
        config = config or read_config(folder)
        tokenizer = Tokenizer.from_pretrained(folder)
        if tokenizer.vocab_size > config.text.vocab_size:
            raise ChatError(
                f"the tokenizer in {folder} has {tokenizer.vocab_size} ids, and config.json says "
                f"that the model knows {config.text.vocab_size}",
                remedy="The files belong to different checkpoints; download both again",
            )
        chat = cls(tokenizer, family or config.family, eos_token_ids=config.eos_token_ids)
        if (newline := video_newline(folder)) is not None:
            chat.template = replace(chat.template, newline_after_video=newline)
        return chat

    def encode(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        *,
        thinking: bool = True,
        add_generation_prompt: bool = True,
        preserve_thinking: bool = False,
    ) -> list[int]:
        """Token ids of a conversation; see `render`."""
        return self.render(
            messages,
            tools,
            thinking=thinking,
            add_generation_prompt=add_generation_prompt,
            preserve_thinking=preserve_thinking,
        ).ids

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        *,
        thinking: bool = True,
        add_generation_prompt: bool = True,
        preserve_thinking: bool = False,
        media: MediaOpener | None = None,
    ) -> Prompt:
        """Encode OpenAI-shaped messages; the prompt also says where images and videos stand.

        `media` (`MediaReader.request()`) opens them, so that each has as many pads as the tower
        gives rows; without it they get placeholders.

        `thinking=False` makes K2.5 answer at once (K2 Thinking always thinks, K2 never does).
        Reasoning of earlier turns is dropped, that of the tool-calling chain under way is kept;
        `preserve_thinking` (K2.6) keeps all. A last message with `"partial": true` is left open,
        to be continued, instead of the generation prompt. Raises ChatError naming message and
        field; MediaError (a ChatError) for a picture or clip that cannot be taken.
        """
        template = self.template
        conversation = read_messages(messages)
        if media is not None and self.reads_media:
            kinds = Counter(p.kind for m in conversation for p in m.content if isinstance(p, Media))
            media.check_count(kinds["image"], kinds["video"])
        writer = PromptWriter(self, media)
        if tools:
            writer.header("im_system", "tool_declare")
            writer.text(template.declare_tools(read_tools(tools)))
            writer.special("im_end")
        if template.default_system is not None and conversation[0].role != "system":
            writer.header("im_system", "system")
            writer.text(template.default_system)
            writer.special("im_end")
            writer.text(template.after_default_system)
        thinks = thinking or not template.can_switch_thinking
        last_answer = _last_answer(conversation)
        for index, message in enumerate(conversation):
            if message.partial:
                writer.partial(message, thinks)
            elif message.role == "assistant":
                keep = preserve_thinking or (thinks and index > last_answer)
                writer.assistant(message, message.reasoning if keep else "")
            else:
                writer.message(message)
        if add_generation_prompt and not conversation[-1].partial:
            writer.header("im_assistant", "assistant")
            writer.start_of_turn(thinks)
        return writer.finish()

    def decode(self, ids: Iterable[int]) -> str:
        """Text of the ids, special tokens written as their names."""
        return self.tokenizer.decode(ids)

    def parser(
        self,
        *,
        thinking: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
        prompt: Sequence[int] | None = None,
    ) -> ChatParser:
        """A parser of what the model generates after an encoded prompt.

        `thinking` as it was given to `encode`. With `prompt` (its ids) the parser starts in the
        state that the prompt leaves, which a partial message needs. `tools` help to read ids
        whose function names hold dots or colons.
        """
        functions = [tool.get("function") for tool in tools or ()]
        names = [f.get("name") for f in functions if isinstance(f, Mapping)]
        parser = ChatParser(
            self.tokenizer,
            self.stop_ids,
            channel=(
                Channel.REASONING if thinking and self.template.has_thinking else Channel.CONTENT
            ),
            function_names={name for name in names if isinstance(name, str) and name},
        )
        if prompt is not None:
            parser.prefill(self._open_turn(prompt))
        return parser

    def _open_turn(self, prompt: Sequence[int]) -> Sequence[int]:
        """What the prompt already holds of the assistant turn that it leaves open."""
        for position in range(len(prompt) - 1, -1, -1):
            if prompt[position] == self.special_ids.im_middle:
                return prompt[position + 1 :]
            if prompt[position] == self.special_ids.im_end:
                break
        return ()

    def _special(self, field: str) -> int:
        token_id: int | None = getattr(self.special_ids, field)
        if token_id is None:
            raise ChatError(
                f"the vocabulary has no token {spelling(field)}, which the {self.family} format "
                "needs",
                remedy="Use the tokenizer files that were published with the checkpoint",
            )
        return token_id


def _last_answer(conversation: Sequence[Message]) -> int:
    """Index of the last finished assistant message without tool calls, -1 if there is none.

    Up to it the conversation is history, whose reasoning is dropped; after it a tool-calling
    chain is under way.
    """
    for index in range(len(conversation) - 1, -1, -1):
        message = conversation[index]
        if message.role == "assistant" and not message.tool_calls and not message.partial:
            return index
    return -1
