"""Products with weights that stay in 4 or 8 bits: packed once (``Matrix.pack``), multiplied by the compiled kernels.

``PackedLinear`` is the same for training; it alone needs torch and is imported when it is asked for.
"""

from typing import TYPE_CHECKING, Any

from kernels.block_matmul.matrix import FLOAT, GGUF_FORMATS, Arena, Matrix, Rows

if TYPE_CHECKING:
    from kernels.block_matmul.linear import PackedLinear

__all__ = ["FLOAT", "GGUF_FORMATS", "Arena", "Matrix", "PackedLinear", "Rows"]


def __getattr__(name: str) -> Any:
    """Import ``PackedLinear`` on first use."""
    if name != "PackedLinear":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from kernels.block_matmul.linear import PackedLinear

    return PackedLinear
