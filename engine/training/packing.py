"""Which rows go into which optimiser step, and how a step is cut into passes that share what they have in common."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from engine.training.examples import Example

PASS_TOKENS = 1024
MIN_PASS_TOKENS = 512
MIN_SHARED_PREFIX = 8


@dataclass(frozen=True)
class Step:
    """One optimiser step: the rows (indices) whose trained tokens its loss is the mean of."""

    epoch: int
    rows: tuple[int, ...]


def plan_steps(lengths: Sequence[int], *, batch_size: int, epochs: int, seed: int) -> list[Step]:
    """All steps of a run, decided by the arguments alone, so that a step's number is the whole data cursor.

    Args:
        lengths: tokens of each row.
        batch_size: tokens of one step. A row is never split; one that is longer makes a step of its own.
        epochs: times each row is seen.
        seed: decides the order of rows in each epoch.
    """
    return [
        Step(epoch, rows)
        for epoch in range(epochs)
        for rows in _fill(epoch_order(len(lengths), seed, epoch), lengths, batch_size)
    ]


def plan_lanes(threads: int, batch_size: int) -> int:
    """How many passes of a step run side by side on ``threads`` cores: as many as leave each enough to do."""
    return max(1, min(threads, batch_size // MIN_PASS_TOKENS))


def plan_passes(
    rows: Sequence[int], lengths: Sequence[int], *, lanes: int = 1, pass_tokens: int = PASS_TOKENS
) -> list[tuple[int, ...]]:
    """Cut one step's rows into forward and backward passes of equal work, which bounds memory.

    There are as many as ``pass_tokens`` asks for, rounded up so that all lanes have the same number; a pass exceeds its
    share by less than its longest row.
    """
    total = sum(lengths[row] for row in rows)
    count = -(-total // (pass_tokens * lanes)) * lanes
    passes: list[list[int]] = [[] for _ in range(count)]
    before = 0
    for row in rows:
        middle = before + lengths[row] / 2
        passes[int(middle * count / total)].append(row)
        before += lengths[row]
    return [tuple(chosen) for chosen in passes if chosen]


def epoch_order(rows: int, seed: int, epoch: int) -> list[int]:
    """A permutation of ``range(rows)`` that depends on (seed, epoch) and on no library's random generator."""
    return sorted(range(rows), key=lambda row: hashlib.sha256(f"{seed}:{epoch}:{row}".encode()).digest())


def shared_prefix(examples: Sequence[Example]) -> int:
    """How many tokens at the start of all ``examples`` are the same, so that one pass computes them only once.

    The prefix ends before the position that predicts the first trained token of any row: what a row's loss reads is
    the row's own. Causal attention gives the shared positions the same values in every row, so this is exact.
    """
    if len(examples) < 2:
        return 0
    limit = min(example.first_trained for example in examples) - 1
    first = examples[0].tokens
    for position in range(limit):
        if any(example.tokens[position] != first[position] for example in examples):
            limit = position
            break
    return limit if limit >= MIN_SHARED_PREFIX else 0


def _fill(rows: Sequence[int], lengths: Sequence[int], limit: int) -> list[tuple[int, ...]]:
    """Rows in their order, as many in each group as fit into ``limit`` tokens, at least one."""
    groups: list[tuple[int, ...]] = []
    group: list[int] = []
    size = 0
    for row in rows:
        if group and size + lengths[row] > limit:
            groups.append(tuple(group))
            group, size = [], 0
        group.append(row)
        size += lengths[row]
    return [*groups, tuple(group)] if group else groups
