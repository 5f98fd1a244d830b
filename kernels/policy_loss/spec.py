"""Contract of the policy loss."""

from __future__ import annotations

import torch

from kernels.linear_cross_entropy.spec import BF16, F32, TENSOR_CORES
from kernels.linear_cross_entropy.spec import problem as head_problem
from kernels.policy_loss import cpu
from kernels.policy_loss.reference import policy_loss_reference
from kernels.registry import Implementation
from kernels.spec import Arguments, Case, Gate, Maker, Spec


def problem(
    rows: int, width: int, vocabulary: int, dtype: torch.dtype = BF16, reference: bool = True, products: int = 0
) -> Case:
    """Ratios around 1, so that some are clipped on either side; some rows do not count."""
    head = head_problem(rows, width, vocabulary, dtype, products=products)

    def make(maker: Maker) -> Arguments:
        arguments = head.make(maker)
        near = -float(torch.tensor(float(vocabulary)).log()) - 1.5
        return {
            **arguments,
            "old": near + maker.normal(rows, dtype=F32),
            "advantages": maker.normal(rows, dtype=F32),
            "weights": maker.normal(rows, dtype=F32).abs(),
            "reference": near + maker.normal(rows, dtype=F32) if reference else None,
            "clip_low": 0.2,
            "clip_high": 0.28,
            "kl": 0.05,
        }

    return Case(f"{head.name}{'' if reference else '-alone'}", make, head.work)


SPECS = (
    Spec(
        name="policy_loss",
        operator="policy_loss",
        summary="clipped policy loss with a KL term, from the head's input to its gradient",
        gpu="kernels.policy_loss.gpu:policy_loss",
        reference=policy_loss_reference,
        plain=cpu.policy_loss,
        cases=(
            problem(0, 16, 40),
            problem(1, 24, 90, F32),
            problem(33, 40, 100, F32),
            problem(40, 40, 257, reference=False),
        ),
        shapes=(problem(1024, 4096, 128256, products=2),),
        gates=(
            Gate("head_tiles", tensor_cores=TENSOR_CORES),
            Gate("head_losses", wide_loads=False),
            Gate("policy_terms", wide_loads=False),
            Gate("head_logit_gradient"),
            Gate("head_hidden_gradient", tensor_cores=TENSOR_CORES),
        ),
        tolerance={BF16: 1e-2},
    ),
)

IMPLEMENTATIONS = {
    "policy_loss": (
        Implementation(
            "triton",
            "kernels.policy_loss.gpu:policy_loss",
            frozenset({"cuda"}),
            frozenset({BF16, torch.float16, F32}),
        ),
        Implementation("torch", "kernels.policy_loss.cpu:policy_loss", numerics=frozenset({"fast", "exact"})),
    )
}
