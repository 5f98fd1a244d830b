"""Packed weights are the file's numbers, and their product is the reference's on every instruction set."""

import numpy as np
import pytest
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import native
from kernels.block_matmul import FLOAT, GGUF_FORMATS, Matrix, Rows
from kernels.block_matmul.matrix import multiply
from kernels.block_matmul.reference import block_matmul_reference

LIBRARY = native.library()
VARIANTS = [variant.name for variant in native.usable_variants()]
pytestmark = pytest.mark.skipif(LIBRARY is None, reason="no C compiler here")

# Where the halves lie in a block of each type; any other bytes are legal numbers.
HALVES = {2: [0], 3: [0, 2], 6: [0], 7: [0, 2], 8: [0], 10: [80, 82], 11: [108], 12: [0, 2], 13: [0, 2], 14: [208]}
K_TYPES = (10, 11, 12, 13, 14)


def stored(kind, rows, columns, seed=0):
    """Random bytes of a GGUF type, with what the gguf package makes of them: [rows, bytes], [rows, columns] f32."""
    generator = np.random.default_rng(seed)
    block, size = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
    raw = generator.integers(0, 256, (rows, columns // block, size), dtype=np.uint8)
    for at in HALVES[kind]:
        halves = generator.uniform(-0.1, 0.1, raw.shape[:2]).astype(np.float16)
        raw[:, :, at : at + 2] = halves.view(np.uint8).reshape(*raw.shape[:2], 2)
    data = np.ascontiguousarray(raw.reshape(rows, -1))
    return data, dequantize(data, GGMLQuantizationType(kind)).astype(np.float32)


@pytest.mark.parametrize("kind", GGUF_FORMATS)
def test_packed_rows_are_what_the_file_says(kind):
    data, truth = stored(kind, 37, 512)
    matrix = Matrix.pack(LIBRARY, [Rows(data, kind)], 512)
    got = np.stack([matrix.row(LIBRARY, index) for index in range(37)])
    # The K types multiply a half with a small integer; the product is held as a half again.
    rtol = 2**-10 if kind in K_TYPES else 1e-6
    np.testing.assert_allclose(got, truth, rtol=rtol, atol=rtol * np.abs(truth).max())


def test_rows_of_several_types_and_in_any_order_lie_in_one_matrix():
    first, first_truth = stored(12, 20, 256, seed=1)
    second, second_truth = stored(14, 11, 256, seed=2)
    order = np.random.default_rng(0).permutation(20)
    matrix = Matrix.pack(LIBRARY, [Rows(first, 12, order), Rows(second, 14)], 256)
    assert (matrix.format.bits, matrix.format.group, matrix.format.has_minima) == (8, 16, True)
    truth = np.concatenate([first_truth[order], second_truth])
    got = np.stack([matrix.row(LIBRARY, index) for index in range(31)])
    np.testing.assert_allclose(got, truth, atol=2**-9 * np.abs(truth).max())


@pytest.mark.parametrize("int15", [False, True])
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("kind", GGUF_FORMATS)
def test_every_type_multiplies_like_the_reference(kind, variant, int15):
    data, _ = stored(kind, 50, 256)
    matrix = Matrix.pack(LIBRARY, [Rows(data, kind)], 256, int15=int15)
    weights = np.stack([matrix.row(LIBRARY, index) for index in range(50)])
    x = np.random.default_rng(1).standard_normal((21, 256)).astype(np.float32)
    truth = block_matmul_reference(x, weights, int15)
    got = multiply(LIBRARY, matrix, x, variant=variant)
    np.testing.assert_allclose(got, truth, atol=3e-6 * np.abs(truth).max() * 16)


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 70),
    blocks=st.integers(1, 7),
    tokens=st.integers(1, 50),
    bits=st.sampled_from([4, 8]),
    variant=st.sampled_from(VARIANTS),
    threads=st.integers(1, 3),
    int15=st.booleans(),
)
def test_odd_shapes_and_every_row_is_the_same_in_any_company(rows, blocks, tokens, bits, variant, threads, int15):
    generator = np.random.default_rng(rows * tokens)
    weights = generator.standard_normal((rows, 32 * blocks)).astype(np.float32)
    bias = generator.standard_normal(rows).astype(np.float32)
    matrix = Matrix.pack(LIBRARY, [Rows(weights, FLOAT)], 32 * blocks, bits=bits, bias=bias, int15=int15)
    x = generator.standard_normal((tokens, 32 * blocks)).astype(np.float32)
    held = np.stack([matrix.row(LIBRARY, index) for index in range(rows)])
    truth = block_matmul_reference(x, held, int15) + bias
    got = multiply(LIBRARY, matrix, x, variant=variant, threads=threads)
    np.testing.assert_allclose(got, truth, atol=1e-4 * max(1.0, np.abs(truth).max()))
    chosen = generator.permutation(tokens)[: generator.integers(1, tokens + 1)]
    assert np.array_equal(multiply(LIBRARY, matrix, x[chosen], variant=variant), got[chosen])


@pytest.mark.parametrize(("bits", "bound"), [(8, 0.51 / 127), (4, 0.51 * 2 / 15)])
def test_quantising_floats_moves_no_weight_by_more_than_half_a_level(bits, bound):
    weights = np.random.default_rng(0).uniform(-1, 1, (16, 64)).astype(np.float32)
    matrix = Matrix.pack(LIBRARY, [Rows(weights, FLOAT)], 64, bits=bits)
    got = np.stack([matrix.row(LIBRARY, index) for index in range(16)])
    assert np.abs(got - weights).max() <= bound + 1e-3


@pytest.mark.parametrize("int15", [False, True])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_largest_sums_there_can_be_overflow_nowhere(variant, bits, int15):
    weights = np.ones((16, 64), np.float32)
    weights[:, ::32] = 0.0  # so that the others are the highest level
    matrix = Matrix.pack(LIBRARY, [Rows(weights, FLOAT)], 64, bits=bits, int15=int15)
    held = np.stack([matrix.row(LIBRARY, index) for index in range(16)])
    x = np.stack([np.ones(64), -np.ones(64), np.tile([1.0, -1.0], 32)]).astype(np.float32)
    got = multiply(LIBRARY, matrix, x, variant=variant)
    np.testing.assert_allclose(got, block_matmul_reference(x, held, int15), rtol=1e-6, atol=1e-4)


def test_zeros_stay_zeros():
    zeros = np.zeros((16, 64), np.float32)
    for bits in (4, 8):
        matrix = Matrix.pack(LIBRARY, [Rows(zeros, FLOAT)], 64, bits=bits)
        assert not multiply(LIBRARY, matrix, np.ones((3, 64), np.float32)).any()
        assert not multiply(LIBRARY, matrix, np.zeros((3, 64), np.float32)).any()


def test_what_cannot_be_packed_is_refused():
    with pytest.raises(ValueError, match="multiple of 32"):
        Matrix.pack(LIBRARY, [Rows(np.zeros((2, 33), np.float32), FLOAT)], 33)
    with pytest.raises(ValueError, match="type 30"):
        Matrix.pack(LIBRARY, [Rows(np.zeros((2, 64), np.uint8), 30)], 32)
