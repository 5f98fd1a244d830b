"""A packed projection's values and gradients are those of the dequantised one, from several threads at once."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from kernels import native
from kernels.block_matmul import FLOAT, Matrix, PackedLinear, Rows

LIBRARY = native.library()
pytestmark = pytest.mark.skipif(LIBRARY is None, reason="no C compiler here")


def made(outputs=70, inputs=96):
    weight = np.random.default_rng(0).standard_normal((outputs, inputs)).astype(np.float32)
    bias = np.random.default_rng(1).standard_normal(outputs).astype(np.float32)
    forward = Matrix.pack(LIBRARY, [Rows(weight, FLOAT)], inputs, bias=bias, int15=True)
    held = np.stack([forward.row(LIBRARY, index) for index in range(outputs)])
    # The gradient's product runs over the outputs, which must be whole blocks too.
    padded = np.zeros((inputs, -(-outputs // 32) * 32), np.float32)
    padded[:, :outputs] = held.T
    return forward, padded, torch.from_numpy(held), torch.from_numpy(bias)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tokens", [1, 17, 200])
def test_values_and_gradients_are_the_dequantised_projection_s(dtype, tokens):
    forward, transposed, weight, bias = made(outputs=64)
    packed = PackedLinear(LIBRARY, forward, Matrix.pack(LIBRARY, [Rows(transposed, FLOAT)], 64, int15=True))
    x = torch.randn(tokens, 96).to(dtype).requires_grad_()
    y = packed(x)
    pull = torch.randn(tokens, 64).to(dtype)
    (gradient,) = torch.autograd.grad(y, x, pull)
    assert y.dtype is gradient.dtype is dtype
    rtol = 1e-2 if dtype is torch.bfloat16 else 1e-3
    wanted = x.detach().float() @ weight.T + bias
    torch.testing.assert_close(y.float(), wanted, atol=rtol * wanted.abs().max().item(), rtol=0)
    wanted = pull.float() @ weight
    torch.testing.assert_close(gradient.float(), wanted, atol=1e-2 * wanted.abs().max().item(), rtol=0)


def test_threads_do_not_disturb_one_another():
    forward, transposed, _, _ = made(outputs=64)
    packed = PackedLinear(LIBRARY, forward, Matrix.pack(LIBRARY, [Rows(transposed, FLOAT)], 64, int15=True))
    inputs = [torch.randn(3 + 11 * number, 96) for number in range(12)]
    wanted = [packed.forward(x) for x in inputs]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            for got, truth in zip(pool.map(packed.forward, inputs), wanted, strict=True):
                assert torch.equal(got, truth)
