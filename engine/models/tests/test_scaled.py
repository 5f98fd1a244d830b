"""fp8 and MXFP4 against transformers' dequantisation and against the formats' definitions."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.models.scaled import fp8_to_float, mxfp4_to_float


def e4m3(byte):
    """A number of OCP's FP8 E4M3 by its definition, in float64."""
    sign, exponent, fraction = -1.0 if byte >> 7 else 1.0, byte >> 3 & 15, byte & 7
    if exponent == 15 and fraction == 7:
        return float("nan")
    return sign * (fraction / 8 * 2.0**-6 if exponent == 0 else (1 + fraction / 8) * 2.0 ** (exponent - 7))


def fp8(shape, seed):
    generator = torch.Generator().manual_seed(seed)
    data = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    data[(data & 127) == 127] = 0  # not a number
    return data.view(torch.float8_e4m3fn)


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 70),
    columns=st.integers(1, 70),
    block=st.tuples(st.sampled_from([1, 16, 32]), st.sampled_from([16, 32])),
    leading=st.sampled_from([(), (3,)]),
    form=st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_blocks_equal_the_definition(rows, columns, block, leading, form):
    weight = fp8((*leading, rows, columns), rows * 71 + columns)
    grid = (*leading, -(-rows // block[0]), -(-columns // block[1]))
    scale = (torch.rand(grid) * 0.1 + 0.01).to(form)
    numbers = np.array([e4m3(int(byte)) for byte in weight.view(torch.uint8).flatten()]).reshape(weight.shape)
    full = scale.double().numpy().repeat(block[0], -2).repeat(block[1], -1)[..., :rows, :columns]
    found = fp8_to_float(weight, scale, block)
    np.testing.assert_allclose(found.numpy(), numbers * full, rtol=2e-7)
    assert found.shape == weight.shape and found.dtype is torch.float32


def test_blocks_equal_transformers():
    from transformers.integrations.finegrained_fp8 import Fp8Dequantize

    peer = Fp8Dequantize(None)
    for grid in ((4, 3), (2, 6), (1, 1)):
        weight, scale = fp8((64, 96), 5), torch.rand(grid)
        expected = peer._dequantize_one(weight, scale)
        torch.testing.assert_close(fp8_to_float(weight, scale, None), expected, rtol=0, atol=0)
    weight, powers = fp8((64, 96), 6), torch.randint(110, 130, (4, 3), dtype=torch.uint8)
    expected = peer._dequantize_one(weight, powers, torch.float32)
    torch.testing.assert_close(fp8_to_float(weight, powers, (16, 32)), expected, rtol=0, atol=0)
    torch.testing.assert_close(fp8_to_float(weight, powers.view(torch.float8_e8m0fnu), None), expected, rtol=0, atol=0)


@pytest.mark.parametrize("shape", [(), (1,), (1, 1), (8,), (8, 1)])
def test_one_scale_for_a_tensor_or_a_row(shape):
    weight, scale = fp8((8, 8), 1), torch.rand(shape) + 0.5
    expected = weight.float() * (scale.reshape(-1, 1) if scale.numel() == 8 else scale.reshape(()))
    torch.testing.assert_close(fp8_to_float(weight, scale, None), expected, rtol=0, atol=0)


@pytest.mark.parametrize("shape", [(7,), (3, 2), (2, 8, 1)])
def test_scales_that_do_not_fit(shape):
    with pytest.raises(ValueError, match="scales"):
        fp8_to_float(fp8((8, 64), 1), torch.rand(shape), (4, 16))


def test_mxfp4_equals_transformers():
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    generator = torch.Generator().manual_seed(3)
    blocks = torch.randint(0, 256, (3, 10, 2, 16), generator=generator, dtype=torch.uint8)
    scales = torch.randint(100, 140, (3, 10, 2), generator=generator, dtype=torch.uint8)
    expected = convert_moe_packed_tensors(blocks, scales)
    found = mxfp4_to_float(blocks, scales).transpose(-1, -2)
    assert found.dtype is torch.bfloat16
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    with pytest.raises(ValueError, match="scales"):
        mxfp4_to_float(blocks, scales[:, :, :1])
