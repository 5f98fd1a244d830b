"""Steps in one call of the compiled decoder: a CPU, weights in 4 or 8 bits.

A row's result has the same bits alone, in any batch and in any chunking, because every sum has one order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from engine.inference.config import SPARE_ROWS, EngineConfig
from engine.inference.memory import account
from engine.inference.runner import Logits
from engine.inference.scheduler import StepPlan
from engine.models import Adapter, PackedModel
from fw_sdk.types import FwError
from kernels.decoder import PAGE, SLICE, Decoder, Updates

HALF = torch.float16
"""Of the cache; the activations between the products are float32."""


class PackedRunner:
    """A ``PackedModel`` with its pages; as ``Runner``."""

    dtype = torch.float32
    device = torch.device("cpu")
    rewinds = True

    def __init__(self, model: PackedModel, config: EngineConfig, *, max_tokens: int, threads: int) -> None:
        if config.page_size != PAGE:
            raise FwError(
                "invalid_argument",
                f"page_size must be {PAGE} for weights in {model.format}, got {config.page_size}",
                param="page_size",
            )
        self.config, self.format = model.config, model.format
        self.memory = account(model.config, config, weight_bytes=model.weights.nbytes, dtype=HALF, device=self.device)
        self._decoder = Decoder(
            model.library,
            model.weights,
            page_count=self.memory.pages,
            max_tokens=max_tokens,
            max_rows=min(config.max_running + SPARE_ROWS, max_tokens),
            context=min(model.config.max_context, self.memory.tokens),
            threads=threads,
        )
        self._slices = np.zeros(config.max_running, SLICE)

    def prepare(self, adapter: Adapter) -> Updates:
        """The adapter's weights as float32 arrays for the C decoder."""
        weights = {key: (down.float().numpy(), up.float().numpy()) for key, (down, up) in adapter.weights.items()}
        return Updates(self.config.layers, weights, adapter.scale)

    def compute(self, plan: StepPlan, adapters: Mapping[int, Updates]) -> Logits:
        """Compute the plan in one call of the C decoder, slices of one adapter beside each other."""
        slices = sorted(plan.slices, key=lambda item: item.sequence.adapter_id) if adapters else plan.slices
        for updates in adapters.values():
            self._decoder.make_room(updates.rank)
        table = self._slices[: len(slices)]
        for row, item in enumerate(slices):
            sequence = item.sequence
            adapter = adapters[sequence.adapter_id].address if sequence.adapter_id else 0
            pages, _ = sequence.pages.buffer_info()
            table[row] = (item.count, item.end, sequence.address + 4 * item.start, pages, adapter, item.rows)
        rows = tuple(row for item in slices if item.rows for row in item.logits())
        return Logits(torch.from_numpy(self._decoder.step(table)), rows)

    def replace(self, model: PackedModel) -> None:
        """Compute with these packed weights."""
        self._decoder.replace(model.weights)

    def clean(self, pages: Sequence[int]) -> None:
        """Replace what is not finite in these pages by 0."""
        index = np.array(pages)
        held = self._decoder.pages
        held[index] = np.nan_to_num(held[index], nan=0.0, posinf=0.0, neginf=0.0)
