"""Schemas of tool parameters: the type names that benchmarks and other languages use, as JSON schema.

JSON schema knows seven type names. Function descriptions in the wild use more; these are understood:

| name | JSON schema |
|---|---|
| ``dict``, ``HashMap``, ``Hashtable``, ``Map``, ``Object`` | ``object`` |
| ``list``, ``tuple``, ``set``, ``Array``, ``ArrayList``, ``List``, ``Set``, ``Stack``, ``Queue`` | ``array`` |
| ``float``, ``double``, ``Double``, ``Float``, ``Number`` | ``number`` |
| ``int``, ``long``, ``short``, ``byte``, ``Integer``, ``Long``, ``Bigint``, ``BigInt`` | ``integer`` |
| ``str``, ``char``, ``String`` | ``string`` |
| ``bool``, ``Boolean`` | ``boolean`` |
| ``None``, ``NoneType`` | ``null`` |
| ``any``, ``Any`` and the empty name | any value |

What only describes a value (``description``, ``title``, ``default``, ``examples``, ``optional``, …) is left out, and so
is ``required`` where it is no list of names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from fw_sdk.types import FwError

MAX_DEPTH = 64
JSON_TYPES = frozenset({"object", "array", "number", "integer", "string", "boolean", "null"})
_ALIASES = {
    "object": ("dict", "HashMap", "Hashtable", "Map", "Object"),
    "array": ("list", "tuple", "set", "Array", "ArrayList", "List", "Set", "Stack", "Queue"),
    "number": ("float", "double", "Double", "Float", "Number"),
    "integer": ("int", "long", "short", "byte", "Integer", "Long", "Bigint", "BigInt"),
    "string": ("str", "char", "String"),
    "boolean": ("bool", "Boolean"),
    "null": ("None", "NoneType"),
}
TYPE_OF = {name: kind for kind, names in _ALIASES.items() for name in names}
ANY_NAMES = frozenset({"any", "Any", ""})
ANNOTATIONS = frozenset(
    {"description", "title", "default", "examples", "example", "optional", "deprecated", "readOnly", "writeOnly"}
    | {"$schema", "$id", "$comment", "nullable"}
)
_ONE_SCHEMA = frozenset({"items", "additionalProperties", "not", "if", "then", "else", "contains", "propertyNames"})
_SCHEMA_LISTS = frozenset({"anyOf", "oneOf", "allOf", "prefixItems"})
_SCHEMA_MAPS = frozenset({"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"})


def parameters_schema(parameters: Any, *, closed: bool = True) -> dict[str, Any]:
    """The JSON schema of a function's arguments: always an object.

    Args:
        parameters: a JSON schema, whose type names may be those above; None or empty for a function without arguments.
        closed: objects that list ``properties`` and do not say otherwise allow no others, so that a constrained call
            cannot invent arguments. What fits the closed schema fits the open one.

    Raises:
        FwError: ``invalid_argument`` naming the place and the keyword that is not understood.
    """
    if parameters is None or parameters == {}:
        return {"type": "object", "properties": {}, "additionalProperties": False}
    schema = _schema(parameters, "parameters", 0, closed)
    if schema is True or schema.get("type", "object") != "object":
        raise _refused("parameters", f"the arguments must be an object, got type {parameters.get('type')!r:.60}")
    return {"type": "object", **schema}


def _schema(value: Any, place: str, depth: int, closed: bool) -> Any:
    """One schema node; ``True`` allows any value."""
    if isinstance(value, bool):
        return value
    if not isinstance(value, Mapping):
        raise _refused(place, f"a schema is an object, got {type(value).__name__}")
    if depth > MAX_DEPTH:
        raise _refused(place, f"schemas may nest {MAX_DEPTH} deep at most")

    def inner(part: Any, step: str) -> Any:
        return _schema(part, f"{place}.{step}", depth + 1, closed)

    node: dict[str, Any] = {}
    for key, part in value.items():
        if key in ANNOTATIONS or (key == "required" and not isinstance(part, list)):
            continue
        node[key] = _keyword(key, part, place, inner)
    if node.get("type", "") == "":
        node.pop("type", None)
    if value.get("nullable") is True and isinstance(node.get("type"), str):
        node["type"] = [node["type"], "null"]
    if closed and "properties" in node and not {"additionalProperties", "patternProperties"} & node.keys():
        node["additionalProperties"] = False
    return node or True


def _keyword(key: str, part: Any, place: str, inner: Callable[[Any, str], Any]) -> Any:
    if key == "type":
        return _type(part, place)
    if key in _ONE_SCHEMA:
        return inner(part, key)
    if key in _SCHEMA_LISTS and isinstance(part, list):
        return [inner(one, f"{key}[{number}]") for number, one in enumerate(part)]
    if key in _SCHEMA_MAPS and isinstance(part, Mapping):
        return {name: inner(one, f"{key}.{name}") for name, one in part.items()}
    return part


def _type(name: Any, place: str) -> str | list[str]:
    """The JSON schema name of a type, or several; empty for any value."""
    if isinstance(name, list):
        names = [_type(one, place) for one in name]
        return "" if "" in names or not names else [one for one in names if isinstance(one, str)]
    if name in JSON_TYPES:
        return str(name)
    if name in ANY_NAMES:
        return ""
    if name in TYPE_OF:
        return TYPE_OF[name]
    raise _refused(f"{place}.type", f"type {name!r:.60} is unknown; known are {', '.join(sorted(JSON_TYPES))}, any")


def _refused(place: str, reason: str) -> FwError:
    return FwError(
        "invalid_argument",
        f"The schema at {place:.200} cannot be used: {reason}.",
        not_done="Nothing was generated.",
        hint="correct the schema there, or send the tool without strict",
        param=place[:200],
    )
