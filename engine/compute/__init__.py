"""Where job processes run: one protocol, and this machine as its first implementation."""

from engine.compute.backend import ComputeBackend, Phase, Status, Task
from engine.compute.local import LocalCompute

__all__ = ["ComputeBackend", "LocalCompute", "Phase", "Status", "Task"]
