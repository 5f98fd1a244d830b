"""The truth, in float64."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kernels.attention_spec import AttentionSpec


def exact_attention_reference(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    lengths: Sequence[int],
    contexts: Sequence[int],
    tables: Sequence[Sequence[int]],
    spec: AttentionSpec,
) -> Tensor:
    """Arguments as for ``exact_attention`` and ``plan_spans`` -> [T, heads, head_dim] float64."""
    heads, size = query.shape[1], keys.shape[2]
    group = heads // keys.shape[0]
    rows: list[Tensor] = []
    for length, context, table in zip(lengths, contexts, tables, strict=True):
        for position in range(context - length, context):
            seen = range(spec.first_seen(position), position + 1)
            held = [(table[p // size], p % size) for p in seen]
            key, value = (
                torch.stack([pages[:, page, place] for page, place in held], 1).double().repeat_interleave(group, 0)
                for pages in (keys, values)
            )
            scores = torch.einsum("hkd,hd->hk", key, query[len(rows)].double()) * spec.scale
            beside = torch.full((heads, 1), -torch.inf) if spec.sinks is None else spec.sinks[:, None]
            weights = torch.softmax(torch.cat((scores, beside.double()), 1), 1)[:, :-1]
            rows.append(torch.einsum("hk,hkd->hd", weights, value))
    return torch.stack(rows)
