"""Content parsers: what the text between two anchors means. All raise ValueError for text that is not of their form."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import regex

from engine.text.json_text import DECODER, strict_json
from engine.text.pycalls import parse_calls

Args = Mapping[str, Any]
PLACEHOLDER = regex.compile(r"\{(\w+(?:\.\w+)*)\}")
BARE_KEY = regex.compile(r'("(?:\\.|[^"\\])*")|(?<=[{,])(\s*)(\w+)(\s*):')
PATTERN_S = 1.0


def parse_content(text: str, name: str, args: Args) -> Any:
    """The value of ``text`` by the parser called ``name``; ValueError if it is not of that form."""
    try:
        return CONTENT_PARSERS[name](text, args)
    except (TimeoutError, RecursionError, KeyError, TypeError, regex.error) as error:
        raise ValueError(f"{name}: {error!r:.200}") from error


def shape(value: Any, transform: Any, each: bool, captures: Mapping[str, str]) -> Any:
    """Put a parsed value into the shape that ``transform`` describes; ValueError if something is missing in it."""
    if transform is None:
        return value
    if not each:
        return _fill(transform, {**captures, "content": value})
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise ValueError("a list of objects is wanted")
    return [_fill(transform, {**captures, **one}) for one in value]


def coerce(text: str, types: frozenset[str]) -> Any:
    """What an argument written without quotes is, given the JSON types that its schema allows (none: unknown)."""
    plain = text.strip()
    if "null" in types and plain in ("null", "None"):
        return None
    if "string" in types:
        return text
    if "boolean" in types and plain.lower() in ("true", "false"):
        return plain.lower() == "true"
    try:
        value = strict_json(plain)
    except ValueError:
        return text
    if "integer" in types and "number" not in types and isinstance(value, float) and value.is_integer():
        return int(value)
    return text if not types and isinstance(value, str) else value


def _text(text: str, args: Args) -> str:
    return text.strip() if args.get("strip", True) else text


def _bool(text: str, args: Args) -> bool:
    return _text(text, args).lower() in ("true", "1")


def _json(text: str, args: Args) -> Any:
    """JSON; in the dialects of some models keys have no quotes, and strings have delimiters of their own."""
    working = text
    for opening, closing in args.get("string_delims", ()):
        working = _quoted(working, opening, closing)
    if args.get("unquoted_keys"):
        working = BARE_KEY.sub(lambda m: m[1] or f'{m[2]}"{m[3]}"{m[4]}:', working)
    try:
        return strict_json(working)
    except ValueError:
        if args.get("allow_non_json"):
            return _text(text, args)
        raise


def _json_sequence(text: str, args: Args) -> list[Any]:
    """JSON objects or lists of them one after another, with white space, commas or semicolons between."""
    found: list[Any] = []
    at = 0
    while (at := at + len(text[at:]) - len(text[at:].lstrip(" \t\r\n,;"))) < len(text):
        value, at = DECODER.raw_decode(text, at)
        found += value if isinstance(value, list) else [value]
    return found


def _quoted(text: str, opening: str, closing: str) -> str:
    """JSON strings in place of what stands between two delimiters."""
    parts, at = [], 0
    while (start := text.find(opening, at)) >= 0:
        end = text.find(closing, start + len(opening))
        if end < 0:
            raise ValueError("a string does not end")
        parts += [text[at:start], json.dumps(text[start + len(opening) : end])]
        at = end + len(closing)
    return "".join(parts) + text[at:]


def _tags(text: str, args: Args) -> dict[str, Any]:
    """Keys and values found by ``tag_pattern``; between them only white space."""
    out: dict[str, Any] = {}
    merged: set[str] = set()
    for match in _all(args["tag_pattern"], text):
        key, value = match["key"], _inner(match["value"] or "", args.get("value_parser"))
        if key not in out or not args.get("merge_duplicates"):
            out[key] = value
            continue
        out[key] = [*out[key], value] if key in merged else [out[key], value]
        merged.add(key)
    return out


def _lines(text: str, args: Args) -> dict[str, Any]:
    """``key: value`` on each line."""
    pairs = [line.partition(args.get("kv_sep", ":")) for line in text.split(args.get("line_sep", "\n"))]
    return {
        _text(key, args): _inner(_text(value, args), args.get("value_parser"))
        for key, separator, value in pairs
        if separator and key.strip()
    }


def _calls(text: str, args: Args) -> list[dict[str, Any]]:
    """Calls found by ``pattern`` with the groups ``name`` and ``arguments``; between them only white space."""
    return [
        {"name": match["name"].strip(), "arguments": _inner(match["arguments"] or "", args["arguments"])}
        for match in _all(args["pattern"], text)
    ]


def _all(pattern: str, text: str) -> list[regex.Match[str]]:
    """Every match of a pattern that together, but for white space, make up the text."""
    matches = list(regex.finditer(pattern, text, regex.DOTALL, timeout=PATTERN_S))
    at, rest = 0, ""
    for match in matches:
        rest += text[at : match.start()]
        at = match.end()
    if (rest := (rest + text[at:]).strip()) != "":
        raise ValueError(f"{rest[:60]!r} is not understood")
    return matches


def _inner(text: str, parser: Any) -> Any:
    return text if parser is None else parse_content(text, parser.get("name", "text"), parser.get("args") or {})


def _fill(transform: Any, scope: Mapping[str, Any]) -> Any:
    if isinstance(transform, Mapping):
        return {key: _fill(value, scope) for key, value in transform.items()}
    if isinstance(transform, list):
        return [_fill(value, scope) for value in transform]
    whole = PLACEHOLDER.fullmatch(transform) if isinstance(transform, str) else None
    if whole is None:
        return transform
    value: Any = scope
    for key in whole[1].split("."):
        if not isinstance(value, Mapping) or key not in value:
            raise ValueError(f"'{whole[1]}' is missing")
        value = value[key]
    return value


CONTENT_PARSERS: dict[str, Callable[[str, Args], Any]] = {
    "text": _text,
    "int": lambda text, args: int(_text(text, args)),
    "float": lambda text, args: float(_text(text, args)),
    "bool": _bool,
    "json": _json,
    "xml-inline": _tags,
    "kv-lines": _lines,
    "python-call-list": lambda text, args: parse_calls(text),
    "json-sequence": _json_sequence,
    "calls": _calls,
}
"""By the names that response templates use; ``json-sequence`` and ``calls`` are our own."""

TYPED = frozenset({"json", "json-sequence", "python-call-list"})
"""Parsers whose values have the types that the model wrote; those of others are text until a schema tells."""
