"""Small GGUF files, written byte by byte, so that they can also be wrong."""

import struct

HEADER = b"GGUF"


def string(text):
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def value(item):
    """Type number and bytes of a metadata value."""
    if isinstance(item, bool):
        return 7, struct.pack("<?", item)
    if isinstance(item, int):
        return 4, struct.pack("<I", item)
    if isinstance(item, float):
        return 6, struct.pack("<f", item)
    if isinstance(item, str):
        return 8, string(item)
    kind = value(item[0])[0] if item else 4
    return 9, struct.pack("<IQ", kind, len(item)) + b"".join(value(part)[1] for part in item)


def metadata(pairs):
    out = b""
    for key, item in pairs.items():
        kind, data = value(item)
        out += string(key) + struct.pack("<I", kind) + data
    return out


def gguf(pairs, tensors, *, version=3):
    """A file with tensors: name -> numpy array, stored in float32, or (ggml type, shape, bytes)."""
    described, data = b"", b""
    for name, tensor in tensors.items():
        kind, shape, raw = tensor if isinstance(tensor, tuple) else (0, tensor.shape, tensor.astype("<f4").tobytes())
        described += string(name) + struct.pack("<I", len(shape))
        described += b"".join(struct.pack("<Q", size) for size in reversed(shape))
        described += struct.pack("<IQ", kind, len(data))
        data += raw
        data += b"\0" * (-len(data) % 32)
    head = HEADER + struct.pack("<IQQ", version, len(tensors), len(pairs)) + metadata(pairs) + described
    return head + b"\0" * (-len(head) % 32) + data


LLAMA = {
    "general.architecture": "llama",
    "general.license": "apache-2.0",
    "llama.block_count": 1,
    "llama.context_length": 128,
    "llama.embedding_length": 8,
    "llama.feed_forward_length": 16,
    "llama.attention.head_count": 2,
    "llama.attention.head_count_kv": 1,
    "llama.attention.layer_norm_rms_epsilon": 1e-5,
    "tokenizer.ggml.eos_token_id": 2,
}
