"""``python -m kernels.native``: compile the kernels now, if they are not yet, and say what came of it."""

from kernels.native import status

print(f"kernels: {status()}")
