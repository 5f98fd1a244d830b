"""What one choice says: its outputs joined, and cut into parts (reasoning, text, tool calls) as they arrive."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from engine.inference.request import Output, TokenLogprob, Usage
from engine.text.events import Event, ReasoningDelta, TextDelta, ToolCallArguments, ToolCallEnd, ToolCallStart
from engine.text.parser import OutputParser

Kind = Literal["text", "reasoning", "call"]


@dataclass
class Part:
    """A stretch of an answer.

    Attributes:
        kind: what it is.
        index: its place among the answer's parts.
        text: what it says; a call's arguments as JSON.
        id, name: of a call.
    """

    kind: Kind
    index: int
    text: str = ""
    id: str = ""
    name: str = ""


@dataclass(frozen=True)
class Change:
    """What an output did to one part: opened it, added ``text``, or closed it."""

    part: Part
    kind: Literal["open", "add", "close"]
    text: str = ""


@dataclass
class Answer:
    """The outputs of one choice, joined.

    Attributes:
        parser: tells reasoning and calls from text; without one all of it is one text.
        encode: the tokenizer's, to count what was reasoning.
    """

    parser: OutputParser | None = None
    encode: Callable[[str], Sequence[int]] | None = None
    parts: list[Part] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    prompt_logprobs: list[TokenLogprob | None] = field(default_factory=list)
    weight_versions: list[int] = field(default_factory=list)
    finish_reason: str | None = None
    stop: str | None = None
    usage: Usage = field(default_factory=lambda: Usage(0, 0))
    _open: Part | None = None

    def add(self, output: Output) -> list[Change]:
        """Append an output; returns what it changed, in order."""
        self.token_ids += output.token_ids
        self.logprobs += output.logprobs
        self.prompt_logprobs += output.prompt_logprobs
        self.weight_versions += output.weight_versions
        self.usage = output.usage
        changes: list[Change] = []
        for event in self._events(output):
            self._apply(event, changes)
        if output.finished:
            self.finish_reason, self.stop = output.finish_reason, output.stop
            self._close(changes)
        return changes

    @property
    def text(self) -> str:
        """All of its text parts."""
        return self._joined("text")

    @property
    def reasoning(self) -> str:
        """All of its reasoning parts."""
        return self._joined("reasoning")

    @property
    def reasoning_tokens(self) -> int:
        """How many tokens the reasoning has, without what marks it."""
        return len(self.encode(self.reasoning)) if self.encode is not None and self.reasoning else 0

    @property
    def calls(self) -> list[Part]:
        """Its tool calls."""
        return [part for part in self.parts if part.kind == "call"]

    def _joined(self, kind: Kind) -> str:
        return "".join(part.text for part in self.parts if part.kind == kind)

    def _events(self, output: Output) -> list[Event]:
        if self.parser is None:
            return [TextDelta(output.text)] if output.text else []
        events = self.parser.push(output.text) if output.text else []
        return [*events, *self.parser.flush()] if output.finished else events

    def _apply(self, event: Event, changes: list[Change]) -> None:
        match event:
            case TextDelta(text) | ReasoningDelta(text):
                kind: Kind = "text" if isinstance(event, TextDelta) else "reasoning"
                if self._open is None or self._open.kind != kind:
                    self._start(Part(kind, len(self.parts)), changes)
                self._grow(text, changes)
            case ToolCallStart(_, identifier, name):
                self._start(Part("call", len(self.parts), id=identifier, name=name), changes)
            case ToolCallArguments(_, text):
                self._grow(text, changes)
            case ToolCallEnd():
                self._close(changes)

    def _start(self, part: Part, changes: list[Change]) -> None:
        self._close(changes)
        self._open = part
        self.parts.append(part)
        changes.append(Change(part, "open"))

    def _grow(self, text: str, changes: list[Change]) -> None:
        assert self._open is not None
        self._open.text += text
        changes.append(Change(self._open, "add", text))

    def _close(self, changes: list[Change]) -> None:
        if self._open is not None:
            changes.append(Change(self._open, "close"))
            self._open = None
