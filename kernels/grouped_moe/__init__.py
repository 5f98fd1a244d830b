"""Mixtures of experts: which experts a token gets, and the weighted sum of what they say."""

from kernels.grouped_moe.cpu import by_expert
from kernels.grouped_moe.op import grouped_moe, route
from kernels.grouped_moe.unit import SWIGLU, GatedUnit

__all__ = ["SWIGLU", "GatedUnit", "by_expert", "grouped_moe", "route"]
