"""The GGUF reader against the gguf package's own writer and reader, and against every kind of broken file."""

import struct

import gguf
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.catalog import GgufFile, read_config
from engine.catalog.tests.gguf_writer import LLAMA, metadata, string
from engine.catalog.tests.gguf_writer import gguf as write
from fw_sdk.types import FwError

TENSORS = {"token_embd.weight": np.arange(24.0).reshape(3, 8), "blk.0.attn_q.bias": np.ones(5)}


def refused(path, content):
    path.write_bytes(content)
    with pytest.raises(FwError) as caught:
        GgufFile.open(path)
    assert caught.value.code == "model_unsupported"
    return caught.value.message


def test_reads_what_the_gguf_package_writes(tmp_path):
    path = tmp_path / "m.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_uint32("a.u32", 7)
    writer.add_int64("a.i64", -7)
    writer.add_float32("a.f32", 0.5)
    writer.add_bool("a.bool", True)
    writer.add_array("a.strings", ["x", "ü", ""])
    writer.add_array("a.ints", [1, -2, 3])
    quantised = gguf.quantize(np.random.randn(4, 64).astype(np.float32), gguf.GGMLQuantizationType.Q8_0)
    writer.add_tensor("q", quantised, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.add_tensor("f", np.arange(10, dtype=np.float32).reshape(2, 5))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    file, peer = GgufFile.open(path), gguf.GGUFReader(path)
    expected = {name: field.contents() for name, field in peer.fields.items() if not name.startswith("GGUF.")}
    assert file.metadata == expected
    for tensor in peer.tensors:
        ours = file.tensors[tensor.name]
        assert (ours.offset, ours.nbytes, ours.type) == (tensor.data_offset, tensor.n_bytes, tensor.tensor_type)
        assert list(ours.shape) == tensor.shape.tolist()[::-1]


def test_broken_files_are_refused(tmp_path):
    path, good = tmp_path / "m.gguf", write(LLAMA, TENSORS)
    path.write_bytes(good)
    assert set(GgufFile.open(path).tensors) == set(TENSORS)
    assert "truncated" in refused(path, good[:-40])
    assert "GGUF" in refused(path, b"PK\x03\x04" + good[4:])
    assert "version" in refused(path, write(LLAMA, TENSORS, version=1))
    assert "tensors" in refused(path, b"GGUF" + struct.pack("<IQQ", 3, 2**60, 0))
    refused(path, b"")
    refused(path, b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 2**63))
    refused(path, b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + string("k") + struct.pack("<IIQ", 9, 4, 2**62))
    nested = struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 50
    refused(path, b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + string("k") + nested + b"\0" * 64)
    refused(path, write({**LLAMA, "general.alignment": 0}, TENSORS))
    empty = b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + string("t") + struct.pack("<IQIQ", 1, 2**63, 0, 0)
    refused(path, empty + b"\0" * 64)
    assert metadata({}) == b""


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damage_never_escapes_as_a_traceback(tmp_path, data):
    """Any byte changed, any tail cut: a usable file or a typed error, quickly."""
    content = bytearray(write(LLAMA, TENSORS))
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, 420))] = data.draw(st.integers(0, 255))
    path = tmp_path / "m.gguf"
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        read_config(path)
    except FwError as error:
        assert error.code == "model_unsupported"
