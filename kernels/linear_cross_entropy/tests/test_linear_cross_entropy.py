"""Against float64."""

import pytest
import torch

import kernels.linear_cross_entropy.cpu as cpu
from kernels.linear_cross_entropy import linear_cross_entropy
from kernels.linear_cross_entropy.reference import linear_cross_entropy_reference


def case(rows, width, vocab, dtype=torch.float32):
    generator = torch.Generator().manual_seed(rows)
    hidden = torch.randn(rows, width, generator=generator).to(dtype)
    weight = torch.randn(vocab, width, generator=generator).to(dtype)
    return hidden, weight, torch.randint(0, vocab, (rows,), generator=generator)


@pytest.mark.parametrize(("rows", "width", "vocab"), [(1, 3, 2), (7, 16, 101), (40, 33, 1000)])
@pytest.mark.parametrize("chunk_logits", [2**24, 3000, 1])
def test_losses_and_gradients_equal_the_reference(rows, width, vocab, chunk_logits, monkeypatch):
    monkeypatch.setattr(cpu, "CHUNK_LOGITS", chunk_logits)
    hidden, weight, targets = case(rows, width, vocab)
    hidden.requires_grad_()
    per_row = torch.linspace(-1, 2, rows)
    losses = linear_cross_entropy(hidden, weight, targets)
    exact, _ = linear_cross_entropy_reference(hidden, weight, targets)
    assert losses.dtype is torch.float32
    torch.testing.assert_close(losses.double(), exact, atol=1e-4, rtol=1e-5)
    (found,) = torch.autograd.grad((losses * per_row).sum(), hidden)
    (truth,) = torch.autograd.grad((exact * per_row).sum(), hidden)
    torch.testing.assert_close(found, truth, atol=1e-4, rtol=1e-4)


def test_bfloat16_stays_close():
    hidden, weight, targets = case(20, 64, 500, torch.bfloat16)
    exact, _ = linear_cross_entropy_reference(hidden, weight, targets)
    torch.testing.assert_close(linear_cross_entropy(hidden, weight, targets).double(), exact, atol=0.1, rtol=2e-2)


def test_the_head_gets_no_gradient():
    hidden, weight, targets = case(4, 8, 20)
    linear_cross_entropy(hidden.requires_grad_(), weight.requires_grad_(), targets).sum().backward()
    assert hidden.grad is not None
    assert weight.grad is None


def test_no_rows():
    hidden, weight, targets = case(0, 8, 20)
    losses = linear_cross_entropy(hidden.requires_grad_(), weight, targets)
    assert losses.shape == (0,)
    losses.sum().backward()
    assert hidden.grad.shape == (0, 8)


def test_large_logits_stay_finite():
    hidden, weight, targets = case(3, 8, 20)
    hidden = (hidden * 1e4).requires_grad_()
    losses = linear_cross_entropy(hidden, weight, targets)
    losses.sum().backward()
    assert losses.isfinite().all()
    assert hidden.grad.isfinite().all()
