"""Rows as the trainer sees them: token ids, and which of them the loss counts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from engine.jobs.rows import Row
from fw_sdk.types import FwError

MAX_LINES_NAMED = 10
NOTHING_TRAINED = "Nothing was trained."


class TrainingRenderer(Protocol):
    """The part of ``engine.text``'s renderer that training needs."""

    def render_training(self, messages: list[dict[str, Any]], tools: Any = None) -> tuple[list[int], list[bool]]:
        """Token ids of a conversation and, for each, whether the loss counts it."""


@dataclass(frozen=True)
class Example:
    """One rendered row.

    Attributes:
        line: line of the dataset file, from 1.
        tokens: token ids.
        trained: for each token, whether the loss counts the model's prediction of it. The first token is never
            counted, since nothing comes before it.
    """

    line: int
    tokens: tuple[int, ...]
    trained: tuple[bool, ...]

    @property
    def trained_tokens(self) -> int:
        """How many tokens the loss counts."""
        return sum(self.trained)

    @property
    def first_trained(self) -> int:
        """Index of the first token that the loss counts; the number of tokens if none is."""
        return self.trained.index(True) if True in self.trained else len(self.tokens)


def render_examples(rows: Iterable[Row], renderer: TrainingRenderer) -> list[Example]:
    """Every row rendered; an error in one names its line."""
    return [_render(row, renderer) for row in rows]


def usable_examples(examples: Sequence[Example], max_tokens: int) -> list[Example]:
    """The examples that teach something, after refusing those that cannot be used whole.

    Args:
        examples: rendered rows.
        max_tokens: longest row that the model, or the request, allows.

    Raises:
        FwError: ``dataset_invalid`` if a row is too long (none is ever cut) or if no row has a trained token.
    """
    too_long = [example for example in examples if len(example.tokens) > max_tokens]
    if too_long:
        raise rows_too_long([(example.line, len(example.tokens)) for example in too_long], max_tokens)
    useful = [example for example in examples if example.trained_tokens]
    if not useful:
        raise FwError(
            "dataset_invalid",
            f"None of the {len(examples)} rows has a token to train on.",
            not_done=NOTHING_TRAINED,
            hint="each row needs an assistant message that is not empty; the dataset's preview shows what is trained",
        )
    return useful


def _render(row: Row, renderer: TrainingRenderer) -> Example:
    try:
        tokens, trained = renderer.render_training(row.messages, row.tools)
    except FwError as error:
        raise FwError(
            error.code,
            f"Line {row.line}: {error.message}",
            not_done=NOTHING_TRAINED,
            hint=error.hint,
            details={**error.details, "line": row.line},
        ) from error
    return Example(row.line, tuple(tokens), (False, *trained[1:]))


def rows_too_long(rows: Sequence[tuple[int, int]], max_tokens: int) -> FwError:
    """The error of rows, each with its line and its tokens, that have more than ``max_tokens``."""
    named = [f"line {line} ({tokens} tokens)" for line, tokens in rows[:MAX_LINES_NAMED]]
    more = len(rows) - len(named)
    return FwError(
        "dataset_invalid",
        f"Rows longer than {max_tokens} tokens: {', '.join(named)}{f' and {more} more' if more else ''}.",
        not_done=NOTHING_TRAINED,
        hint="shorten or remove these rows, or raise maxContextLength if the model's context allows it",
        details={"lines": [line for line, _ in rows], "maxTokens": max_tokens},
    )
