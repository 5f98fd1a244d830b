"""Anthropic's messages: what a request says, as the conversation that the model's template renders."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field, StrictBool, StrictInt, StrictStr

from engine.serving.protocol import InferenceBody, Neutral, SamplingBody, among, anything, empty, unsupported, wrong
from engine.serving.structured import StructuredOutputs, one_grammar, schema_grammar
from engine.serving.talk import Message, Talk, ToolUse, function_choice, tool_call
from engine.text import Renderer

WORDS = {"auto": "auto", "any": "required", "none": "none"}


class CacheControl(InferenceBody):
    """Where a client would like a prefix to be kept; every prefix is, so it changes nothing."""

    type: Literal["ephemeral"]
    ttl: StrictStr | None = None


class Block(InferenceBody):
    """What blocks have in common."""

    cache_control: CacheControl | None = None


class TextBlock(Block):
    """Text."""

    type: Literal["text"]
    text: StrictStr
    citations: list[Any] | None = Field(default=None, max_length=0)


class ToolUseBlock(Block):
    """A call that the assistant made."""

    type: Literal["tool_use"]
    id: StrictStr
    name: StrictStr
    input: dict[str, Any]
    caller: dict[str, Any] | None = None
    toolset_name: None = None


class ToolResultBlock(Block):
    """What a call returned."""

    type: Literal["tool_result"]
    tool_use_id: StrictStr
    content: StrictStr | list[TextBlock] | None = None
    is_error: StrictBool | None = None
    toolset_name: None = None


class ThinkingBlock(Block):
    """Reasoning of an earlier turn; the signature is given back as it came and not looked at."""

    type: Literal["thinking"]
    thinking: StrictStr
    signature: StrictStr | None = None


AnyBlock = Annotated[TextBlock | ToolUseBlock | ToolResultBlock | ThinkingBlock, Field(discriminator="type")]


class InputMessage(InferenceBody):
    """One turn."""

    role: Literal["user", "assistant", "system"]
    content: StrictStr | list[AnyBlock]

    @property
    def blocks(self) -> list[TextBlock | ToolUseBlock | ToolResultBlock | ThinkingBlock]:
        """Its content as blocks."""
        if isinstance(self.content, str):
            return [TextBlock(type="text", text=self.content)] if self.content else []
        return self.content


class Metadata(InferenceBody):
    """Facts about the request; they change nothing."""

    user_id: StrictStr | None = None


class ToolDefinition(Block):
    """A tool of the client's; those that Anthropic's servers run are refused by name."""

    type: StrictStr | None = None
    name: StrictStr
    description: StrictStr | None = None
    input_schema: dict[str, Any] | None = None
    strict: StrictBool | None = None
    allowed_callers: list[StrictStr] | None = None
    defer_loading: Literal[False] | None = None
    eager_input_streaming: StrictBool | None = None
    input_examples: list[dict[str, Any]] | None = None

    def openai(self, place: int) -> dict[str, Any]:
        """In OpenAI's shape, which templates read."""
        if self.type not in (None, "custom"):
            raise unsupported(f"tools.{place}.type", self.type)
        function = {"name": self.name, "description": self.description or "", "parameters": self.input_schema or {}}
        return {"type": "function", "function": function | ({"strict": True} if self.strict else {})}


class Thinking(InferenceBody):
    """Whether to reason first. How long is the model's matter: a budget changes nothing."""

    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: StrictInt | None = None
    display: Literal["summarized"] | None = None


class OutputFormat(InferenceBody):
    """A schema that the answer fits."""

    type: Literal["json_schema"]
    schema_: dict[str, Any] = Field(alias="schema")


class OutputConfig(InferenceBody):
    """What the answer is like; ``effort`` changes nothing."""

    effort: StrictStr | None = None
    format: OutputFormat | None = None


class PromptBody(SamplingBody):
    """What asking for an answer and counting its prompt share."""

    messages: list[InputMessage] = Field(min_length=1)
    system: StrictStr | list[TextBlock] | None = None
    tools: list[ToolDefinition] | None = None
    tool_choice: dict[str, Any] | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    structured_outputs: StructuredOutputs | None = None

    def talk(self, renderer: Renderer) -> Talk:
        """The conversation with its tools."""
        messages, answer_prefix = self.conversation()
        tools = [tool.openai(place) for place, tool in enumerate(self.tools or ())]
        parallel = (self.tool_choice or {}).get("disable_parallel_tool_use") is not True
        use = ToolUse(tools, function_choice(self.tool_choice, WORDS), parallel)
        wanted = self.output_config.format if self.output_config is not None else None
        form = one_grammar(schema_grammar(wanted.schema_) if wanted is not None else None, self.structured_outputs)
        think = self.thinking is None or self.thinking.type != "disabled"
        return Talk(renderer, messages, use, form, think, answer_prefix)

    def conversation(self) -> tuple[list[Message], str]:
        """The messages before the answer, and the prefix of the answer that the request gives (may be empty)."""
        messages = list(_merged(self._turns()))
        prefill = ""
        if messages[-1]["role"] == "assistant":
            last = messages.pop()
            if "tool_calls" in last or "reasoning_content" in last:
                raise wrong("messages", "the last message is the assistant's and holds more than text")
            prefill = str(last["content"])
        if all(message["role"] == "system" for message in messages):
            raise wrong("messages", "there is no message of the user to answer")
        return messages, prefill

    def _turns(self) -> Iterator[Message]:
        system = self.system if isinstance(self.system, str) else "\n".join(block.text for block in self.system or ())
        if system:
            yield {"role": "system", "content": system}
        for message in self.messages:
            yield from _assistant(message) if message.role == "assistant" else _others(message)


class MessagesBody(PromptBody):
    """Body of ``POST /v1/messages``."""

    max_tokens: StrictInt = Field(ge=0)
    stop_sequences: list[StrictStr] | None = None
    metadata: Metadata | None = None


class CountBody(PromptBody):
    """Body of ``POST /v1/messages/count_tokens``."""


NEUTRAL: Neutral = {
    "cache_control": anything,
    "container": empty,
    "context_management": anything,
    "diagnostics": empty,
    "inference_geo": anything,
    "mcp_servers": empty,
    "service_tier": among("auto", "standard_only"),
    "speed": among("standard"),
    "user_profile_id": anything,
}
"""Anthropic's fields that change nothing at these values."""


def _assistant(message: InputMessage) -> Iterator[Message]:
    """A turn of the assistant."""
    texts, thoughts, calls = [], [], []
    for block in message.blocks:
        match block:
            case TextBlock():
                texts.append(block.text)
            case ThinkingBlock():
                thoughts.append(block.thinking)
            case ToolUseBlock():
                calls.append(tool_call(block.id, block.name, json.dumps(block.input, ensure_ascii=False)))
            case ToolResultBlock():
                raise wrong("messages", "a 'tool_result' stands in a message of the assistant")
    turn: Message = {"role": "assistant", "content": "".join(texts)}
    if thoughts:
        turn["reasoning_content"] = "".join(thoughts)
    yield {**turn, "tool_calls": calls} if calls else turn


def _others(message: InputMessage) -> Iterator[Message]:
    """A turn of the user or the system; results of calls become messages of their own, before what is said."""
    texts = []
    for block in message.blocks:
        match block:
            case TextBlock():
                texts.append(block.text)
            case ToolResultBlock() if message.role == "user":
                content = block.content
                text = content if isinstance(content, str) else "".join(part.text for part in content or ())
                prefix = "Error: " if block.is_error else ""
                yield {"role": "tool", "tool_call_id": block.tool_use_id, "content": prefix + text}
            case _:
                raise wrong("messages", f"a '{block.type}' stands in a message of the {message.role}")
    if texts:
        yield {"role": message.role, "content": "\n".join(texts)}


def _merged(turns: Iterator[Message]) -> Iterator[Message]:
    """Consecutive turns of one side are one turn, as Anthropic has it."""
    held: Message | None = None
    for turn in turns:
        if held is None or held["role"] != turn["role"] or turn["role"] == "tool" or "tool_calls" in held:
            if held is not None:
                yield held
            held = turn
        else:
            held = {**held, **turn, "content": "\n".join(filter(None, (held["content"], turn["content"])))}
    assert held is not None
    yield held
