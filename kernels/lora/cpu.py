"""Low-rank updates in torch's operators, on any device: adapter by adapter, each with its own rows."""

from __future__ import annotations

from itertools import accumulate

import torch
from torch import Tensor

from kernels.linear import linear
from kernels.lora.table import LoraTable, Pair, RowOwners
from kernels.numerics import exact


def update(pair: Pair, scale: float, inputs: Tensor, outputs: Tensor) -> Tensor:
    """inputs: [T, in], outputs: [T, out] -> [T, out]: the one formula, for training and serving alike."""
    down, up = pair
    added = linear(linear(inputs, down.to(inputs.dtype)), up.to(inputs.dtype))
    if exact():  # rounded in between, since what is fused behind a vector's last value differs
        return outputs + added * scale
    return torch.add(outputs, added, alpha=scale)


def lora_groups_(inputs: Tensor, outputs: Tensor, table: LoraTable, owners: RowOwners) -> None:
    """Add each row's update to ``outputs`` in place, one group of rows with one adapter after another."""
    for pairs, first, width in zip(table.pairs, accumulate(table.widths, initial=0), table.widths, strict=False):
        part = outputs[:, first : first + width]
        for number, rows in owners.groups:
            pair, scale = pairs[number], table.scales[number]
            if pair is None:
                continue
            if isinstance(rows, slice):
                part[rows] = update(pair, scale, inputs[rows], part[rows])
            else:
                chosen = update(pair, scale, inputs.index_select(0, rows), part.index_select(0, rows))
                part.index_copy_(0, rows, chosen)


def lora_(inputs: Tensor, outputs: Tensor, table: LoraTable, owners: Tensor) -> None:
    """Add each row's update to ``outputs`` in place; waits for the device to learn the rows' owners."""
    lora_groups_(inputs, outputs, table, RowOwners([(1, number) for number in owners.tolist()], inputs.device))
