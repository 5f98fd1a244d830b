"""Contract of drawing tokens."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.registry import Implementation
from kernels.sampling import cpu
from kernels.sampling.reference import sample_reference
from kernels.spec import Arguments, Case, Gate, Maker, Spec, Work

#: Temperature, top-k, top-p, min-p of the rows, in turn.
WAYS = (
    (0.0, 0, 1.0, 0.0),
    (1.0, 0, 1.0, 0.0),
    (0.8, 20, 1.0, 0.0),
    (1.0, 0, 0.9, 0.0),
    (1.3, 50, 0.8, 0.02),
    (0.7, 0, 1.0, 0.05),
    (1.0, 1, 0.5, 0.0),
    (2.0, 0, 0.95, 0.1),
)


def problem(
    rows: int, vocabulary: int, scale: float = 3.0, dtype: torch.dtype = torch.float32, work: bool = False
) -> Case:
    """Rows that are shaped in the ways of ``WAYS``, with other seeds and positions."""

    def make(maker: Maker) -> Arguments:
        ways = [WAYS[row % len(WAYS)] for row in range(rows)]
        temperatures, top_ks, top_ps, min_ps = zip(*ways, strict=True) if ways else ((),) * 4
        return {
            "logits": maker.normal(rows, vocabulary, dtype=dtype, scale=scale),
            "temperatures": maker.tensor(temperatures, dtype=torch.float32),
            "top_ks": maker.tensor(top_ks),
            "top_ps": maker.tensor(top_ps, dtype=torch.float64),
            "min_ps": maker.tensor(min_ps, dtype=torch.float32),
            "seeds": maker.integers(-(2**40), 2**40, rows, dtype=torch.int64),
            "positions": maker.integers(0, 2**36, rows, dtype=torch.int64),
        }

    moved = Work(rows * vocabulary * dtype.itemsize, exponentials=2 * rows * vocabulary) if work else None
    return Case(f"{rows}x{vocabulary}-{str(dtype).removeprefix('torch.')}", make, moved)


def _by_sort(logits: Tensor, temperatures: Tensor, top_ps: Tensor, **others: Tensor) -> Tensor:
    """What serving engines do without a kernel: softmax, sort, cut by top-p, multinomial."""
    shares = torch.softmax(logits / temperatures.clamp_min(1e-5).unsqueeze(1), -1)
    values, ids = shares.sort(dim=-1, descending=True)
    kept = values * (values.cumsum(-1) - values < top_ps.float().unsqueeze(1))
    return ids.gather(1, torch.multinomial(kept, 1)).squeeze(1)


SPECS = (
    Spec(
        name="sample",
        operator="sampling",
        summary="the next token of every row, with its log-probabilities",
        gpu="kernels.sampling.gpu:sample",
        reference=sample_reference,
        plain=cpu.sample,
        cases=(
            problem(0, 7),
            problem(1, 1),
            problem(8, 50),
            problem(8, 4999),
            problem(3, 300, dtype=torch.bfloat16),
        ),
        shapes=tuple(problem(rows, 128256, work=True) for rows in (1, 128)),
        gates=(
            Gate("sample_statistics"),
            Gate("sample_levels", wide_loads=False),
            Gate("sample_candidates"),
            Gate("sample_choose", wide_loads=False),
        ),
        peers={"sort": _by_sort},
    ),
)

IMPLEMENTATIONS = {
    "sample": (
        Implementation(
            "triton",
            "kernels.sampling.gpu:sample",
            frozenset({"cuda"}),
            frozenset({torch.float32, torch.bfloat16, torch.float16}),
            frozenset({"fast", "exact"}),
        ),
        Implementation("torch", "kernels.sampling.cpu:sample", numerics=frozenset({"fast", "exact"})),
    )
}
