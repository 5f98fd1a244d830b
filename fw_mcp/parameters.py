"""The parameters of a tool: their schema as a client is shown it, and how the values that it sends are read."""

from __future__ import annotations

import json
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from mcp.server.mcpserver.utilities.func_metadata import FuncMetadata

BOUNDS = frozenset({"minimum", "exclusiveMinimum", "maximum", "minLength", "maxLength"})


class TakenAsSent(FuncMetadata):
    """Arguments of a function. A text is the text that was sent, also where it happens to be JSON.

    Some clients send lists and objects as JSON in a string: those are read, for a parameter that takes no string.
    """

    @classmethod
    def of(cls, found: FuncMetadata) -> TakenAsSent:
        """The same function."""
        return cls(**{name: getattr(found, name) for name in type(found).model_fields})

    def pre_parse_json(self, data: dict[str, Any]) -> dict[str, Any]:
        """``data`` with lists and objects in place of the strings that hold them."""
        fields = {field.alias or name: field for name, field in self.arg_model.model_fields.items()}
        texts = {name for name, field in fields.items() if takes_text(field.annotation)}
        return {
            name: _structure_in(value) if name in fields and name not in texts else value
            for name, value in data.items()
        }


def takes_text(annotation: Any) -> bool:
    """Whether a parameter of this type may be a string."""
    origin = get_origin(annotation)
    if origin in (Union, UnionType):
        return any(takes_text(choice) for choice in get_args(annotation))
    if origin is Annotated:
        return takes_text(get_args(annotation)[0])
    return annotation is str or origin is Literal


def _structure_in(value: Any) -> Any:
    """The list or object whose JSON ``value`` is, else ``value``."""
    if not isinstance(value, str):
        return value
    try:
        found = json.loads(value)
    except (ValueError, RecursionError):
        return value
    return found if isinstance(found, dict | list) else value


def slim(schema: Any, *, of_properties: bool = False) -> Any:
    """``schema`` without pydantic's titles, the ``anyOf [X, null]`` of optional parameters, and bounds of numbers.

    Nearly every bound says what is plain (a count is not negative, a share at most 1), and a call beyond one is refused
    with it, so their tokens are better spent on words.
    """
    if isinstance(schema, list):
        return [slim(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {
        key: slim(value, of_properties=key == "properties")
        for key, value in schema.items()
        if of_properties or not _is_noise(key, value)
    }
    choices = kept.get("anyOf")
    if of_properties or not choices or {"type": "null"} not in choices:
        return kept
    others = [choice for choice in choices if choice != {"type": "null"}]
    if "default" in kept and kept["default"] is None:
        kept.pop("default")
    if len(others) == 1:
        kept.pop("anyOf")
        return {**others[0], **kept}
    return {**kept, "anyOf": others}


def _is_noise(key: str, value: Any) -> bool:
    """Also a default that is nothing: absent, false and 0 are the same to whoever calls."""
    says_nothing = (key == "additionalProperties" and value is True) or (key == "default" and value in (0, ""))
    return key in BOUNDS or says_nothing or (key == "title" and isinstance(value, str))
