"""What chat completions, responses and messages share: a conversation with tools, as a prompt and a grammar."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from engine.serving.answers import Answer
from engine.serving.protocol import wrong
from engine.text import GrammarSpec, Renderer

Message = dict[str, Any]


@dataclass(frozen=True)
class ToolUse:
    """The tools of a request.

    Attributes:
        tools: in the shape of any protocol.
        choice: auto, none, required, or a function's name.
        parallel: whether one answer may hold several calls.
    """

    tools: Sequence[Mapping[str, Any]] = ()
    choice: str = "auto"
    parallel: bool = True

    @property
    def offered(self) -> Sequence[Mapping[str, Any]]:
        """What the model is told of: nothing if it may not call anything."""
        return () if self.choice == "none" else self.tools


@dataclass(frozen=True)
class Talk:
    """A conversation to be answered.

    Args:
        renderer: of the model.
        messages: in OpenAI's shape.
        use: its tools.
        form: what the answer must look like if it is no call.
        think: false keeps a model that reasons before it answers from doing so.
        answer_prefix: how the answer starts; the model goes on with it.

    Raises:
        FwError: ``invalid_argument`` for tools that cannot be used, ``unimplemented`` for a Lark form beside tools.
    """

    renderer: Renderer
    messages: Sequence[Message]
    use: ToolUse
    form: GrammarSpec | None = None
    think: bool = True
    answer_prefix: str = ""

    def prompt(self) -> list[int]:
        """The token ids that the model goes on with."""
        ids = self.renderer.render(self.messages, tools=self.use.offered or None)
        return [*ids, *self.renderer.tokenizer.encode(self._silence + self.answer_prefix)]

    def grammar(self) -> GrammarSpec | None:
        """What the whole answer must be; None is anything."""
        use = self.use
        if use.choice not in ("auto", "none") and not use.tools:
            raise wrong("tool_choice", f"'tool_choice' is '{use.choice:.80}', but there are no tools")
        return self.renderer.tool_grammar(
            use.tools,
            use.choice,
            parallel=use.parallel,
            strict=not use.parallel,
            form=self.form,
            answer_prefix=self._silence + self.answer_prefix,
        )

    def answer(self) -> Answer:
        """An empty answer that will be read as this conversation needs it."""
        parser = self.renderer.output_parser(self.use.offered or None)
        if self._silence:
            parser.push(self._silence)
        return Answer(parser, self.renderer.tokenizer.encode)

    @property
    def _silence(self) -> str:
        """What closes the model's reasoning before it has begun.

        A form is for the answer, so a model whose template has opened its reasoning must not fill that with it.
        """
        opening, closing = self.renderer.family.reasoning
        opened = opening.strip() in self.renderer.prefill.rpartition(closing.strip())[2]
        if opened and (self.form is not None or not self.think):
            return closing
        if not self.think and closing.strip() in (self.renderer.tokenizer.chat_template or ""):
            return opening + closing
        return ""


def function_choice(value: Any, words: Mapping[str, str]) -> str:
    """``tool_choice`` of any protocol as one word: auto, none, required, or a function's name.

    Args:
        value: what the request says; None is auto.
        words: the protocol's words, with ours.
    """
    if value is None:
        return "auto"
    kind = value.get("type") if isinstance(value, Mapping) else value
    if isinstance(value, Mapping) and kind in ("function", "tool"):
        function = value.get("function", value)
        name = function.get("name") if isinstance(function, Mapping) else None
        if isinstance(name, str) and name:
            return name
    elif isinstance(kind, str) and kind in words:
        return words[kind]
    raise wrong("tool_choice", f"'tool_choice' must be {', '.join(words)} or name a function, got {value!r:.80}")


def tool_call(identifier: str, name: str, arguments: str) -> Message:
    """A call in OpenAI's shape, which templates read."""
    return {"id": identifier, "type": "function", "function": {"name": name, "arguments": arguments}}
