"""Packing loses nothing: what is held are the nearest numbers of the format, GGUF's bit for bit."""

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, quants
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.quantized_linear import held
from kernels.quantized_linear.spec import HOLD

ERRORS = {"int8": 9e-3, "int4": 0.13, "nvfp4": 0.1, "fp8": 3e-2}


@settings(max_examples=40, deadline=None)
@given(
    outputs=st.integers(1, 9),
    groups=st.integers(1, 9),
    group=st.sampled_from(held.GROUPS),
    seed=st.integers(0, 99),
)
def test_integers_come_back_as_they_were_packed(outputs, groups, group, seed):
    generator = torch.Generator().manual_seed(seed)
    shape = (outputs, groups * group)
    scales, minima = (torch.randn(outputs, groups, generator=generator).half() for _ in range(2))
    bytes_ = torch.randint(-128, 128, shape, generator=generator).to(torch.int8)
    nibbles = torch.randint(0, 16, shape, generator=generator).to(torch.uint8)

    def scaled(numbers):
        return numbers.double().unflatten(1, (-1, group)) * scales.double()[..., None]

    low, picked = minima.double()[..., None], torch.arange(outputs - 1, -1, -1)
    for matrix, expected in (
        (held.pack_int8(bytes_, scales, group), scaled(bytes_)),
        (held.pack_int4(nibbles, scales, group), scaled(nibbles.int() - 8)),
        (held.pack_int4(nibbles, scales, group, minima), scaled(nibbles) + low),
    ):
        assert torch.equal(matrix.dense(torch.float64), expected.flatten(1))
        assert torch.equal(matrix.rows(picked).dense(torch.float64), expected.flatten(1)[picked])
    whole = held.pack_int8(bytes_, torch.rand(outputs), 0)
    assert torch.equal(whole.rows(picked).dense(), whole.dense()[picked])


def test_every_code_of_nvfp4_is_its_number():
    codes = torch.arange(16, dtype=torch.uint8).repeat(3, 5)
    scales = torch.tensor([1.0, 1.5, 448, 2**-6, 0]).to(torch.float8_e4m3fn).repeat(3, 1)
    matrix = held.pack_nvfp4(codes, scales, torch.tensor([0.5]))
    numbers = torch.tensor([*held.E2M1, *(-one for one in held.E2M1)], dtype=torch.float64)
    expected = (scales.double()[..., None] * numbers).flatten(1) * 0.5
    assert torch.equal(matrix.dense(torch.float64), expected)


@pytest.mark.parametrize("kind", HOLD)
def test_what_is_held_is_near(kind):
    weight = torch.randn(30, 384, generator=torch.Generator().manual_seed(1))
    weight[3] = 0
    matrix = HOLD[kind](weight)
    error = (matrix.dense() - weight).norm() / weight.norm()
    assert error < next(most for name, most in ERRORS.items() if kind.startswith(name))
    assert (matrix.dense()[3] == 0).all()
    assert matrix.nbytes < weight.nbytes / (3.5 if matrix.kind in ("int8", "e4m3") else 6)
    rows = torch.tensor([5, 0, 5])
    assert torch.equal(matrix.rows(rows).dense(), matrix.dense()[rows])


@pytest.mark.parametrize("kind", ["q4_0", "q4_1", "q8_0"])
def test_gguf_s_blocks_are_held_without_a_rounding(kind):
    weight = np.random.default_rng(0).standard_normal((6, 160)).astype(np.float32)
    number = GGMLQuantizationType[kind.upper()]
    stored = quants.quantize(weight, number)
    matrix = held.from_gguf(torch.from_numpy(stored), kind)
    np.testing.assert_array_equal(matrix.dense().numpy(), quants.dequantize(stored, number))
