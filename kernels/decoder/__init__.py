"""A decoder step of the Llama kind on the CPU: weights in 4 or 8 bits, paged cache, adapters, one call."""

from kernels.decoder.binding import (
    PAGE,
    SLICE,
    Decoder,
    DecoderWeights,
    LayerWeights,
    Shape,
    Updates,
    page_bytes,
    unsupported,
)

__all__ = [
    "PAGE",
    "SLICE",
    "Decoder",
    "DecoderWeights",
    "LayerWeights",
    "Shape",
    "Updates",
    "page_bytes",
    "unsupported",
]
