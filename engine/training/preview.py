"""What a fine-tune would train on, token by token, before it runs."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Protocol

from engine.jobs.rows import Row
from engine.training.examples import TrainingRenderer, render_examples
from fw_sdk.types import TrainedToken

REPLACEMENT = "\ufffd"
MAX_PENDING = 4


class TextTokenizer(Protocol):
    """The part of ``engine.text``'s tokenizer that a preview needs."""

    def decode(self, ids: list[int], skip_special: bool = False) -> str:
        """The text of ``ids``."""


class PreviewRenderer(TrainingRenderer, Protocol):
    """A renderer and the tokenizer behind it."""

    @property
    def tokenizer(self) -> TextTokenizer:
        """Turns ids back to text."""


def preview(rows: Sequence[Row], renderer: PreviewRenderer, n: int) -> list[list[TrainedToken]]:
    """The first ``n`` rows as tokens with their text and whether the loss counts them.

    A character whose bytes are spread over several tokens is shown at the last of them; the others have empty text.
    """
    return [
        _with_text(list(zip(example.tokens, example.trained, strict=True)), renderer.tokenizer)
        for example in render_examples(islice(rows, n), renderer)
    ]


def _with_text(tokens: list[tuple[int, bool]], tokenizer: TextTokenizer) -> list[TrainedToken]:
    shown, pending = [], list[int]()
    for token, trained in tokens:
        pending.append(token)
        text = tokenizer.decode(pending, skip_special=False)
        if REPLACEMENT in text and len(pending) < MAX_PENDING:
            text = ""
        else:
            pending.clear()
        shown.append(TrainedToken(text=text, trained=trained))
    return shown
