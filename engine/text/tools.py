"""Tools as a request offers them: names and the schemas of their arguments."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from engine.text.schemas import parameters_schema
from fw_sdk.types import FwError

NAME = re.compile(r"[A-Za-z0-9_.\-]{1,256}")


@dataclass(frozen=True)
class Tool:
    """A function that the model may call.

    Attributes:
        name: what the model writes.
        description: for the model; may be empty.
        parameters: as the request gave them, any of the forms that ``engine.text.schemas`` understands.
        strict: whether calls must fit the parameters even when the model may choose not to call.
    """

    name: str
    description: str = ""
    parameters: Mapping[str, Any] | None = field(default=None, hash=False)
    strict: bool = False

    @property
    def openai(self) -> dict[str, Any]:
        """The shape that chat templates expect."""
        parameters = self.parameters if self.parameters is not None else {"type": "object", "properties": {}}
        return {
            "type": "function",
            "function": {"name": self.name, "description": self.description, "parameters": dict(parameters)},
        }


def read_tools(tools: Any) -> tuple[Tool, ...]:
    """Tools in OpenAI's shape (``{"type": "function", "function": {…}}``), a function alone, or Anthropic's.

    Raises:
        FwError: ``invalid_argument`` naming the tool that is wrong.
    """
    if tools is None:
        return ()
    if not isinstance(tools, (list, tuple)):
        raise _wrong("tools", "tools is a list")
    found = tuple(one if isinstance(one, Tool) else _tool(one, f"tools[{at}]") for at, one in enumerate(tools))
    names = [tool.name for tool in found]
    for name in names:
        if names.count(name) > 1:
            raise _wrong("tools", f"two tools are called {name!r:.80}")
    return found


def argument_types(tool: Tool) -> dict[str, frozenset[str]]:
    """The JSON types that each argument may have; empty for any."""
    try:
        schema = parameters_schema(tool.parameters)
    except FwError:
        return {}
    return {key: types_of(part, schema) for key, part in schema.get("properties", {}).items()}


def types_of(schema: Any, root: Mapping[str, Any], depth: int = 0) -> frozenset[str]:
    """The JSON types that a schema allows, as far as it says; empty for any."""
    if not isinstance(schema, Mapping) or depth > 8:
        return frozenset()
    if isinstance(schema.get("$ref"), str):
        return types_of(resolve(schema["$ref"], root), root, depth + 1)
    stated = schema.get("type")
    if stated is not None:
        return frozenset([stated] if isinstance(stated, str) else stated)
    values = schema["enum"] if isinstance(schema.get("enum"), list) else [schema["const"]] if "const" in schema else []
    branches = [types_of(part, root, depth + 1) for part in [*schema.get("anyOf", ()), *schema.get("oneOf", ())]]
    found = [frozenset([_type_name(value)]) for value in values] or branches
    return frozenset().union(*found) if found and all(found) else frozenset()


def resolve(reference: str, root: Mapping[str, Any]) -> Any:
    """What ``#/$defs/x`` refers to; None if it is not in ``root``."""
    node: Any = root
    for step in reference.removeprefix("#").strip("/").split("/"):
        node = node.get(step.replace("~1", "/").replace("~0", "~")) if isinstance(node, Mapping) else None
    return node


def _type_name(value: Any) -> str:
    names = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array", dict: "object"}
    return names.get(type(value), "null")


def _tool(value: Any, place: str) -> Tool:
    if not isinstance(value, Mapping):
        raise _wrong(place, "a tool is an object")
    kind = value.get("type", "function")
    if "function" in value:
        function = value["function"]
    elif kind in ("function", "custom"):
        function = value
    else:
        raise _wrong(f"{place}.type", f"{kind!r:.60} is not supported; only 'function' is")
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(name, str) or NAME.fullmatch(name) is None:
        raise _wrong(f"{place}.function.name", f"{name!r:.80} is no name: letters, digits, '_', '-' and '.'")
    parameters = function.get("parameters", function.get("input_schema"))
    if parameters is not None and not isinstance(parameters, Mapping):
        raise _wrong(f"{place}.function.parameters", "the parameters are a JSON schema")
    description = function.get("description")
    strict = function.get("strict", value.get("strict"))
    return Tool(name, description if isinstance(description, str) else "", parameters, bool(strict))


def _wrong(param: str, reason: str) -> FwError:
    return FwError(
        "invalid_argument",
        f"{reason}.",
        not_done="Nothing was generated.",
        hint='a tool is {"type": "function", "function": {"name": …, "description": …, "parameters": {…}}}',
        param=param,
    )
