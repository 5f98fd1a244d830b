"""Every type of tensor that the gguf package turns into floats is read, wherever it lies in the file."""

import gguf
import numpy as np
import pytest
from gguf.quants import _type_traits, quant_shape_to_byte_shape
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.catalog import GgufFile, read_config
from engine.catalog.tests.gguf_writer import LLAMA
from engine.catalog.tests.gguf_writer import gguf as write
from engine.models.weights import GgufWeights
from fw_sdk.types import FwError

QUANTISED = sorted(_type_traits, key=int)
PLAIN = {
    gguf.GGMLQuantizationType.F32: np.float32,
    gguf.GGMLQuantizationType.F16: np.float16,
    gguf.GGMLQuantizationType.F64: np.float64,
}


def weights(path, kind, shape, raw):
    tensors = {"token_embd.weight": np.zeros((11, 8)), "x": (int(kind), shape, raw), "after": np.ones((2, 2))}
    path.write_bytes(write(LLAMA, tensors))
    return GgufWeights(GgufFile.open(path), read_config(path))


@settings(max_examples=3, deadline=None)
@given(rows=st.integers(1, 5), blocks=st.integers(1, 2), seed=st.integers(0, 2**32 - 1), leading=st.booleans())
@pytest.mark.parametrize("kind", QUANTISED, ids=lambda kind: kind.name)
def test_every_quantised_type(kind, rows, blocks, seed, leading, tmp_path_factory):
    shape = (*((2,) if leading else ()), rows, blocks * gguf.GGML_QUANT_SIZES[kind][0])
    stored = np.random.default_rng(seed).integers(0, 256, quant_shape_to_byte_shape(shape, kind), np.uint8)
    with np.errstate(all="ignore"):  # random bytes hold scales that are no numbers
        found = weights(tmp_path_factory.mktemp("gguf") / "x.gguf", kind, shape, stored.tobytes()).stored("x")
        expected = gguf.dequantize(stored, kind).astype(np.float32)
    assert found.shape == shape
    np.testing.assert_array_equal(found.numpy(), expected.reshape(shape))


@pytest.mark.parametrize("kind", PLAIN, ids=lambda kind: kind.name)
def test_plain_floats(kind, tmp_path):
    values = np.random.default_rng(0).normal(size=(3, 7)).astype(PLAIN[kind])
    found = weights(tmp_path / "x.gguf", kind, values.shape, values.tobytes()).stored("x")
    np.testing.assert_array_equal(found.numpy(), values.astype(np.float32))


def test_whole_numbers_are_no_weights(tmp_path):
    kind = gguf.GGMLQuantizationType.I32
    with pytest.raises(FwError, match="I32"):
        weights(tmp_path / "x.gguf", kind, (2, 2), bytes(16)).stored("x")
