"""OpenAI's responses: what a request says, as the conversation that the model's template renders."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from pydantic import Field, StrictBool, StrictInt, StrictStr

from engine.serving.messages import Message, tool_call
from engine.serving.protocol import InferenceBody, Neutral, SamplingBody, among, anything, empty, unsupported, wrong


class StreamOptions(InferenceBody):
    """Nothing here changes a stream."""

    include_obfuscation: StrictBool | None = None


class TextConfig(InferenceBody):
    """How the text is written."""

    format: dict[str, Any] | None = None
    verbosity: Literal["medium"] | None = None


class ResponsesBody(SamplingBody):
    """Body of ``POST /v1/responses``."""

    input: StrictStr | list[dict[str, Any]]
    instructions: StrictStr | None = None
    max_output_tokens: StrictInt | None = Field(default=None, ge=1)
    metadata: dict[str, StrictStr] | None = None
    parallel_tool_calls: StrictBool | None = None
    previous_response_id: StrictStr | None = None
    store: StrictBool | None = None
    stream_options: StreamOptions | None = None
    text: TextConfig | None = None
    user: StrictStr | None = None

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
    "reasoning": empty,
    "safety_identifier": anything,
    "service_tier": among("auto", "default"),
    "tool_choice": among("none", "auto"),
    "tools": empty,
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
