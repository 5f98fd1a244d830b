"""Against float64."""

import pytest
import torch

from kernels.swiglu import swiglu
from kernels.swiglu.reference import swiglu_reference


@pytest.mark.parametrize("width", [1, 7, 1536])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 2e-2)])
def test_equals_the_reference(width, dtype, tolerance):
    torch.manual_seed(0)
    gate, up = (torch.randn(5, 2 * width) * 4).to(dtype).chunk(2, 1)
    expected = swiglu_reference(gate, up)
    torch.testing.assert_close(swiglu(gate, up).double(), expected, atol=tolerance, rtol=tolerance)


def test_gradient():
    torch.manual_seed(0)
    gate, up = (torch.randn(2, 5, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(swiglu, (gate, up))
