"""From a step's logits to tokens: what is drawn for each sequence, and the log-probabilities of its prompt.

A row predicts the token at one position. Positions of known tokens are of a prompt whose log-probabilities are wanted;
at the others a token is drawn.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from collections.abc import Sequence as Items
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.inference.answer import Live
from engine.inference.request import TokenLogprob
from engine.inference.runner import Logits
from engine.inference.sampler import Drawn, draw, score
from engine.inference.scheduler import Row
from engine.inference.sequence import Sequence
from engine.inference.shaping import RowShape
from fw_sdk.types import FwError


@dataclass(slots=True)
class MaskCost:
    """What grammars cost so far: rows masked, and seconds spent on finding their masks."""

    rows: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Drawing:
    """What a step drew for one sequence.

    Attributes:
        sequence: whose.
        tokens: drawn, in order: the guesses that held, and one token more.
        logprobs: one per token, None where not asked for.
        error: why there is no token to use; None if there is.
        version: of the weights that they were drawn with; None for those of now.
    """

    sequence: Sequence
    tokens: list[int]
    logprobs: list[TokenLogprob | None]
    error: FwError | None = None
    version: int | None = None


class BrokenOutput(FwError):
    """The model's output is not finite: nothing in the request's pages can be trusted."""

    def __init__(self, request_id: str) -> None:
        super().__init__(
            "internal",
            f"the model's output for request '{request_id}' is not a finite number",
            not_done="the answer is incomplete",
            hint="check the weights of the model and of the adapter",
        )


@torch.inference_mode()
def draw_step(logits: Logits, live: Mapping[str, Live], cost: MaskCost) -> list[Drawing]:
    """Draw for every sequence that has a row at an unknown position; add to the scores of prompts.

    Args:
        logits: of the step; changed in no row.
        live: the requests by id.
        cost: grows by what the grammars took.
    """
    values: Tensor = logits.values
    rows: Items[Row] = logits.rows
    if any(item.scores is not None for item in live.values()):
        values, rows = _score_prompts(values, rows, live)
    if not rows:
        return []
    firsts = [place for place, row in enumerate(rows) if row.position == row.sequence.known]
    shapes, errors = _shapes(rows, firsts, live, cost)
    drawn = draw(values, [row.sequence.request.sampling for row in rows], [row.position for row in rows], shapes)
    found = []
    for first in firsts:
        sequence = rows[first].sequence
        last = first
        for guess in sequence.drafts:
            if drawn.tokens[last] != guess:
                break
            last += 1
        error = errors.get(sequence.id) or _broken(sequence, drawn.valid[first : last + 1], live[sequence.id].scores)
        own = slice(first, last + 1)
        found.append(Drawing(sequence, drawn.tokens[own], drawn.logprobs[own], error))
    return found


def drawings(rows: Items[Row], drawn: Drawn, versions: Mapping[str, int]) -> list[Drawing]:
    """One token for each row, of a sequence that needed nothing but its logits.

    Args:
        rows: one per sequence.
        drawn: their tokens, in the same order.
        versions: of the weights, by request.
    """
    return [
        Drawing(
            row.sequence,
            [drawn.tokens[place]],
            [drawn.logprobs[place]],
            None if drawn.valid[place] else BrokenOutput(row.sequence.id),
            versions[row.sequence.id],
        )
        for place, row in enumerate(rows)
    ]


def failure(request_id: str, error: Exception) -> FwError:
    """An error from a request's grammar as that request's own."""
    if isinstance(error, FwError):
        return error
    text = f"the grammar of request '{request_id}' failed: {type(error).__name__}: {error}"
    return FwError("internal", text, not_done="the answer is incomplete")


def _broken(sequence: Sequence, valid: Items[bool], scores: Items[TokenLogprob | None] | None) -> FwError | None:
    if all(valid) and not any(item is not None and math.isnan(item.logprob) for item in scores or ()):
        return None
    return BrokenOutput(sequence.id)


def _score_prompts(values: Tensor, rows: Items[Row], live: Mapping[str, Live]) -> tuple[Tensor, Items[Row]]:
    """Keep the log-probabilities of prompt tokens; returns the other rows."""
    scoring = [place for place, row in enumerate(rows) if row.position < row.sequence.known]
    if not scoring:
        return values, rows
    tokens = [int(rows[place].sequence.tokens[rows[place].position]) for place in scoring]
    counts = [rows[place].sequence.request.sampling.prompt_logprobs for place in scoring]
    found = score(values[torch.tensor(scoring, device=values.device)], tokens, counts)
    for place, item in zip(scoring, found, strict=True):
        scores = live[rows[place].sequence.id].scores
        assert scores is not None
        scores.append(item)
    others = sorted(set(range(len(rows))) - set(scoring))
    return values[torch.tensor(others, dtype=torch.int64, device=values.device)], [rows[place] for place in others]


def _shapes(
    rows: Items[Row], firsts: Items[int], live: Mapping[str, Live], cost: MaskCost
) -> tuple[dict[int, RowShape], dict[str, FwError]]:
    """What changes the logits, by row, and whose grammar failed, by request; ``firsts`` has each sequence's first."""
    shapes: dict[int, RowShape] = {}
    errors: dict[str, FwError] = {}
    for first in firsts:
        sequence = rows[first].sequence
        shaping = live[sequence.id].shaping
        if shaping is None:
            continue
        started = time.perf_counter()
        try:
            shapes.update(enumerate(shaping.rows(sequence.drafts), first))
        except Exception as error:  # noqa: BLE001  whatever a grammar does is its own request's affair
            errors[sequence.id] = failure(sequence.id, error)
        if shaping.matcher is not None:
            cost.rows += 1 + sequence.drafted
            cost.seconds += time.perf_counter() - started
    return shapes, errors
