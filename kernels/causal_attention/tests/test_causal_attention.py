"""Against float64."""

import pytest
import torch

from kernels.attention_spec import AttentionSpec
from kernels.causal_attention import causal_attention
from kernels.causal_attention.cpu import BLOCK_QUERIES
from kernels.causal_attention.reference import causal_attention_reference

CASES = [
    ([1], 0, 4, 2, 8),
    ([5, 1, 17], 0, 6, 2, 16),
    ([3, 40, 9], 11, 3, 3, 6),
    ([BLOCK_QUERIES + 7, 2], 5, 2, 1, 4),
]
SPECIAL = [None, (1.0, 1, False), (0.5, 7, False), (0.3, None, True), (0.2, 20, True)]
"""Scale, window, and whether heads have sinks."""


def spec_of(special, heads):
    if special is None:
        return None
    scale, window, sinks = special
    return AttentionSpec(scale, window, torch.linspace(-1, 2, heads) if sinks else None)


def inputs(lengths, prefix, heads, kv_heads, width, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    tokens = prefix + sum(lengths)
    return [torch.randn(tokens, number, width, generator=generator).to(dtype) for number in (heads, kv_heads, kv_heads)]


@pytest.mark.parametrize(("lengths", "prefix", "heads", "kv_heads", "width"), CASES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 4e-2)])
@pytest.mark.parametrize("gradient", [False, True])
@pytest.mark.parametrize("special", SPECIAL)
def test_equals_the_reference(lengths, prefix, heads, kv_heads, width, dtype, tolerance, gradient, special):
    three, spec = inputs(lengths, prefix, heads, kv_heads, width, dtype), spec_of(special, heads)
    expected = causal_attention_reference(*three, lengths, prefix, spec)
    if gradient:
        three = [tensor.requires_grad_() for tensor in three]
    out = causal_attention(*three, lengths, prefix, spec)
    assert out.requires_grad == gradient
    torch.testing.assert_close(out.double(), expected, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize(("lengths", "prefix", "heads", "kv_heads", "width"), CASES)
@pytest.mark.parametrize("special", SPECIAL)
def test_gradients_equal_the_references(lengths, prefix, heads, kv_heads, width, special):
    spec = spec_of(special, heads)
    three = [tensor.requires_grad_() for tensor in inputs(lengths, prefix, heads, kv_heads, width)]
    weights = torch.randn(three[0].shape, generator=torch.Generator().manual_seed(1))
    found = torch.autograd.grad((causal_attention(*three, lengths, prefix, spec) * weights).sum(), three)
    exact = torch.autograd.grad((causal_attention_reference(*three, lengths, prefix, spec) * weights).sum(), three)
    for one, other in zip(found, exact, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_recomputed_weights_give_the_same_gradients(monkeypatch):
    """Beyond the memory bound the weights are computed again in backward, to the same bits."""
    import kernels.causal_attention.cpu as cpu

    three = [tensor.requires_grad_() for tensor in inputs([30, 12], 4, 4, 2, 8)]
    kept = torch.autograd.grad(causal_attention(*three, [30, 12], 4).square().sum(), three)
    monkeypatch.setattr(cpu, "KEPT_ELEMENTS", 0)
    again = torch.autograd.grad(causal_attention(*three, [30, 12], 4).square().sum(), three)
    assert all(torch.equal(one, other) for one, other in zip(kept, again, strict=True))


def test_the_future_and_the_neighbours_do_not_matter():
    three = inputs([4, 6], 0, 2, 2, 8)
    before = causal_attention(*three, [4, 6])
    for tensor in three:
        tensor[3] += 100
        tensor[9] -= 50
    after = causal_attention(*three, [4, 6])
    assert torch.equal(before[:3], after[:3])
    assert torch.equal(before[4:9], after[4:9])
