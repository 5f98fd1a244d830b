"""Products with weights that stay in 4 or 8 bits: packed once (``Matrix.pack``), multiplied by the compiled kernels."""

from kernels.block_matmul.matrix import FLOAT, GGUF_FORMATS, Arena, Matrix, Rows

__all__ = ["FLOAT", "GGUF_FORMATS", "Arena", "Matrix", "Rows"]
