"""Steps on a GPU: decoding is recorded and replayed, and a step is launched before the one before it was read.

The host only queues work here. What a step draws stays on the device, where the next step takes its tokens from; the
host learns of it one step later. Everything runs with a CPU's tensors too, for the tests.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from engine.inference.config import EngineConfig
from engine.inference.recorded import NOWHERE, DecodeBuffers, Records, pages_of, rows_of
from engine.inference.runner import Logits
from engine.inference.sampler import Pending, begin
from engine.inference.scheduler import Row, StepPlan
from engine.inference.sequence import Sequence as Running
from engine.inference.shaping import RowShape, Shaping
from engine.inference.step import StepInputs
from engine.inference.torch_runner import TorchRunner
from engine.inference.transfer import on_device
from engine.models import Adapter, CausalLM, MixedAdapters, is_grouped
from kernels.gated_delta_net import plan_next_states
from kernels.numerics import exact
from kernels.paged_attention import decodes_unseen, plan_decode
from kernels.registry import Numerics, select

MOST_ADAPTERS = 16
"""Adapters that recorded steps choose from; a step with more is computed as it comes."""
ADAPTED = 3
"""Place in a record's key of whether rows have adapters."""


@dataclass(frozen=True)
class Launched:
    """A step that was queued.

    Attributes:
        rows: what its drawn tokens are, in order.
        pending: the tokens, on their way to the host.
    """

    rows: tuple[Row, ...]
    pending: Pending


class GpuRunner(TorchRunner):
    """A ``CausalLM`` with its pages, and one page and state more for rows that no sequence has; as ``Runner``.

    Attributes:
        records: of its decode steps.
        ahead: whether steps may be launched before the one before them was read.
    """

    def __init__(self, model: CausalLM, config: EngineConfig, *, ahead: bool = True) -> None:
        super().__init__(model, config, spare=1)
        self.records = Records(self.device)
        self.ahead = ahead and self.states is None
        self._grouped = all(map(is_grouped, model.decoders))
        self._page_size, self._spare = config.page_size, self.memory.pages
        self._most_pages = -(-min(model.config.max_context, self.memory.tokens) // config.page_size)
        self._buffers: dict[tuple[int, int], DecodeBuffers] = {}
        self._drawn = torch.zeros(config.max_running, dtype=torch.int64, device=self.device)
        self._drawn_rows: dict[Running, int] = {}
        self._adapters: dict[int, Adapter] = {}
        self._mixed: dict[DecodeBuffers, MixedAdapters] = {}

    @torch.inference_mode()
    def compute(self, plan: StepPlan, adapters: Mapping[int, Adapter]) -> Logits:
        """Compute the plan by a recorded graph where one fits, or else operator by operator."""
        size = self._recordable(plan, adapters)
        return super().compute(plan, adapters) if size is None else self._replayed(plan, adapters, size)

    @torch.inference_mode()
    def launch(self, plan: StepPlan, adapters: Mapping[int, Adapter], shapings: Mapping[str, Shaping]) -> Launched:
        """Queue a step and the draws of its tokens; every row of it is at an unknown position.

        The plan's placeholder tokens are those that the step before this one drew.
        """
        logits = self.compute(plan, adapters)
        rows, shapes = logits.rows, dict[int, RowShape]()
        for place, row in enumerate(rows):
            shaping = shapings.get(row.sequence.id)
            if shaping is not None:
                (shapes[place],) = shaping.rows((), row.position - row.sequence.known)
        pending = begin(
            logits.values[: len(rows)],
            [row.sequence.request.sampling for row in rows],
            [row.position for row in rows],
            shapes,
            self._latest(rows) if shapes else None,
        )
        self._drawn[: len(rows)].copy_(pending.tokens)
        self._drawn_rows = {row.sequence: place for place, row in enumerate(rows)}
        return Launched(rows, pending)

    def _latest(self, rows: Sequence[Row]) -> Tensor:
        """The placeholder token in front of each row, as drawn, [rows] i64; -1 for none."""
        sources = [self._drawn_rows[row.sequence] if _is_behind(row) else NOWHERE for row in rows]
        places = on_device(sources, self.device, torch.int64)
        return torch.where(places < 0, NOWHERE, self._drawn.index_select(0, places.clamp(min=0)))

    def replace(self, model: CausalLM) -> None:
        """Compute with this model; graphs of the old one are dropped."""
        super().replace(model)
        self.records.clear()

    def clean(self, pages: Sequence[int]) -> None:
        """Take what is not finite out of these pages, the spare page and the spare state."""
        super().clean([*pages, self._spare])
        if self.states is not None:
            for part in (self.states.inputs, self.states.memory):
                part[:, self.memory.states].zero_()

    def _inputs(self, plan: StepPlan, adapters: Mapping[int, Adapter]) -> StepInputs:
        """The step's tensors, with the drawn tokens in place of the placeholders."""
        inputs = super()._inputs(plan, adapters)
        places = [place for place, row in enumerate(inputs.rows) if row.sequence.placeholders and _is_behind(row)]
        return replace(inputs, token_ids=self._with_drawn(inputs, places)) if places else inputs

    def _with_drawn(self, inputs: StepInputs, places: Sequence[int]) -> Tensor:
        sources = [self._drawn_rows[inputs.rows[place].sequence] for place in places]
        index = on_device(places, self.device)
        rows = index if inputs.logit_rows is None else inputs.logit_rows.index_select(0, index)
        return inputs.token_ids.index_copy(0, rows, self._drawn.index_select(0, on_device(sources, self.device)))

    def _recordable(self, plan: StepPlan, adapters: Mapping[int, Adapter]) -> tuple[int, int] | None:
        """Rows and pages of the buffers that the step fits into; None for a step that is computed as it comes."""
        config = self.model.config
        if not decodes_unseen(self.device):
            return None
        if self.states is not None and any(item.start == 0 for item in plan.slices):
            return None
        if config.experts is not None and not (self._grouped and self._has_kernel("grouped_moe")):
            return None
        if adapters and not (len(adapters) <= MOST_ADAPTERS and self._has_kernel("lora", width=config.hidden_size)):
            return None
        if any(item.count > 1 or item.rows != 1 for item in plan.slices):
            return None
        rows = rows_of(len(plan.slices))
        if rows is None:
            return None
        longest = max(item.end for item in plan.slices)
        return rows, pages_of(-(-longest // self._page_size), self._most_pages)

    def _has_kernel(self, op: str, **shape: int) -> bool:
        """Whether a kernel answers that finds each row's adapter or experts on the device; torch asks the host."""
        kind: Numerics = "exact" if exact() else "fast"
        return select(op, shape, self.dtype, self.device.type, kind).backend == "triton"

    def _replayed(self, plan: StepPlan, adapters: Mapping[int, Adapter], size: tuple[int, int]) -> Logits:
        buffers = self._buffers.get(size)
        if buffers is None:
            buffers = DecodeBuffers(*size, self._page_size, self._spare, self.memory.states, self.device)
            self._buffers[size] = buffers
        self._know(adapters)
        key = (*size, int(exact()), int(bool(adapters)))
        if key not in self.records:
            buffers.clear()  # recording may run the step, and a recurrent state must not move on twice
            self.records.record(key, lambda: self._decode(buffers, adapted=bool(adapters)))
        buffers.fill(plan.slices, self._drawn_rows, {number: place for place, number in enumerate(self._adapters)})
        if self.states is not None:
            self.states.copy(plan.restores)
        values = self.records.run(key)
        if self.states is not None:
            self.states.copy(_checkpoints(plan))
        rows = tuple(row for item in plan.slices for row in item.logits())
        return Logits(values[: len(rows)], rows)

    def _know(self, adapters: Mapping[int, Adapter]) -> None:
        """Have these among the adapters that recorded steps choose from; those used last stay, as many as there may be.

        A record holds the places of all of them, so it serves any mixture until one comes that is not among them.
        """
        if all(self._adapters.get(number) is adapter for number, adapter in adapters.items()):
            return
        others = [(number, one) for number, one in self._adapters.items() if number not in adapters]
        room = MOST_ADAPTERS - len(adapters)
        self._adapters = {**dict(others[len(others) - min(room, len(others)) :]), **adapters}
        self._mixed.clear()
        self.records.forget(ADAPTED)

    def _decode(self, buffers: DecodeBuffers, *, adapted: bool) -> Tensor:
        """Logits [rows, vocabulary] of what is in the buffers: the recorded part of a step."""
        drawn = self._drawn.index_select(0, buffers.sources.clamp(min=0).long())
        ids = torch.where(buffers.sources < 0, buffers.ids, drawn)
        plan = plan_decode(buffers.table, buffers.contexts, buffers.slots, self._page_size)
        mixed = self._mixed_in(buffers) if adapted else None
        recurrence = self._recurrence
        states = None if recurrence is None else plan_next_states(buffers.states, recurrence)
        hidden = self.model(ids, plan.positions, self._attention(plan, states), mixed)
        return self.model.logits(hidden)

    def _mixed_in(self, buffers: DecodeBuffers) -> MixedAdapters:
        """The adapters' tables and the rows' owners, which records keep pointing to."""
        found = self._mixed.get(buffers)
        if found is None:
            found = self._mixed[buffers] = MixedAdapters.at(list(self._adapters.values()), buffers.owners)
        return found


def _checkpoints(plan: StepPlan) -> list[tuple[int, int]]:
    """The states to keep as they are behind each slice's one token: (from, to) slots."""
    chains = [item.sequence.chain for item in plan.slices]
    return [
        (chain.slot, save.slot)
        for chain in chains
        if chain is not None and chain.slot is not None
        for save in chain.saves
    ]


def _is_behind(row: Row) -> bool:
    """Whether the row stands behind a placeholder token, which is then its slice's last."""
    return row.position > row.sequence.known
