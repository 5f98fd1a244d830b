"""Low-rank updates of many adapters in one batch: ``outputs += scale * (inputs @ A.T) @ B.T``, each row by its own."""

from kernels.lora.cpu import update
from kernels.lora.op import lora
from kernels.lora.table import LoraTable, LoraTables, Pair, RowOwners, table_of

__all__ = ["LoraTable", "LoraTables", "Pair", "RowOwners", "lora", "table_of", "update"]
