"""Against float64."""

import pytest
import torch

from kernels import native
from kernels.numerics import numerics
from kernels.rms_norm import rms_norm
from kernels.rms_norm.exact import exact_rms_norm
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


@pytest.mark.skipif(native.library() is None, reason="no C compiler here")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("width", [1, 20, 48, 577])
@pytest.mark.parametrize("variant", [variant.name for variant in native.usable_variants()])
def test_under_exact_numerics_rows_do_not_know_each_other(dtype, width, variant):
    hidden, weight = torch.randn(30, width).to(dtype), torch.randn(width).to(dtype)
    whole = exact_rms_norm(hidden, weight, 1e-5, variant)
    truth = rms_norm_reference(hidden, weight, 1e-5)
    assert (whole.double() - truth).norm() <= (1e-6 if dtype is torch.float32 else 4e-3) * truth.norm()
    assert torch.equal(exact_rms_norm(hidden[7], weight, 1e-5, variant), whole[7])
    assert torch.equal(exact_rms_norm(torch.cat((hidden, hidden), 1)[5:9, width:], weight, 1e-5, variant), whole[5:9])
    with numerics("exact"):
        assert torch.equal(rms_norm(hidden, weight, 1e-5), exact_rms_norm(hidden, weight, 1e-5))
