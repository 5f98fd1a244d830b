"""Fixtures of these tests."""

from kernels.conftest import device as device
