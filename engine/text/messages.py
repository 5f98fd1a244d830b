"""Messages as chat templates want them, and tools for models whose template knows none."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from engine.text.tools import Tool
from fw_sdk.types import FwError

Message = Mapping[str, Any]

TOOL_PROMPT = """You may call functions to help with the user's request. These are the functions:
<tools>
{tools}
</tools>
To call a function, write a JSON object with its name and its arguments inside <tool_call> tags, one pair per call:
<tool_call>
{{"name": "function_name", "arguments": {{"argument": "value"}}}}
</tool_call>
Results come back inside <tool_response> tags. If no function is needed, answer in plain text."""


def plain_messages(messages: Sequence[Message], *, arguments_as_text: bool = False) -> list[dict[str, Any]]:
    """Messages with their parts joined into one string and the arguments of calls as objects.

    Args:
        messages: in OpenAI's shape; arguments may be objects or JSON text.
        arguments_as_text: the template wants JSON text instead of objects.

    Raises:
        FwError: ``invalid_argument`` naming the message that is wrong.
    """
    return [_plain(message, number, arguments_as_text) for number, message in enumerate(messages)]


def with_tool_prompt(messages: Sequence[Mapping[str, Any]], tools: Sequence[Tool]) -> list[dict[str, Any]]:
    """The same conversation without tools: described in the system message, calls and results written as text."""
    written: list[dict[str, Any]] = []
    for message in messages:
        if message["role"] != "tool":
            written.append(_with_calls_written(message))
            continue
        result = f"<tool_response>\n{message.get('content') or ''}\n</tool_response>"
        if written and written[-1].get("_results"):
            written[-1]["content"] += "\n" + result
        else:
            written.append({"role": "user", "content": result, "_results": True})
    for message in written:
        message.pop("_results", None)
    if not tools:
        return written
    lines = "\n".join(json.dumps(tool.openai, ensure_ascii=False) for tool in tools)
    prompt = TOOL_PROMPT.format(tools=lines)
    if written and written[0]["role"] in ("system", "developer"):
        first = written[0]
        return [{**first, "content": f"{first.get('content') or ''}\n\n{prompt}".lstrip()}, *written[1:]]
    return [{"role": "system", "content": prompt}, *written]


def _with_calls_written(message: Mapping[str, Any]) -> dict[str, Any]:
    rest = {key: value for key, value in message.items() if key not in ("tool_calls", "content")}
    content = message.get("content")
    if not message.get("tool_calls"):
        return {**rest, "content": content} if "content" in message else rest
    calls = [
        f"<tool_call>\n{json.dumps(_named(call['function']), ensure_ascii=False)}\n</tool_call>"
        for call in message["tool_calls"]
    ]
    return {**rest, "content": "\n".join([*([content] if content else []), *calls])}


def _named(function: Mapping[str, Any]) -> dict[str, Any]:
    return {"name": function["name"], "arguments": function["arguments"]}


def _plain(message: Any, number: int, arguments_as_text: bool) -> dict[str, Any]:
    if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
        raise _wrong(f"Message {number} has no role.")
    plain = dict(message)
    content = message.get("content")
    if isinstance(content, list):
        if not all(isinstance(part, Mapping) and isinstance(part.get("text"), str) for part in content):
            raise _wrong(f"Message {number} has a part that is not text.")
        plain["content"] = "".join(part["text"] for part in content)
    calls = message.get("tool_calls")
    if calls is None:
        plain.pop("tool_calls", None)
        return plain
    if not isinstance(calls, (list, tuple)):
        raise _wrong(f"The tool_calls of message {number} are no list.")
    if not calls:
        plain.pop("tool_calls")
        return plain
    plain["content"] = plain.get("content") or ""
    plain["tool_calls"] = [
        _plain_call(call, f"tool_calls[{at}] of message {number}", arguments_as_text) for at, call in enumerate(calls)
    ]
    return plain


def _plain_call(call: Any, place: str, arguments_as_text: bool) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise _wrong(f"{place} has no function name.")
    arguments = function.get("arguments")
    if arguments is None or arguments == "":
        arguments = {}
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError) as error:
            raise _wrong(f"The arguments of {place} are no JSON: {error!s:.100}.") from error
    if not isinstance(arguments, Mapping):
        raise _wrong(f"The arguments of {place} are no object.")
    written: Any = json.dumps(arguments, ensure_ascii=False) if arguments_as_text else dict(arguments)
    return {**call, "type": "function", "function": {**function, "arguments": written}}


def _wrong(reason: str) -> FwError:
    return FwError(
        "invalid_argument",
        reason,
        not_done="Nothing was rendered.",
        hint='a message is {"role": "user", "content": "…"}',
        param="messages",
    )
