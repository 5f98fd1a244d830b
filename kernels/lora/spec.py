"""Contract of low-rank updates of many adapters in one batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from kernels.lora import cpu
from kernels.lora.reference import lora_reference
from kernels.lora.table import table_of
from kernels.registry import Implementation
from kernels.spec import Arguments, Case, Gate, Maker, Spec, Work

BF16, F32 = torch.bfloat16, torch.float32


def problem(
    tokens: int, width: int, widths: Sequence[int], ranks: Sequence[int], dtype: torch.dtype = BF16, work: bool = False
) -> Case:
    """Adapters of such ranks; in small problems one in three projections has none, and rows come in any order."""

    def make(maker: Maker) -> Arguments:
        slices = tuple(
            tuple(
                None
                if not work and (number + place) % 3 == 2
                else (
                    maker.normal(rank, width, dtype=dtype, scale=width**-0.5),
                    maker.normal(out, rank, dtype=dtype, scale=rank**-0.5),
                )
                for number, rank in enumerate(ranks)
            )
            for place, out in enumerate(widths)
        )
        return {
            "inputs": maker.normal(tokens, width, dtype=dtype),
            "outputs": maker.normal(tokens, sum(widths), dtype=dtype),
            "table": table_of(slices, [2.0 / (1 + number) for number in range(len(ranks))], widths, maker.device),
            "owners": maker.integers(-1, len(ranks), tokens),
        }

    used = ranks[: min(tokens, len(ranks))]
    weights = sum(rank * (width * len(widths) + sum(widths)) for rank in used)
    moved = dtype.itemsize * (weights + tokens * (width + 2 * sum(widths)))
    flops = 2 * tokens * max(ranks) * (width * len(widths) + sum(widths))
    name = f"{tokens}x{width}-{'+'.join(map(str, widths))}-r{min(ranks)}..{max(ranks)}x{len(ranks)}"
    return Case(f"{name}-{str(dtype).removeprefix('torch.')}", make, Work(moved, flops) if work else None)


SMALL = (
    (0, 32, (16,), (4,)),
    (1, 48, (40,), (16,)),
    (5, 100, (24, 8, 8), (3, 16, 5)),
    (19, 520, (130,), (72, 8)),
)

SPECS = (
    Spec(
        name="lora",
        operator="lora",
        summary="low-rank updates, each row by its own adapter, in place",
        gpu="kernels.lora.gpu:lora_",
        reference=lora_reference,
        plain=cpu.lora_,
        cases=tuple(
            problem(tokens, width, widths, ranks, dtype)
            for tokens, width, widths, ranks in SMALL
            for dtype in ((BF16, F32) if tokens < 19 else (BF16,))
        ),
        shapes=(
            problem(128, 4096, (4096, 1024, 1024), [16] * 16, work=True),
            problem(1, 4096, (14336, 14336), [64], work=True),
            problem(8192, 14336, (4096,), [16, 64], work=True),
        ),
        writes=("outputs",),
        gates=(
            Gate("lora_shrink", tensor_cores=("HGMMA", "HMMA")),
            Gate("lora_expand", tensor_cores=("HGMMA", "HMMA")),
        ),
    ),
)

IMPLEMENTATIONS = {
    "lora": (
        Implementation(
            "triton",
            "kernels.lora.gpu:lora_",
            frozenset({"cuda"}),
            frozenset({BF16, torch.float16, F32}),
            frozenset({"fast", "exact"}),
        ),
        Implementation("torch", "kernels.lora.cpu:lora_", numerics=frozenset({"fast", "exact"})),
    )
}
