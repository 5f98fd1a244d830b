"""Steps in torch operators: any device, weights in full precision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from engine.inference.config import EngineConfig
from engine.inference.memory import account
from engine.inference.runner import Logits
from engine.inference.scheduler import StepPlan
from engine.inference.step import PagedAttention, PagedRecurrence, StepBuilder, StepInputs
from engine.models import Adapter, Attention, CausalLM, delta_shape
from kernels.gated_delta_net import StatePlan, new_states
from kernels.paged_attention import BatchPlan, new_pages


class TorchRunner:
    """A ``CausalLM`` with its pages; as ``Runner``.

    Args:
        model: the weights.
        config: sizes.
        spare: pages and recurrent states behind those of the account, of nobody.
    """

    def __init__(self, model: CausalLM, config: EngineConfig, *, spare: int = 0) -> None:
        shape = model.config
        self.model = model
        self.config, self.dtype, self.device = shape, model.dtype, torch.device(model.device)
        self.format = model.format
        self.memory = account(shape, config, weight_bytes=model.weight_bytes, dtype=model.dtype, device=self.device)
        pages, size = self.memory.pages, config.page_size
        layers = shape.attention_layers
        self.pages = new_pages(layers, pages + spare, size, shape.kv_heads, shape.head_dim, model.dtype, self.device)
        recurrence = delta_shape(shape.recurrence) if shape.recurrence else None
        self.rewinds = recurrence is None
        slots = self.memory.states + spare
        self.states = new_states(shape.recurrent_layers, slots, recurrence, self.device) if recurrence else None
        self._recurrence = recurrence
        self._builder = StepBuilder(size, self.device, recurrence)

    def prepare(self, adapter: Adapter) -> Adapter:
        """The adapter itself: torch reads its tensors as they are."""
        return adapter

    @torch.inference_mode()
    def compute(self, plan: StepPlan, adapters: Mapping[int, Adapter]) -> Logits:
        """Compute the plan operator by operator."""
        inputs = self._inputs(plan, adapters)
        if self.states is not None:
            self.states.copy(plan.restores)
        attention = self._attention(inputs.batch, inputs.states)
        hidden = self.model(inputs.token_ids, inputs.batch.positions, attention, inputs.adapters)
        wanted = hidden if inputs.logit_rows is None else hidden[inputs.logit_rows]
        return Logits(self.model.logits(wanted), inputs.rows)

    def replace(self, model: CausalLM) -> None:
        """Compute with this model from now on."""
        self.model = model

    def _inputs(self, plan: StepPlan, adapters: Mapping[int, Adapter]) -> StepInputs:
        return self._builder.build(plan, adapters)

    def _attention(self, batch: BatchPlan, states: StatePlan | None) -> Attention:
        if self.states is None or states is None:
            return PagedAttention(self.pages, batch)
        return PagedRecurrence(self.pages, batch, self.states, states)

    def clean(self, pages: Sequence[int]) -> None:
        """Replace what is not finite in these pages by 0."""
        index = torch.tensor(pages, dtype=torch.int64, device=self.device)
        self.pages[:, :, :, index] = torch.nan_to_num(self.pages[:, :, :, index], nan=0.0, posinf=0.0, neginf=0.0)
