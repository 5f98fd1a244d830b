"""Products with matrices that stay in few bits: int8, int4, GGUF's blocks, NVFP4, and fp8 on both sides."""

from kernels.quantized_linear.held import (
    HeldMatrix,
    from_gguf,
    quantize_fp8,
    quantize_int4,
    quantize_int8,
    quantize_nvfp4,
)
from kernels.quantized_linear.op import quantized_linear

__all__ = [
    "HeldMatrix",
    "from_gguf",
    "quantize_fp8",
    "quantize_int4",
    "quantize_int8",
    "quantize_nvfp4",
    "quantized_linear",
]
