"""Low-rank updates by whichever implementation fits; for inference, without gradients."""

from __future__ import annotations

from torch import Tensor

from kernels.lora.cpu import lora_ as torch_lora
from kernels.lora.cpu import lora_groups_
from kernels.lora.table import LoraTable, RowOwners
from kernels.registry import chosen


def lora(inputs: Tensor, outputs: Tensor, table: LoraTable, owners: RowOwners) -> Tensor:
    """inputs: [T, in], outputs: [T, widths] -> ``outputs``, with each row's update added in place."""
    function = chosen("lora", inputs, width=inputs.shape[-1])
    if function is torch_lora:
        # On the host the groups are known; asking the device for them would make it wait.
        lora_groups_(inputs, outputs, table, owners)
    else:
        function(inputs, outputs, table, owners.index)
    return outputs
