"""One pass's rows as flat tensors: a shared prefix, if there is one, and behind it each row's own tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.training.examples import Example
from engine.training.packing import shared_prefix
from kernels.attention_spec import AttentionSpec
from kernels.causal_attention import causal_attention
from kernels.rope import Turns, apply_rope


@dataclass(frozen=True)
class PackedRows:
    """Rows without padding.

    Attributes:
        token_ids: [T] i64.
        positions: [T] i64, each token's position in its row.
        prefix: how many tokens at the start belong to every row.
        lengths: tokens of each row behind the prefix; with the prefix they sum to T.
        predictors: [N] i64, where in the batch the prediction of each trained token is made.
        targets: [N] i64, the trained tokens.
    """

    token_ids: Tensor
    positions: Tensor
    prefix: int
    lengths: tuple[int, ...]
    predictors: Tensor
    targets: Tensor

    def attention(
        self, _layer: int, query: Tensor, key: Tensor, value: Tensor, *, turns: Turns, spec: AttentionSpec
    ) -> Tensor:
        """Causal attention within each row; implements ``engine.models.Attention``."""
        query, key = (apply_rope(heads, *turns) for heads in (query, key))
        return causal_attention(query, key, value, self.lengths, self.prefix, spec)


def pack(examples: Sequence[Example], device: torch.device | str = "cpu") -> PackedRows:
    """Lay the rows out one behind another, with their common prefix once."""
    prefix = shared_prefix(examples)
    tokens, positions = list(examples[0].tokens[:prefix]), list(range(prefix))
    predictors, targets = list[int](), list[int]()
    for example in examples:
        offset = len(tokens) - prefix
        tokens += example.tokens[prefix:]
        positions += range(prefix, len(example.tokens))
        wanted = [place for place, trained in enumerate(example.trained) if trained]
        predictors += [offset + place - 1 for place in wanted]
        targets += [example.tokens[place] for place in wanted]
    numbers = (
        torch.tensor(values, dtype=torch.int64, device=device) for values in (tokens, positions, predictors, targets)
    )
    token_ids, places, predictor_rows, target_ids = numbers
    lengths = tuple(len(example.tokens) - prefix for example in examples)
    return PackedRows(token_ids, places, prefix, lengths, predictor_rows, target_ids)
