"""Response templates: which parts an answer has and what marks them, as data.

The form is Hugging Face's ``response_template`` (version 1): fields with an ``open`` and a ``close`` anchor, each a
literal, a list of literals or a pattern; a content parser; ``repeats``; a ``transform`` that puts what was found into
the shape of a message. A field without ``open`` takes all text outside the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import regex

from engine.text.contents import CONTENT_PARSERS
from fw_sdk.types import FwError

Kind = Literal["text", "reasoning", "calls"]

KINDS: dict[str, Kind] = {
    "content": "text",
    "thinking": "reasoning",
    "reasoning": "reasoning",
    "reasoning_content": "reasoning",
    "tool_calls": "calls",
}
TEMPLATE_KEYS = frozenset({"version", "defaults", "fields", "start_anchor", "start_anchor_pattern"})
FIELD_KEYS = frozenset(
    {"open", "open_pattern", "close", "close_pattern", "content", "content_args", "repeats", "join", "optional"}
    | {"transform", "transform_each"}
)


@dataclass(frozen=True)
class Anchor:
    """What begins or ends a field.

    Attributes:
        pattern: compiled; for literals their alternation, longest first.
        literals: the literals, empty for a pattern.
    """

    pattern: regex.Pattern[str]
    literals: tuple[str, ...]

    def may_grow(self, buffer: str, match: regex.Match[str]) -> bool:
        """Whether more text could make this match, found in all of ``buffer``, longer or shorter."""
        if self.literals:
            found = buffer[match.start() :]
            return any(literal != match[0] and literal.startswith(found) for literal in self.literals)
        if match.end() == len(buffer):
            return True
        longer = self.pattern.fullmatch(buffer, match.start(), partial=True)
        return longer is not None and longer.partial


@dataclass(frozen=True)
class ResponseField:
    """A part of an answer.

    Attributes:
        name: as in the message.
        kind: what the part is to a client.
        open: what begins it; None for the field that takes everything else.
        close: what ends it; None if only the end of the text does.
        content: name of its content parser.
        args: of the content parser.
        transform: shape of the result, with ``{…}`` placeholders; None for the content as it is.
        transform_each: the content is a list, and each element is shaped.
    """

    name: str
    kind: Kind
    open: Anchor | None
    close: Anchor | None
    content: str = "text"
    args: Mapping[str, Any] = field(default_factory=dict)
    transform: Any = None
    transform_each: bool = False


@dataclass(frozen=True)
class ResponseTemplate:
    """The parts of an answer.

    Attributes:
        fields: those with an ``open`` anchor.
        outside: the field of all other text; None if other text is only structure.
    """

    fields: tuple[ResponseField, ...]
    outside: ResponseField | None

    @classmethod
    def of(cls, source: Any) -> ResponseTemplate:
        """Read a template.

        Raises:
            FwError: ``model_unsupported`` naming the field and the key that is wrong.
        """
        if not isinstance(source, Mapping) or not isinstance(source.get("fields"), Mapping) or not source["fields"]:
            raise _broken("it has no fields")
        if source.get("version", 1) != 1:
            raise _broken(f"its version is {source['version']!r:.40}, supported is 1")
        if unknown := sorted(set(source) - TEMPLATE_KEYS):
            raise _broken(f"unknown keys {unknown!r:.200}")
        fields = [_field(str(name), spec) for name, spec in source["fields"].items()]
        outside = [one for one in fields if one.open is None]
        if len(outside) > 1:
            raise _broken(f"more than one field has no 'open': {[one.name for one in outside]!r:.200}")
        return cls(tuple(one for one in fields if one.open), outside[0] if outside else None)

    @property
    def literals(self) -> tuple[str, ...]:
        """Every literal and pattern that marks something."""
        anchors = [anchor for one in self.fields for anchor in (one.open, one.close) if anchor is not None]
        return tuple(text for anchor in anchors for text in (anchor.literals or (anchor.pattern.pattern,)))

    def field(self, kind: Kind) -> ResponseField | None:
        """The first field of a kind that has anchors."""
        return next((one for one in self.fields if one.kind == kind), None)


def _field(name: str, spec: Any) -> ResponseField:
    if not isinstance(spec, Mapping):
        raise _broken(f"field {name!r:.60} is no object")
    if unknown := sorted(set(spec) - FIELD_KEYS):
        raise _broken(f"field {name!r:.60} has unknown keys {unknown!r:.200}")
    content = spec.get("content", "text")
    if content not in CONTENT_PARSERS:
        raise _broken(f"field {name!r:.60} has content {content!r:.60}; known are {', '.join(CONTENT_PARSERS)}")
    return ResponseField(
        name=name,
        kind=KINDS.get(name, "text"),
        open=_anchor(name, spec, "open"),
        close=_anchor(name, spec, "close"),
        content=content,
        args=spec.get("content_args") or {},
        transform=spec.get("transform"),
        transform_each=bool(spec.get("transform_each", False)),
    )


def _anchor(name: str, spec: Mapping[str, Any], key: str) -> Anchor | None:
    literal, pattern = spec.get(key), spec.get(f"{key}_pattern")
    if literal is None and pattern is None:
        return None
    if literal is not None and pattern is not None:
        raise _broken(f"field {name!r:.60} has both '{key}' and '{key}_pattern'")
    if pattern is not None:
        try:
            return Anchor(regex.compile(pattern, regex.DOTALL), ())
        except (regex.error, TypeError) as error:
            raise _broken(f"field {name!r:.60}: {key}_pattern: {error}") from error
    literals = (literal,) if isinstance(literal, str) else tuple(literal) if isinstance(literal, list) else ()
    if not literals or not all(isinstance(one, str) and one for one in literals):
        raise _broken(f"field {name!r:.60}: '{key}' must be a string that is not empty, or several")
    ordered = sorted(literals, key=len, reverse=True)
    return Anchor(regex.compile("|".join(map(regex.escape, ordered))), literals)


def _broken(reason: str) -> FwError:
    return FwError(
        "model_unsupported",
        f"This model's response_template cannot be used: {reason}.",
        not_done="Nothing was rendered.",
        hint="correct response_template in tokenizer_config.json, or remove it: known chat templates need none",
    )
