"""Output to events while it streams: text, reasoning and tool calls, told apart by a response template.

What is returned does not depend on how the text was cut: anything that may yet become a marker is held back. A call is
reported when it is complete. One that cannot be understood is text, as the model wrote it, and noted.
"""

from __future__ import annotations

import json
import secrets
import string
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import regex

from engine.text.contents import PATTERN_S, TYPED, coerce, parse_content, shape
from engine.text.events import Event, ReasoningDelta, TextDelta, ToolCallArguments, ToolCallEnd, ToolCallStart
from engine.text.json_text import dump, inside_string
from engine.text.response import Anchor, ResponseField, ResponseTemplate
from engine.text.tools import Tool, argument_types

SPACE = " \t\r\n"
ID_ALPHABET = string.ascii_letters + string.digits
ID_LENGTH = 9

Edge = tuple[Literal["open", "close"], ResponseField, Anchor]


class OutputParser:
    """Reads one answer.

    Args:
        template: of the model.
        tools: what the model may call; without tools nothing is a call.
        reasoning: report reasoning apart; if not, it is left out.
        prefill: the part of the answer that the prompt already holds, such as ``<think>``.

    Attributes:
        notes: what could not be understood, one sentence each.
    """

    def __init__(
        self, template: ResponseTemplate, tools: Sequence[Tool] = (), *, reasoning: bool = True, prefill: str = ""
    ) -> None:
        self.notes: list[str] = []
        self._types = {tool.name: argument_types(tool) for tool in tools}
        self._fields = [one for one in template.fields if tools or one.kind != "calls"]
        self._outside = template.outside
        self._report = reasoning
        self._field: ResponseField | None = None  # the open field, None outside
        self._buffer, self._at = prefill, 0
        self._opening, self._opened_at, self._captures = "", 0, dict[str, str]()
        self._thoughts = ""
        self._given_up: list[Anchor] = []
        self._spaces, self._edge = "", False  # white space held back; whether a marker is right before it
        self._calls = 0
        self._seen = False
        if prefill:
            self._advance(final=False)
            self._buffer, self._at, self._edge, self._spaces = self._buffer[self._at :], 0, self._field is not None, ""

    def push(self, text: str) -> list[Event]:
        """What this text completes."""
        self._buffer += text
        return self._advance(final=False)

    def flush(self) -> list[Event]:
        """What is left at the end of the answer."""
        events = self._advance(final=True)
        if self._field is not None and self._field.kind == "reasoning":
            events += self._calls_in_open_reasoning()
        if self._spaces and not self._edge:
            events.append(TextDelta(self._spaces))
        self._spaces = ""
        return _joined(events)

    def _advance(self, *, final: bool) -> list[Event]:
        events: list[Event] = []
        while True:
            found, held = self._next(final)
            if found is None:
                self._route(self._buffer[self._at : held], events)
                self._at = held
                if not final or not self._end(events):
                    return _joined(events)
                continue
            (kind, one, _), match = found
            self._route(self._buffer[self._at : match.start()], events)
            self._at = match.end()
            if kind == "open":
                self._open(one, match)
            elif one.content != "json" or not inside_string(self._buffer[self._opened_at : match.start()]):
                self._close(match, events)

    def _next(self, final: bool) -> tuple[tuple[Edge, regex.Match[str]] | None, int]:
        """The next marker that is certain, or else how far the text is certainly none."""
        best: tuple[Edge, regex.Match[str]] | None = None
        held = len(self._buffer)
        for edge in self._edges():
            match = self._search(edge[2], final)
            if match is None:
                continue
            if match.partial or (not final and edge[2].may_grow(self._buffer, match)):
                held = min(held, match.start())
            elif best is None or (match.start(), -match.end()) < (best[1].start(), -best[1].end()):
                best = (edge, match)
        return (None, held) if best is None or held <= best[1].start() else (best, held)

    def _search(self, anchor: Anchor, final: bool) -> regex.Match[str] | None:
        """The anchor's first match; a pattern that takes for ever, which a model's own may, is given up."""
        if anchor in self._given_up:
            return None
        try:
            return anchor.pattern.search(self._buffer, self._at, partial=not final, timeout=PATTERN_S)
        except TimeoutError:
            self.notes.append(f"The pattern {anchor.pattern.pattern!r:.80} takes too long; it was not looked for.")
            self._given_up.append(anchor)
            return None

    def _edges(self) -> list[Edge]:
        if self._field is not None:
            return [("close", self._field, self._field.close)] if self._field.close is not None else []
        return [("open", one, one.open) for one in self._fields if one.open is not None]

    def _route(self, text: str, events: list[Event]) -> None:
        """Give text to where it belongs; white space next to a marker is layout and left out."""
        if not text:
            return
        kind = self._field.kind if self._field is not None else "text" if self._outside is not None else None
        if kind in ("text", "reasoning"):
            self._show(text, kind == "reasoning", events)
        elif kind is None and not self._seen:
            self._opening += text

    def _show(self, text: str, thought: bool, events: list[Event]) -> None:
        if thought:
            self._thoughts += text
        text = self._spaces + text
        if self._edge:
            text = text.lstrip(SPACE)
        shown = text.rstrip(SPACE)
        self._spaces = text[len(shown) :]
        if shown:
            self._edge = False
            if not thought or self._report:
                events.append(ReasoningDelta(shown) if thought else TextDelta(shown))

    def _open(self, one: ResponseField, match: regex.Match[str]) -> None:
        self._seen = True
        self._field, self._opening, self._opened_at, self._thoughts = one, match[0], match.end(), ""
        self._captures = {name: value for name, value in match.groupdict().items() if value is not None}
        if one.kind != "calls":
            self._edge, self._spaces = True, ""

    def _close(self, match: regex.Match[str], events: list[Event]) -> None:
        field, self._field = self._field, None
        assert field is not None
        self._captures |= {name: value for name, value in match.groupdict().items() if value is not None}
        if field.kind != "calls":
            self._edge, self._spaces = True, ""
            self._buffer, self._at = self._buffer[self._at :], 0  # for patterns, the text begins here
        elif not self._call(field, self._buffer[self._opened_at : match.start()], events):
            self._give_back(events)

    def _end(self, events: list[Event]) -> bool:
        """The text is over; whether there is more to read after all."""
        if self._field is None:
            if not self._seen and self._outside is None and self._opening:
                self._show(self._opening, False, events)
            return False
        if self._field.kind != "calls":
            return False
        field, self._field = self._field, None
        if self._call(field, self._buffer[self._opened_at :], events):
            return False
        self._give_back(events)
        return True

    def _give_back(self, events: list[Event]) -> None:
        """A marker that began no call is text, and what follows it is read again: a call may be in there."""
        self._at = self._opened_at if self._opening else self._opened_at + 1
        self._show(self._opening or self._buffer[self._opened_at : self._at], False, events)

    def _call(self, field: ResponseField, body: str, events: list[Event]) -> bool:
        """Report the calls in a field's body; False if they cannot be understood."""
        try:
            value = parse_content(body, field.content, field.args)
            value = shape(value, field.transform, field.transform_each, self._captures)
            calls = [_function(one) for one in (value if isinstance(value, list) else [value])]
            if not calls:
                raise ValueError("it is empty")
            if field.args.get("known_only") and any(name not in self._types for name, _ in calls):
                raise ValueError("no such function")
        except ValueError as error:
            self.notes.append(f"What looks like a tool call is none: {error!s:.200}. It was left in the text.")
            return False
        for name, arguments in calls:
            self._report_call(name, arguments if field.content in TYPED else self._typed(name, arguments), events)
        self._edge, self._spaces = True, ""
        return True

    def _typed(self, name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments that were written as text, with the types that the tool's schema gives them."""
        types = self._types.get(name, {})
        return {
            key: coerce(value, types.get(key, frozenset())) if isinstance(value, str) else value
            for key, value in arguments.items()
        }

    def _report_call(self, name: str, arguments: Mapping[str, Any], events: list[Event]) -> None:
        if name not in self._types:
            self.notes.append(f"The model calls {name!r:.80}, which is not among the tools.")
        index, self._calls = self._calls, self._calls + 1
        identifier = "".join(secrets.choice(ID_ALPHABET) for _ in range(ID_LENGTH))
        events += [
            ToolCallStart(index, identifier, name),
            ToolCallArguments(index, dump(arguments)),
            ToolCallEnd(index),
        ]

    def _calls_in_open_reasoning(self) -> list[Event]:
        """Calls of a model that never stopped thinking; its thoughts were reported with them."""
        events: list[Event] = []
        for field in [one for one in self._fields if one.kind == "calls" and one.open is not None and one.close]:
            assert field.open is not None
            assert field.close is not None
            at = 0
            while (start := field.open.pattern.search(self._thoughts, at)) is not None:
                end = field.close.pattern.search(self._thoughts, start.end())
                if end is None:
                    break
                self._captures = {name: value for name, value in start.groupdict().items() if value is not None}
                self._call(field, self._thoughts[start.end() : end.start()], events)
                at = max(end.end(), at + 1)
        if events:
            self.notes.append("The reasoning never ended; the tool calls inside it were reported.")
        return events


def _function(value: Any) -> tuple[str, dict[str, Any]]:
    """Name and arguments of a call in any of the shapes that templates produce."""
    function = value.get("function", value) if isinstance(value, Mapping) else None
    if not isinstance(function, Mapping):
        raise ValueError("a call is an object")
    name = function.get("name")
    arguments = function.get("arguments", function.get("parameters", {}))
    if isinstance(arguments, str):
        arguments = json.loads(arguments) if arguments.strip() else {}
    if not isinstance(name, str) or not name or not isinstance(arguments, dict):
        raise ValueError("a call needs a name and an object of arguments")
    return name, arguments


def _joined(events: list[Event]) -> list[Event]:
    """Neighbouring pieces of text as one."""
    joined: list[Event] = []
    for event in events:
        last = joined[-1] if joined else None
        if isinstance(event, TextDelta) and isinstance(last, TextDelta):
            joined[-1] = TextDelta(last.text + event.text)
        elif isinstance(event, ReasoningDelta) and isinstance(last, ReasoningDelta):
            joined[-1] = ReasoningDelta(last.text + event.text)
        else:
            joined.append(event)
    return joined
