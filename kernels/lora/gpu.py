"""Launches the Triton kernels of low-rank updates: two launches, whatever the number of adapters and projections.

Under exact numerics tiles and pieces of K do not depend on the batch, so a row's bits depend on that row alone.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.arguments import ArgumentError, require, within
from kernels.lora.kernel import lora_expand, lora_shrink
from kernels.lora.table import LoraTable
from kernels.numerics import exact
from kernels.tuned import tuned

DTYPES = (torch.bfloat16, torch.float16, torch.float32)
MAX_RANK = 1024


def lora_(inputs: Tensor, outputs: Tensor, table: LoraTable, owners: Tensor) -> None:
    """Add each row's update to ``outputs`` in place; rows of no adapter are not touched.

    Args:
        inputs: [T, in] bf16, f16 or f32.
        outputs: [T, sum of the table's widths] of the same dtype.
        table: with weights of the same dtype.
        owners: [T] i32, the adapter of each row, -1 for none; numbers beyond the table's are not looked for.

    Raises:
        ArgumentError: naming the argument that does not fit.
    """
    tokens, width = inputs.shape if inputs.dim() == 2 else (None, None)
    require("inputs", inputs, dtypes=DTYPES, shape=(None, None))
    require("outputs", outputs, dtypes=(inputs.dtype,), shape=(tokens, sum(table.widths)), beside=inputs)
    require("owners", owners, dtypes=(torch.int32,), shape=(tokens,), beside=inputs, contiguous=True)
    within("table's ranks", table.max_rank, 0, MAX_RANK)
    for dtype, columns in table.kinds:
        if (dtype, columns) != (inputs.dtype, width):
            have, want = f"{columns} columns of A in {dtype}", f"{width} in {inputs.dtype}, as the inputs"
            raise ArgumentError("table", f"has {have}; accepted: {want}")
    entries, factors = table.on_device
    require("table", entries, dtypes=(torch.int64,), shape=(len(table.widths), None), beside=inputs)
    if tokens and table.max_rank:
        _launch(inputs, outputs, table, owners, entries, factors)


def _launch(
    inputs: Tensor, outputs: Tensor, table: LoraTable, owners: Tensor, entries: Tensor, factors: Tensor
) -> None:
    (tokens, width), projections, adapters = inputs.shape, len(table.widths), len(table.scales)
    facts = {"tokens": 0 if exact() else tokens, "bytes": inputs.element_size()}
    down = dict(tuned("lora", "lora_shrink", **facts))
    up = dict(tuned("lora", "lora_expand", **facts))
    # Exact: tiles as wide as if the largest rank were in the batch, so that others' ranks choose nothing.
    ranks = max(down["BLOCK_R"] if exact() else 16, 1 << (table.max_rank - 1).bit_length())
    down["BLOCK_R"], up["BLOCK_R"] = min(down["BLOCK_R"], ranks), min(up["BLOCK_R"], ranks)
    split = down.pop("SPLIT")
    parts = -(-width // split)
    partials = torch.empty((parts, projections, tokens, ranks), dtype=torch.float32, device=inputs.device)
    blocks = -(-tokens // down["BLOCK_M"]) * down["SLOTS"]
    lora_shrink[(blocks, parts, projections * (ranks // down["BLOCK_R"]))](
        inputs, owners, entries, partials, tokens, width, adapters, inputs.stride(0), split,
        RANKS=ranks, **down,
    )  # fmt: skip
    blocks = -(-tokens // up["BLOCK_M"]) * up["SLOTS"]
    lora_expand[(blocks, -(-max(table.widths) // up["BLOCK_N"]), projections)](
        partials, owners, entries, factors, outputs, tokens, adapters, outputs.stride(0),
        parts, RANKS=ranks, UNIT=table.unit, **up,
    )  # fmt: skip
