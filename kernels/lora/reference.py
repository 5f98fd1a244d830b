"""The truth, in float64."""

from __future__ import annotations

from torch import Tensor

from kernels.lora.table import LoraTable


def lora_reference(inputs: Tensor, outputs: Tensor, table: LoraTable, owners: Tensor) -> Tensor:
    """inputs: [T, in], outputs: [T, widths], owners: [T] -> [T, widths] float64, with each row's update added."""
    result = outputs.double().clone()
    for pairs, part in zip(table.pairs, result.split(table.widths, 1), strict=True):
        for number, (pair, scale) in enumerate(zip(pairs, table.scales, strict=True)):
            rows = owners == number
            if pair is not None:
                down, up = (weight.double() for weight in pair)
                part[rows] += scale * (inputs[rows].double() @ down.T) @ up.T
    return result
