"""Events of a parsed answer, in the shape that the text room fixes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class TextDelta:
    """More text."""

    text: str


@dataclass(frozen=True)
class ReasoningDelta:
    """More reasoning."""

    text: str


@dataclass(frozen=True)
class ToolCallStart:
    """A call begins."""

    index: int
    id: str
    name: str


@dataclass(frozen=True)
class ToolCallArguments:
    """More of a call's arguments."""

    index: int
    text: str


@dataclass(frozen=True)
class ToolCallEnd:
    """A call is complete."""

    index: int


Event = TextDelta | ReasoningDelta | ToolCallStart | ToolCallArguments | ToolCallEnd


class OutputParser(Protocol):
    """Splits an answer's text into events."""

    def push(self, text: str) -> list[Event]:
        """More text of the answer."""
        ...

    def flush(self) -> list[Event]:
        """The answer is over."""
        ...
