"""Where kernels run in tests: on the GPU if there is one, else in Triton's interpreter on the CPU."""

from __future__ import annotations

import pytest

from kernels.arguments import interpreting


@pytest.fixture(scope="session")
def device() -> str:
    """The device whose tensors Triton's kernels take here."""
    if not interpreting():
        return "cuda"
    pytest.importorskip("triton")
    from kernels.testing.interpreter import install

    install()
    return "cpu"
