"""Against float64."""

import pytest
import torch

from kernels.rms_norm import rms_norm
from kernels.rms_norm.reference import rms_norm_reference


@pytest.mark.parametrize("shape", [(1, 8), (3, 576), (7, 33), (2, 5, 64)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 2e-2)])
def test_equals_the_reference(shape, dtype, tolerance):
    torch.manual_seed(0)
    hidden, weight = torch.randn(shape).to(dtype), torch.randn(shape[-1]).to(dtype)
    expected = rms_norm_reference(hidden, weight, 1e-5)
    torch.testing.assert_close(rms_norm(hidden, weight, 1e-5).double(), expected, atol=tolerance, rtol=tolerance)


def test_gradient():
    torch.manual_seed(0)
    hidden = torch.randn(3, 9, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(9, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda value: rms_norm(value, weight, 1e-5), hidden)


def test_small_values_keep_their_size():
    """Epsilon is inside the root: a zero vector stays zero and a tiny one is not blown up."""
    weight = torch.ones(4)
    assert rms_norm(torch.zeros(1, 4), weight, 1e-5).abs().max() == 0
    assert rms_norm(torch.full((1, 4), 1e-6), weight, 1e-5).max() < 1e-3
