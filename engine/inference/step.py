"""From a plan to tensors: one step's flat tokens, where they stand, whose adapter they use, which rows give logits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from engine.inference.scheduler import Row, Slice, StepPlan
from engine.inference.transfer import on_device
from engine.models import Adapter, MixedAdapters
from kernels.attention_spec import AttentionSpec
from kernels.gated_delta_net import DeltaShape, DeltaWeights, StatePlan, States, gated_delta_net, plan_states
from kernels.paged_attention import BatchPlan, paged_attention, plan_batch, turn_and_write
from kernels.rope import Turns


class PagedAttention:
    """The model's attention for one step: turn and store a layer's new keys and values, then read all of them.

    Args:
        pages: the whole cache, ``[layers, 2, kv_heads, pages, page_size, head_dim]``; changed in place.
        plan: of this step.
    """

    def __init__(self, pages: Tensor, plan: BatchPlan) -> None:
        self._pages = pages
        self._plan = plan

    def __call__(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, *, turns: Turns, spec: AttentionSpec
    ) -> Tensor:
        """Write the layer's new keys and values into the pages; attend to all of them."""
        pages = self._pages[layer]
        turned = turn_and_write(query, key, value, turns, pages, self._plan)
        return paged_attention(turned, pages, self._plan, spec)


class PagedRecurrence(PagedAttention):
    """Paged attention beside the recurrent states of the other layers.

    Args:
        pages: of the layers that attend.
        plan: of this step.
        states: of all recurrent layers; changed in place.
        state_plan: of this step.
    """

    def __init__(self, pages: Tensor, plan: BatchPlan, states: States, state_plan: StatePlan) -> None:
        super().__init__(pages, plan)
        self._states = states
        self._state_plan = state_plan

    def recur(
        self, layer: int, mixed: Tensor, decay: Tensor, write: Tensor, *, weights: DeltaWeights, shape: DeltaShape
    ) -> Tensor:
        """Run the delta net on from the sequences' states, which it changes in place."""
        return gated_delta_net(mixed, decay, write, weights, self._states.layer(layer), self._state_plan)


@dataclass(frozen=True)
class StepInputs:
    """What the model and the sampler get.

    Attributes:
        token_ids: ``[T]`` int64, the slices one after another, those with one adapter together.
        batch: positions and pages of the rows.
        adapters: the low-rank updates of the rows; None if all of them use the base.
        logit_rows: ``[N]`` int64, rows whose logits are wanted; None if that is every row.
        rows: what the rows of ``logit_rows`` predict, in that order.
        states: of the recurrent layers; None in a model without.
    """

    token_ids: Tensor
    batch: BatchPlan
    adapters: MixedAdapters | None
    logit_rows: Tensor | None
    rows: tuple[Row, ...]
    states: StatePlan | None


class StepBuilder:
    """Builds the tensors of each step.

    Args:
        page_size: tokens per page.
        device: where the model is.
        recurrence: of the model's recurrent layers.
    """

    def __init__(self, page_size: int, device: torch.device, recurrence: DeltaShape | None = None) -> None:
        self._page_size = page_size
        self._device = device
        self._recurrence = recurrence

    def build(self, plan: StepPlan, adapters: Mapping[int, Adapter]) -> StepInputs:
        """Tensors for ``plan``; ``adapters`` has the weights of its sequences' adapter ids, but for the base (0)."""
        slices = sorted(plan.slices, key=lambda item: item.sequence.adapter_id)
        lengths = [item.count for item in slices]
        ends = [item.end for item in slices]
        tokens = np.concatenate(
            [item.sequence.tokens[item.start : end] for item, end in zip(slices, ends, strict=True)]
        )
        tables = [item.sequence.pages for item in slices]
        behind = np.cumsum(lengths).tolist()
        wanted = [row for last, item in zip(behind, slices, strict=True) for row in range(last - item.rows, last)]
        return StepInputs(
            token_ids=on_device(torch.from_numpy(tokens.astype(np.int64)), self._device),
            batch=plan_batch(lengths, ends, tables, self._page_size, self._device),
            adapters=_mixed(slices, adapters, self._device),
            logit_rows=None if len(wanted) == len(tokens) else on_device(wanted, self._device, torch.int64),
            rows=tuple(row for item in slices if item.rows for row in item.logits()),
            states=None if self._recurrence is None else _states(slices, self._recurrence, self._device),
        )


def _states(slices: list[Slice], recurrence: DeltaShape, device: torch.device) -> StatePlan:
    """Where the slices' states are, and which of them are stored on the way."""
    slots, saves = list[int](), list[tuple[int, int, int]]()
    for number, item in enumerate(slices):
        chain = item.sequence.chain
        assert chain is not None and chain.slot is not None
        slots.append(chain.slot)
        saves += [(number, save.position - item.start, save.slot) for save in chain.saves]
    fresh = [item.start == 0 for item in slices]
    return plan_states([item.count for item in slices], slots, fresh, saves, recurrence, device)


def _mixed(slices: list[Slice], adapters: Mapping[int, Adapter], device: torch.device) -> MixedAdapters | None:
    """The rows of each adapter as one segment; the slices are sorted by adapter."""
    if not any(item.sequence.adapter_id for item in slices):
        return None
    lengths: dict[int, int] = {}
    for item in slices:
        lengths[item.sequence.adapter_id] = lengths.get(item.sequence.adapter_id, 0) + item.count
    return MixedAdapters([(length, adapters.get(identifier)) for identifier, length in lengths.items()], device)
