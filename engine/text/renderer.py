"""Messages to token ids, the same for sampling and for training.

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
from typing import Any

from engine.text.template import ChatTemplate
from engine.text.tokenizer import Tokenizer
from fw_sdk.types import FwError

Message = Mapping[str, Any]


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
        return self._template.render(_plain(messages), add_generation_prompt=add_generation_prompt, tools=tools)

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

    def render_training(self, messages: Sequence[Message]) -> tuple[list[int], list[bool]]:
        """The ids of a whole conversation and which of them are trained.

        Trained are the content of each assistant message that answers something, and the token that ends its turn.
        The ids equal ``render(messages, add_generation_prompt=False)``, and up to each trained span
        ``render(messages before it)``.

        Raises:
            FwError: ``model_unsupported`` if the template renders a conversation differently once it goes on, or does
                not end the assistant's turn with a special token; ``invalid_argument`` if it refuses the messages.
        """
        full = self.text(messages, add_generation_prompt=False)
        turns = self._turns(full, messages, None)
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
            probe = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
            try:
                before = self.text(probe[:1])
                whole = self.text(probe, add_generation_prompt=False)
            except FwError:
                return tuple(found)
            if whole.startswith(before):
                rest = self.tokenizer.encode(whole[len(before) :])
                found += [number for number in rest if number in self.tokenizer.special_ids][:1]
        return tuple(dict.fromkeys(found))

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


def _plain(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Messages as the template wants them: text parts joined into one string."""
    plain = []
    for number, message in enumerate(messages):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise _wrong(f"Message {number} has no role.")
        content = message.get("content")
        if isinstance(content, list):
            if not all(isinstance(part, Mapping) and isinstance(part.get("text"), str) for part in content):
                raise _wrong(f"Message {number} has a part that is not text.")
            content = "".join(part["text"] for part in content)
        plain.append({**message, "content": content} if "content" in message else dict(message))
    return plain


def _wrong(reason: str) -> FwError:
    return FwError(
        "invalid_argument",
        reason,
        not_done="Nothing was rendered.",
        hint='a message is {"role": "user", "content": "…"}',
        param="messages",
    )


def _unstable(reason: str) -> FwError:
    return FwError(
        "model_unsupported",
        f"This model's chat template cannot be trained on: {reason}.",
        not_done="Nothing was tokenised for training.",
        hint="use single-turn rows, or a model with a plain template such as ChatML",
    )
