"""Messages to token ids, the same for sampling and for training, and what the model writes back to events.

The text is what the model's chat template makes of the messages. It is tokenised in pieces that end where an
assistant's turn is prompted for, so that what training sees before an answer is exactly what sampling saw.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from engine.text.events import ReasoningDelta, TextDelta, ToolCallArguments, ToolCallStart
from engine.text.families import HERMES, Family, family_of
from engine.text.grammar import GrammarSpec
from engine.text.messages import Message, plain_messages, with_tool_prompt
from engine.text.parser import OutputParser
from engine.text.response import ResponseTemplate
from engine.text.template import ChatTemplate
from engine.text.tokenizer import Tokenizer
from engine.text.tool_grammar import Situation, calls_or_form, optional_calls, required_calls, sample_call
from engine.text.tools import Tool, read_tools
from fw_sdk.types import FwError

ToolsSupport = Literal["template", "prompt"]

PROBE = "Qz0vProbe"
"""A word that no chat template has."""
PROBE_CALL = {"id": "abcdefghi", "type": "function", "function": {"name": PROBE, "arguments": {"key": PROBE}}}


@dataclass(frozen=True)
class _Turn:
    """An assistant's turn in the rendered text: where its prompt ends and where the turn does, in characters."""

    start: int
    end: int


class Renderer:
    """A tokenizer with its chat template.

    Args:
        tokenizer: of the model; without a chat template every rendering is refused.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        source = tokenizer.chat_template
        self._template = ChatTemplate(source, tokenizer.special_tokens) if source else None
        self.template_digest = "sha256:" + hashlib.sha256((source or "").encode()).hexdigest()

    @classmethod
    def load(cls, path: Path) -> Renderer:
        """The renderer of the model at ``path``; raises as ``Tokenizer.load``."""
        return cls(Tokenizer.load(path))

    def text(self, messages: Sequence[Message], *, add_generation_prompt: bool = True, tools: Any = None) -> str:
        """The text that the template makes of the messages."""
        if self._template is None:
            raise FwError(
                "failed_precondition",
                "This model has no chat template.",
                not_done="Nothing was rendered.",
                hint="use plain completions, or an instruction-tuned model",
            )
        offered = read_tools(tools)
        plain = plain_messages(messages, arguments_as_text=self._arguments_as_text)
        if self.tools_support == "prompt":
            involved = offered or any(message["role"] == "tool" or "tool_calls" in message for message in plain)
            plain, offered = with_tool_prompt(plain, offered) if involved else plain, ()
        shapes = list(tools) if offered and _as_given(tools) else [tool.openai for tool in offered]
        return self._raw(plain, add_generation_prompt, shapes or None)

    def _raw(self, messages: list[dict[str, Any]], add_generation_prompt: bool, tools: Any) -> str:
        assert self._template is not None
        return self._template.render(messages, add_generation_prompt=add_generation_prompt, tools=tools)

    def render(
        self, messages: Sequence[Message], *, add_generation_prompt: bool = True, tools: Any = None
    ) -> list[int]:
        """The ids of a conversation, ending with the prompt for the assistant's turn unless told otherwise.

        Raises:
            FwError: ``invalid_argument`` if the template refuses the messages.
        """
        full = self.text(messages, add_generation_prompt=add_generation_prompt, tools=tools)
        turns = self._turns(full, messages, tools) or []
        return [number for piece in self._pieces(full, turns) for number in piece]

    def render_training(self, messages: Sequence[Message], tools: Any = None) -> tuple[list[int], list[bool]]:
        """The ids of a whole conversation and which of them are trained.

        Trained are each assistant message that answers something, its tool calls too, and the token that ends its turn.
        The ids equal ``render(messages, add_generation_prompt=False)``, and up to each trained span
        ``render(messages before it)``.

        Raises:
            FwError: ``model_unsupported`` if the template renders a conversation differently once it goes on, or does
                not end the assistant's turn with a special token; ``invalid_argument`` if it refuses the messages.
        """
        full = self.text(messages, add_generation_prompt=False, tools=tools)
        turns = self._turns(full, messages, tools)
        if turns is None:
            raise _unstable("it renders the beginning of a conversation differently once the conversation goes on")
        first, *pieces = self._pieces(full, turns)
        ids, trained = list(first), [False] * len(first)
        for turn, piece in zip(turns, pieces, strict=True):
            count = self._turn_length(piece, full[turn.start : turn.end])
            ids += piece
            trained += [True] * count + [False] * (len(piece) - count)
        return ids, trained

    @cached_property
    def stop_ids(self) -> tuple[int, ...]:
        """Ids that end the assistant's turn: the model's end-of-text ids and the one its template puts there."""
        found = list(self.tokenizer.eos_ids)
        if self._template is not None:
            try:
                whole = self._raw([_turn("user", "a"), _turn("assistant", PROBE)], False, None)
            except FwError:
                return tuple(found)
            rest = self.tokenizer.encode(whole.rpartition(PROBE)[2])
            found += [number for number in rest if number in self.tokenizer.special_ids][:1]
        return tuple(dict.fromkeys(found))

    @cached_property
    def tools_support(self) -> ToolsSupport:
        """Who tells the model about tools: its chat ``template``, or else a ``prompt`` in the system message.

        A template that ignores ``tools`` is helped out: the tools and the way to call them (Hermes' JSON in
        ``<tool_call>``) are described in the system message, calls are written into the assistant's text, results come
        as a user's message.
        """
        try:
            shown = self._template is not None and PROBE in self._raw(
                [_turn("user", "a")], True, [Tool(PROBE, "a", {"type": "object", "properties": {}}).openai]
            )
        except FwError:
            shown = False
        return "template" if shown else "prompt"

    @cached_property
    def _arguments_as_text(self) -> bool:
        """Whether the template wants a call's arguments as JSON text: some write an object as Python would."""
        if self._template is None or self.tools_support == "prompt":
            return False
        calls = {"role": "assistant", "content": "", "tool_calls": [PROBE_CALL]}
        try:
            text = self._raw([_turn("user", "a"), calls], False, None)
        except FwError:
            return True
        return f"'{PROBE}'" in text and f"'key': '{PROBE}'" in text

    @cached_property
    def family(self) -> Family:
        """How the model writes reasoning and calls: recognised by its chat template, else as Hermes."""
        known = family_of(self.tokenizer.chat_template)
        return known if known is not None and self.tools_support == "template" else HERMES

    @cached_property
    def response(self) -> ResponseTemplate:
        """What reads the model's answers: its own ``response_template`` if it has one, else its family's.

        Raises:
            FwError: ``model_unsupported`` if its own is broken.
        """
        own = self.tokenizer.response_template
        if own is None or self.tools_support == "prompt":
            return self.family.response
        return ResponseTemplate.of(own)

    @cached_property
    def prefill(self) -> str:
        """What the chat template writes of the answer before the model does, such as ``<think>``."""
        if self._template is None:
            return ""
        try:
            closed, opened = (self._raw([_turn("user", "a")], prompt, None) for prompt in (False, True))
        except FwError:
            return ""
        return opened[len(closed) :] if opened.startswith(closed) else ""

    @cached_property
    def keep_special(self) -> bool:
        """Whether the markers of an answer are special tokens, which the engine must leave in the text."""
        markers = "\n".join(self.response.literals).replace("\\", "")
        tokens = (self.tokenizer.token(number) for number in self.tokenizer.special_ids)
        return any(token in markers for token in tokens if token)

    def output_parser(self, tools: Any = None, *, reasoning: bool = True) -> OutputParser:
        """A parser of one answer to a conversation with these tools.

        Args:
            tools: as in ``render``.
            reasoning: report reasoning as events; if not, it is left out.
        """
        return OutputParser(self.response, read_tools(tools), reasoning=reasoning, prefill=self.prefill)

    def parse(self, text: str, tools: Any = None) -> dict[str, Any]:
        """An answer as the assistant's message, in OpenAI's shape with ``reasoning_content``."""
        parser = self.output_parser(tools)
        events = [*parser.push(text), *parser.flush()]
        content = "".join(event.text for event in events if isinstance(event, TextDelta))
        thought = "".join(event.text for event in events if isinstance(event, ReasoningDelta))
        calls = [event for event in events if isinstance(event, ToolCallStart)]
        arguments = [event.text for event in events if isinstance(event, ToolCallArguments)]
        message: dict[str, Any] = {"role": "assistant", "content": content}
        if thought:
            message["reasoning_content"] = thought
        if calls:
            message["tool_calls"] = [
                {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": text}}
                for call, text in zip(calls, arguments, strict=True)
            ]
        return message

    def tool_grammar(
        self,
        tools: Any,
        choice: Any = "auto",
        *,
        parallel: bool = True,
        strict: bool = False,
        form: GrammarSpec | None = None,
        answer_prefix: str = "",
    ) -> GrammarSpec | None:
        """What the answer must be; None if anything goes.

        Args:
            tools: as in ``render``.
            choice: ``auto``, ``none``, ``required`` (or ``any``), or a function: its name or an object that names it.
            parallel: whether there may be several calls.
            strict: with ``auto``, calls must fit their schemas; one strict tool among the tools is enough.
            form: what an answer that is no call must be.
            answer_prefix: how the answer starts, if the prompt goes on after what the template wrote of it.

        Raises:
            FwError: ``invalid_argument`` if the function is not among the tools or a schema cannot be expressed,
                ``unimplemented`` for a form of calls that no grammar is written for.
        """
        offered = read_tools(tools)
        name = _chosen(choice)
        if name == "none" or not offered:
            return form
        if name == "auto" and form is None and not (strict or any(tool.strict for tool in offered)):
            return None
        if not self._reads_its_form:
            raise _unread()
        situation = Situation(self._special, self._thinks_after(answer_prefix), self._reasons)
        if name == "auto" and form is not None:
            return calls_or_form(self.family, offered, situation, form, parallel=parallel)
        if name == "auto":
            return optional_calls(self.family, offered, situation, parallel=parallel)
        if name not in ("required", "any"):
            offered = tuple(tool for tool in offered if tool.name == name)
            if not offered:
                raise _no_tool(name)
            parallel = False
        return required_calls(self.family, offered, situation, parallel=parallel)

    def extension(self, before: Sequence[Message], after: Sequence[Message], *, tools: Any = None) -> str | None:
        """Why the prompt for ``after`` does not begin with the prompt for ``before``; None if it does.

        ``after`` is ``before`` with an answer and more messages. Where it begins so, nothing is computed twice.
        """
        short, long = self.render(before, tools=tools), self.render(after, tools=tools)
        if long[: len(short)] == short:
            return None
        one, other = self.text(before, tools=tools), self.text(after, tools=tools)
        at = next((at for at, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1]), len(other))
        if at >= len(one):
            return "the text goes on, but its last piece is tokenised differently"
        if any(message.get("reasoning_content") for message in before) and self._forgets_reasoning:
            return "the chat template leaves out the reasoning of earlier turns"
        return (
            f"the chat template renders {one[at : at + 40]!r} as {other[at : at + 40]!r} once the conversation goes on"
        )

    @cached_property
    def _forgets_reasoning(self) -> bool:
        turns = [_turn("user", "a"), {**_turn("assistant", "b"), "reasoning_content": PROBE}]
        return PROBE not in self.text([*turns, _turn("user", "c")])

    @cached_property
    def _special(self) -> dict[str, int]:
        found = {self.tokenizer.token(number): number for number in self.tokenizer.special_ids}
        return {token: number for token, number in found.items() if token}

    @cached_property
    def _reads_its_form(self) -> bool:
        """Whether what the grammars allow is what the response template reads."""
        parser = OutputParser(self.response, (Tool(PROBE),))
        events = [*parser.push(sample_call(self.family.form, PROBE)), *parser.flush()]
        return [event.name for event in events if isinstance(event, ToolCallStart)] == [PROBE]

    @cached_property
    def _reasons(self) -> bool:
        """Whether the chat template knows reasoning."""
        return self.family.reasoning[1].strip().partition("<|start|>")[0] in (self.tokenizer.chat_template or "")

    def _thinks_after(self, answer_prefix: str) -> bool:
        """Whether a prompt that ends so ends inside reasoning."""
        opening, closing = (mark.strip() for mark in self.family.reasoning)
        return opening in (self.prefill + answer_prefix).rpartition(closing)[2]

    def _turns(self, full: str, messages: Sequence[Message], tools: Any) -> list[_Turn] | None:
        """Where the assistant's turns are in ``full``; None if the template is not stable under continuation."""
        turns: list[_Turn] = []
        for index, message in enumerate(messages):
            if index == 0 or message.get("role") != "assistant":
                continue
            before = self.text(messages[:index], tools=tools)
            after = self.text(messages[: index + 1], add_generation_prompt=False, tools=tools)
            if not (full.startswith(after) and after.startswith(before)):
                return None
            turns.append(_Turn(len(before), len(after)))
        return turns

    def _pieces(self, full: str, turns: list[_Turn]) -> list[list[int]]:
        cuts = [0, *(turn.start for turn in turns), len(full)]
        return [self.tokenizer.encode(full[start:stop]) for start, stop in pairwise(cuts)]

    def _turn_length(self, piece: list[int], turn: str) -> int:
        """How many ids at the beginning of ``piece`` are the turn up to its last stop token."""
        ids = self.tokenizer.encode(turn)
        stops = [index for index, number in enumerate(ids) if number in self.stop_ids]
        if not stops:
            raise _unstable("it does not end the assistant's turn with a token of its own")
        count = stops[-1] + 1
        if piece[:count] != ids[:count]:
            raise _unstable("the end of the assistant's turn merges with what follows it")
        return count


def _turn(role: str, content: str) -> dict[str, Any]:
    return {"role": role, "content": content}


def _as_given(tools: Any) -> bool:
    """Whether tools are in the shape that templates expect, and may go to them with all their fields."""
    return all(isinstance(tool, Mapping) and "function" in tool for tool in tools)


def _chosen(choice: Any) -> str:
    """``tool_choice`` of either protocol as one word."""
    if isinstance(choice, Mapping):
        function = choice.get("function", choice)
        name = function.get("name") if isinstance(function, Mapping) else None
        choice = name if name is not None else choice.get("type")
    if choice is None:
        return "auto"
    if not isinstance(choice, str) or not choice:
        raise _no_tool(choice)
    return choice


def _unread() -> FwError:
    return FwError(
        "unimplemented",
        "Calls of this model cannot be constrained: its response_template reads a form that no grammar is written for.",
        not_done="Nothing was generated.",
        hint='use tool_choice "auto" without strict tools',
        param="tool_choice",
    )


def _no_tool(choice: Any) -> FwError:
    return FwError(
        "invalid_argument",
        f"tool_choice {choice!r:.100} is not among the tools.",
        not_done="Nothing was generated.",
        hint='use "auto", "none", "required" or the name of one of the tools',
        param="tool_choice",
    )


def _unstable(reason: str) -> FwError:
    return FwError(
        "model_unsupported",
        f"This model's chat template cannot be trained on: {reason}.",
        not_done="Nothing was tokenised for training.",
        hint="use single-turn rows, or a model with a plain template such as ChatML",
    )
