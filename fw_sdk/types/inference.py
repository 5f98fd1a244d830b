"""What a model said, with how it ended."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Answer:
    """One answer of a model.

    Attributes:
        text: its content; empty if the model only called tools.
        finish_reason: ``stop``, ``length`` (cut at the token limit), ``tool_calls``; None if the server did not say.
        prompt_tokens, generated_tokens: what was read and written, 0 if the server did not say.
    """

    text: str
    finish_reason: str | None
    prompt_tokens: int = 0
    generated_tokens: int = 0

    @property
    def cut(self) -> bool:
        """Whether the token limit ended it, not the model."""
        return self.finish_reason == "length"
