"""What a step's attention needs to know, worked out once per step and used by every layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.exact_attention import Spans, plan_spans
from kernels.numerics import exact
from kernels.registry import select

SMALL_CONTEXT_PAGES = 16


@dataclass(frozen=True)
class DecodeGroup:
    """Sequences with one new token each whose contexts are of similar length, padded to the longest.

    Attributes:
        rows: [R] i64, their rows in the flat batch; None when they are exactly rows ``0..R-1`` of a batch of R rows.
        pages: [R * P] i64, the page of each block of each sequence; padding repeats page 0 of the table.
        contexts: [R] i32, tokens of each sequence, its new one included.
        mask: [R, 1, P * page_size] f32, 0 where a key is in the context, -inf where it is not.
    """

    rows: Tensor | None
    pages: Tensor
    contexts: Tensor
    mask: Tensor


@dataclass(frozen=True)
class PrefillChunk:
    """Consecutive new tokens of one sequence.

    Attributes:
        start: first row in the flat batch.
        length: number of rows.
        context: tokens in the sequence's cache once this chunk is written, the chunk included.
        pages: [P] i64, the pages that hold the context.
    """

    start: int
    length: int
    context: int
    pages: Tensor


@dataclass(frozen=True)
class PageTables:
    """A step as the GPU's kernels take it. The launches depend on nothing but shapes and the two numbers.

    So a recorded step is replayed for another by writing its tensors over: tables may be wider and sequences more than
    are used, if one without tokens has a context of 0 (and a row, whose result is zero, or none).

    Attributes:
        table: [S, P] i32, each sequence's pages in order; what stands behind its last is not read.
        contexts: [S] i32, tokens of each sequence, its new ones included.
        starts: [S + 1] i32, each sequence's first row in the flat batch, then the end of the last.
        shortest: new tokens of the sequence that has fewest.
        longest: new tokens of the sequence that has most.
    """

    table: Tensor
    contexts: Tensor
    starts: Tensor
    shortest: int
    longest: int


@dataclass(frozen=True)
class BatchPlan:
    """How the flat rows of a step map to sequences and pages.

    Attributes:
        tokens: rows in the flat batch.
        slots: [tokens] i64, where each row's key and value go: ``page * page_size + offset``; on a GPU a row with a
            negative one goes nowhere.
        positions: [tokens] i64, each row's position in its sequence.
        decode: groups of sequences with one new token.
        prefill: chunks of sequences with several.
        spans: the same for the exact kernel, which takes all rows alike; None if the plan is for fast numerics.
        tables: the same for the GPU's kernels, of either numerics; None if the plan is for others.
    """

    tokens: int
    slots: Tensor
    positions: Tensor
    decode: tuple[DecodeGroup, ...]
    prefill: tuple[PrefillChunk, ...]
    spans: Spans | None = None
    tables: PageTables | None = None


def new_pages(
    layers: int,
    page_count: int,
    page_size: int,
    kv_heads: int,
    head_dim: int,
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
) -> Tensor:
    """An empty cache [layers, 2, kv_heads, page_count, page_size, head_dim]; zeros, so that padding stays finite."""
    return torch.zeros((layers, 2, kv_heads, page_count, page_size, head_dim), dtype=dtype, device=device)


def plan_batch(
    query_lengths: Sequence[int],
    context_lengths: Sequence[int],
    page_tables: Sequence[Sequence[int]],
    page_size: int,
    device: torch.device | str = "cpu",
) -> BatchPlan:
    """Plan a step over sequences whose new tokens lie one after another in the flat batch, for the present numerics.

    Args:
        query_lengths: new tokens of each sequence, at least 1.
        context_lengths: tokens of each sequence once the new ones are written (cached before + new).
        page_tables: pages of each sequence, in order; at least ``ceil(context / page_size)`` each.
        page_size: tokens per page.
        device: where the cache is.
    """
    starts = [0]
    for length in query_lengths:
        starts.append(starts[-1] + length)
    slots, positions = _slots(query_lengths, context_lengths, page_tables, page_size)
    if _on_gpu(torch.device(device)):
        where = torch.device(device)
        tables = _page_tables(query_lengths, context_lengths, page_tables, starts, where)
        return BatchPlan(starts[-1], _moved(slots, where), _moved(positions, where), (), (), tables=tables)
    if exact():
        return BatchPlan(starts[-1], slots, positions, (), (), plan_spans(query_lengths, context_lengths, page_tables))
    single = [i for i, length in enumerate(query_lengths) if length == 1]
    prefill = tuple(
        PrefillChunk(starts[i], length, context, _table(page_tables[i], context, page_size).to(device))
        for i, (length, context) in enumerate(zip(query_lengths, context_lengths, strict=True))
        if length > 1
    )
    groups = _similar(single, context_lengths, page_size)
    whole = len(groups) == 1 and not prefill
    decode = tuple(
        _decode_group(
            None if whole else [starts[i] for i in group],
            [context_lengths[i] for i in group],
            [page_tables[i] for i in group],
            page_size,
            device,
        )
        for group in groups
    )
    return BatchPlan(starts[-1], slots.to(device), positions.to(device), decode, prefill)


def decodes_unseen(device: torch.device) -> bool:
    """Whether ``plan_decode`` serves the present numerics there: exact ones on a CPU need the plan on the host."""
    return not exact() or _on_gpu(device)


def plan_decode(table: Tensor, contexts: Tensor, slots: Tensor, page_size: int) -> BatchPlan:
    """Plan a step of sequences with one new token each from what is on the device, without a look at it.

    So it can be part of a recorded step: the same tensors with other contents give another plan of the same shape.

    Args:
        table: [sequences, P] i32, pages in the order of positions; behind a context any page with finite contents.
        contexts: [sequences] i32, tokens of each sequence, its new one included.
        slots: [sequences] i32, where each new key and value goes.
        page_size: tokens per page.
    """
    if _on_gpu(table.device):
        starts = torch.arange(len(contexts) + 1, dtype=torch.int32, device=table.device)
        tables = PageTables(table, contexts, starts, 1, 1)
        return BatchPlan(len(contexts), slots.long(), contexts.long() - 1, (), (), tables=tables)
    places = torch.arange(table.shape[1] * page_size, device=table.device)
    outside = places >= contexts.unsqueeze(1)
    mask = torch.zeros(outside.shape, device=table.device).masked_fill_(outside, float("-inf")).unsqueeze(1)
    group = DecodeGroup(None, table.flatten().long(), contexts, mask)
    return BatchPlan(len(contexts), slots.long(), contexts.long() - 1, (group,), ())


def _on_gpu(device: torch.device) -> bool:
    """Whether the GPU's kernels answer for that device at this moment."""
    try:
        select("paged_decode", {}, torch.bfloat16, device.type, "exact" if exact() else "fast")
    except LookupError:
        return False
    return True


def _page_tables(
    lengths: Sequence[int],
    contexts: Sequence[int],
    tables: Sequence[Sequence[int]],
    starts: Sequence[int],
    device: torch.device,
) -> PageTables:
    table = torch.zeros(len(tables), max(map(len, tables), default=0), dtype=torch.int32)
    for row, pages in enumerate(tables):
        table[row, : len(pages)] = torch.tensor(pages, dtype=torch.int32)
    counts, rows = (_moved(torch.tensor(values, dtype=torch.int32), device) for values in (contexts, starts))
    return PageTables(_moved(table, device), counts, rows, min(lengths, default=0), max(lengths, default=0))


def _moved(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on ``device``, without waiting for what runs there."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def _slots(
    query_lengths: Sequence[int], context_lengths: Sequence[int], page_tables: Sequence[Sequence[int]], page_size: int
) -> tuple[Tensor, Tensor]:
    slots: list[int] = []
    positions: list[int] = []
    for length, context, table in zip(query_lengths, context_lengths, page_tables, strict=True):
        for position in range(context - length, context):
            page, offset = divmod(position, page_size)
            slots.append(table[page] * page_size + offset)
            positions.append(position)
    return torch.tensor(slots, dtype=torch.int64), torch.tensor(positions, dtype=torch.int64)


def _table(table: Sequence[int], context: int, page_size: int) -> Tensor:
    return torch.tensor(table[: -(-context // page_size)], dtype=torch.int64)


def _similar(sequences: list[int], context_lengths: Sequence[int], page_size: int) -> list[list[int]]:
    """Group sequences so that padding at most doubles the work, in few groups: each halves the longest before it.

    The groups of equal shape keep the sequences' order.
    """
    remaining, groups = list(sequences), []
    while remaining:
        longest = max(context_lengths[i] for i in remaining)
        floor = 0 if longest <= SMALL_CONTEXT_PAGES * page_size else longest // 2
        groups.append([i for i in remaining if context_lengths[i] > floor])
        remaining = [i for i in remaining if context_lengths[i] <= floor]
    return groups


def _decode_group(
    rows: list[int] | None,
    contexts: list[int],
    tables: list[Sequence[int]],
    page_size: int,
    device: torch.device | str,
) -> DecodeGroup:
    width = -(-max(contexts) // page_size)
    pages: list[int] = []
    for context, table in zip(contexts, tables, strict=True):
        used = list(table[: -(-context // page_size)])
        pages += used + [used[0]] * (width - len(used))
    inside = torch.arange(width * page_size) < torch.tensor(contexts).unsqueeze(1)
    mask = torch.zeros(inside.shape).masked_fill_(~inside, float("-inf")).unsqueeze(1)
    return DecodeGroup(
        None if rows is None else torch.tensor(rows, device=device),
        torch.tensor(pages, device=device),
        torch.tensor(contexts, dtype=torch.int32, device=device),
        mask.to(device),
    )
