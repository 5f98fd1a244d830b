"""What the engine asks of a model with its cache: compute a step's slices, and prepare adapters for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from engine.catalog import ModelConfig
from engine.inference.memory import MemoryAccount
from engine.inference.scheduler import Row, StepPlan
from engine.models import Adapter


@dataclass(frozen=True)
class Logits:
    """What a step gave.

    Attributes:
        values: ``[n, vocabulary]`` float32, valid until the next step.
        rows: what each row predicts: a sequence's token at a position. Rows of one sequence are neighbours, in order.
    """

    values: Tensor
    rows: tuple[Row, ...]


class Runner(Protocol):
    """A model with its key-value cache.

    Attributes:
        config: of the model.
        device: where it computes.
        dtype: of what an adapter's weights are read in.
        format: how the weights are held, as requests and reports name it: bfloat16, float32, q4_1, int8 …
        memory: the account of weights and cache.
        rewinds: whether a sequence can be computed again from any token on. A recurrent state cannot go back.
    """

    rewinds: bool
    config: ModelConfig
    device: torch.device
    dtype: torch.dtype
    format: str
    memory: MemoryAccount

    def prepare(self, adapter: Adapter) -> Any:
        """An adapter's weights as ``compute`` wants them; may run in any thread."""
        ...

    def compute(self, plan: StepPlan, adapters: Mapping[int, Any]) -> Logits:
        """Compute the plan; ``adapters`` has what ``prepare`` gave, by the sequences' adapter ids."""
        ...

    def replace(self, model: Any) -> None:
        """Compute with this model from now on: of the same architecture, held in the same way."""
        ...

    def clean(self, pages: Sequence[int]) -> None:
        """Take what is not finite out of these pages: their next owner reads masked slots too."""
        ...
