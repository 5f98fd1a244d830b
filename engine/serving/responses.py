"""OpenAI's responses: what a request says, as the conversation that the model's template renders."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from pydantic import Field, StrictBool, StrictInt, StrictStr

from engine.serving.protocol import (
    NOT_DONE,
    InferenceBody,
    Neutral,
    SamplingBody,
    among,
    anything,
    empty,
    unsupported,
    wrong,
)
from engine.serving.structured import StructuredOutputs, one_grammar, schema_grammar
from engine.serving.talk import Message, Talk, ToolUse, function_choice, tool_call
from engine.text import GrammarSpec, Renderer
from fw_sdk.types import parse_request

WORDS = {"auto": "auto", "none": "none", "required": "required"}


class StreamOptions(InferenceBody):
    """Nothing here changes a stream."""

    include_obfuscation: StrictBool | None = None


class TextFormat(InferenceBody):
    """``text``, ``json_object`` or ``json_schema``; a schema is always kept to, so ``strict`` changes nothing."""

    type: Literal["text", "json_object", "json_schema"]
    name: StrictStr | None = None
    description: StrictStr | None = None
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")
    strict: StrictBool | None = None

    def grammar(self) -> GrammarSpec | None:
        """The grammar, if it asks for one."""
        if self.type == "json_schema" and self.schema_ is None:
            raise wrong("text.format.schema", "'text.format.schema' is missing")
        return None if self.type == "text" else schema_grammar(self.schema_ or {"type": "object"})


class TextConfig(InferenceBody):
    """How the text is written."""

    format: TextFormat | None = None
    verbosity: Literal["medium"] | None = None


class Reasoning(InferenceBody):
    """Whether to reason first; of the efforts only ``none`` changes anything, and there are no summaries."""

    effort: StrictStr | None = None
    summary: StrictStr | None = None
    generate_summary: StrictStr | None = None


class FunctionTool(InferenceBody):
    """A function; tools that OpenAI's servers run are refused by name."""

    type: StrictStr
    name: StrictStr
    description: StrictStr | None = None
    parameters: dict[str, Any] | None = None
    strict: StrictBool | None = None

    @property
    def openai(self) -> dict[str, Any]:
        """In the shape of chat completions, which templates read."""
        function = {"name": self.name, "description": self.description or "", "parameters": self.parameters or {}}
        return {"type": "function", "function": function | ({"strict": True} if self.strict else {})}


class ResponsesBody(SamplingBody):
    """Body of ``POST /v1/responses``."""

    input: StrictStr | list[dict[str, Any]]
    instructions: StrictStr | None = None
    max_output_tokens: StrictInt | None = Field(default=None, ge=1)
    metadata: dict[str, StrictStr] | None = None
    parallel_tool_calls: StrictBool | None = None
    previous_response_id: StrictStr | None = None
    reasoning: Reasoning | None = None
    store: StrictBool | None = None
    stream_options: StreamOptions | None = None
    structured_outputs: StructuredOutputs | None = None
    text: TextConfig | None = None
    tool_choice: Any = None
    tools: list[dict[str, Any]] | None = None
    user: StrictStr | None = None

    def functions(self) -> list[FunctionTool]:
        """The tools that may be called."""
        for place, tool in enumerate(self.tools or ()):
            if tool.get("type") != "function":
                raise unsupported(f"tools.{place}.type", tool.get("type"))
        found = [parse_request(FunctionTool, tool, not_done=NOT_DONE) for tool in self.tools or ()]
        choice = self.tool_choice
        if not (isinstance(choice, dict) and choice.get("type") == "allowed_tools"):
            return found
        allowed = [tool.get("name") for tool in choice.get("tools", ()) if isinstance(tool, dict)]
        return [tool for tool in found if tool.name in allowed]

    def talk(self, renderer: Renderer, messages: Sequence[Message]) -> Talk:
        """The conversation with its tools, the instructions first."""
        choice = self.tool_choice
        if isinstance(choice, dict) and choice.get("type") == "allowed_tools":
            choice = choice.get("mode")
        tools = [tool.openai for tool in self.functions()]
        use = ToolUse(tools, function_choice(choice, WORDS), self.parallel_tool_calls is not False)
        system = [{"role": "system", "content": self.instructions}] if self.instructions else []
        form = self.text.format.grammar() if self.text is not None and self.text.format is not None else None
        form = one_grammar(form, self.structured_outputs)
        think = self.reasoning is None or self.reasoning.effort != "none"
        return Talk(renderer, [*system, *messages], use, form, think)

    def conversation(self, before: Iterable[Message]) -> list[Message]:
        """The new messages of this request, without the instructions, after those of the response it continues."""
        items = [{"role": "user", "content": self.input}] if isinstance(self.input, str) else self.input
        messages = list(before)
        for place, item in enumerate(items):
            _add(messages, item, f"input.{place}")
        if not messages:
            raise wrong("input", "the input is empty")
        return messages


NEUTRAL: Neutral = {
    "background": empty,
    "background_options": empty,
    "context_management": empty,
    "conversation": empty,
    "include": among([], ["reasoning.encrypted_content"]),
    "max_tool_calls": anything,
    "moderation": empty,
    "prompt": empty,
    "prompt_cache_key": anything,
    "prompt_cache_options": anything,
    "prompt_cache_retention": anything,
    "safety_identifier": anything,
    "service_tier": among("auto", "default"),
    "top_logprobs": among(0),
    "truncation": among("disabled"),
}
"""Fields that change nothing at these values."""


def _add(messages: list[Message], item: Mapping[str, Any], place: str) -> None:
    """Append one input item; what the assistant thought, said and called in a row is one message."""
    match item.get("type", "message"):
        case "message":
            role = item.get("role")
            if role not in ("user", "assistant", "system", "developer"):
                raise wrong(
                    f"{place}.role", f"'{place}.role' must be user, assistant, system or developer, got {role!r:.40}"
                )
            content = _text(item.get("content"), f"{place}.content")
            if role == "assistant":
                turn = _turn(messages)
                turn["content"] += content
            else:
                messages.append({"role": role, "content": content})
        case "function_call":
            call = tool_call(*(_string(item, name, place) for name in ("call_id", "name", "arguments")))
            _turn(messages).setdefault("tool_calls", []).append(call)
        case "function_call_output":
            content = _text(item.get("output"), f"{place}.output")
            messages.append({"role": "tool", "tool_call_id": _string(item, "call_id", place), "content": content})
        case "reasoning":
            thoughts = _text(item.get("content") or item.get("summary") or "", place)
            if thoughts:
                messages.append({"role": "assistant", "content": "", "reasoning_content": thoughts})
        case other:
            raise unsupported(f"{place}.type", other)


def _turn(messages: list[Message]) -> Message:
    """The assistant's message that goes on; a new one after somebody else's or after calls."""
    if not messages or messages[-1]["role"] != "assistant":
        messages.append({"role": "assistant", "content": ""})
    messages[-1] = dict(messages[-1])  # what an earlier response stored stays as it was
    if "tool_calls" in messages[-1]:
        messages[-1]["tool_calls"] = list(messages[-1]["tool_calls"])
    return messages[-1]


def _text(content: Any, place: str) -> str:
    """A string, or parts that are text, joined."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise wrong(place, f"'{place}' must be a string or a list of parts, got {content!r:.40}")
    texts = []
    for part in content:
        kind = part.get("type") if isinstance(part, Mapping) else None
        field = "refusal" if kind == "refusal" else "text"
        if kind not in ("input_text", "output_text", "summary_text", "reasoning_text", "text", "refusal"):
            raise unsupported(f"{place}.type", kind)
        texts.append(_string(part, field, place))
    return "".join(texts)


def _string(item: Mapping[str, Any], name: str, place: str) -> str:
    value = item.get(name)
    if not isinstance(value, str):
        raise wrong(f"{place}.{name}", f"'{place}.{name}' must be a string, got {value!r:.40}")
    return value
