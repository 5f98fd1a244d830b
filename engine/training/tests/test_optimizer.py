"""The optimizer over one flat vector: torch's own AdamW, by either implementation, left and continued."""

import pytest
import torch

from engine.training.optimizer import FlatAdamW
from kernels.registry import preferring

RATES = [0.02, 0.01, 0.005, 0.0025]


@pytest.mark.parametrize("backend", ["triton", "torch"])
def test_steps_are_torch_s_and_go_on_from_what_is_kept_with_the_same_bits(backend, device):
    generator = torch.Generator().manual_seed(2)
    start, *slopes = (torch.randn(1100, generator=generator).to(device) for _ in (0, *RATES))
    peer = torch.nn.Parameter(start.clone())
    theirs = torch.optim.AdamW([peer], RATES[0], weight_decay=0.2)
    ours, weights = FlatAdamW(start, weight_decay=0.2), start.clone()
    later, copied = FlatAdamW(start, weight_decay=0.2), start.clone()
    with preferring(backend):
        for number, (slope, rate) in enumerate(zip(slopes, RATES, strict=True)):
            peer.grad, theirs.param_groups[0]["lr"] = slope.clone(), rate
            theirs.step()
            if number == 2:
                copied, later.steps = weights.clone(), ours.steps
                later.first.copy_(ours.first)
                later.second.copy_(ours.second)
            ours.step(weights, slope, rate)
            if number >= 2:
                later.step(copied, slope, rate)
    torch.testing.assert_close(weights, peer.detach(), rtol=1e-6, atol=1e-6)
    assert not torch.equal(weights, start)
    for one, other in ((copied, weights), (later.first, ours.first), (later.second, ours.second)):
        assert torch.equal(one, other)
