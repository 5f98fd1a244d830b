"""Where recurrent states are, and what a step does with them, worked out once and used by every layer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class DeltaShape:
    """Sizes of a layer.

    Attributes:
        key_heads: heads of queries and keys; each serves ``value_heads / key_heads`` neighbouring value heads.
        value_heads: heads of values, each with a state of its own.
        key_dim: width of a query and of a key.
        value_dim: width of a value.
        taps: inputs that the convolution sees, the newest included; at least 2.
    """

    key_heads: int
    value_heads: int
    key_dim: int
    value_dim: int
    taps: int

    @property
    def channels(self) -> int:
        """Of the convolution: queries, keys and values side by side."""
        return 2 * self.key_heads * self.key_dim + self.value_heads * self.value_dim


@dataclass(frozen=True)
class DeltaWeights:
    """A layer's own numbers, all float32.

    Attributes:
        filters: [taps, channels], the oldest input's first.
        rate: [value_heads], positive; how fast a head forgets.
        bias: [value_heads], added to what a token says about forgetting.
    """

    filters: Tensor
    rate: Tensor
    bias: Tensor


@dataclass(frozen=True)
class LayerStates:
    """One layer's states, changed in place.

    Attributes:
        inputs: [slots, taps - 1, channels] f32, the convolution's last inputs, the oldest first.
        memory: [slots, value_heads, key_dim, value_dim] f32.
    """

    inputs: Tensor
    memory: Tensor


@dataclass(frozen=True)
class States:
    """All layers' states: as ``LayerStates``, with the layers in front."""

    inputs: Tensor
    memory: Tensor

    def layer(self, index: int) -> LayerStates:
        """Views of one layer's."""
        return LayerStates(self.inputs[index], self.memory[index])

    def copy(self, pairs: Iterable[tuple[int, int]]) -> None:
        """Copy states from slot to slot, one pair (from, to) after another."""
        for source, target in pairs:
            if source != target:
                self.inputs[:, target].copy_(self.inputs[:, source])
                self.memory[:, target].copy_(self.memory[:, source])


def new_states(layers: int, slots: int, shape: DeltaShape, device: torch.device | str = "cpu") -> States:
    """Room for ``slots`` states in each layer."""
    inputs = torch.zeros(layers, slots, shape.taps - 1, shape.channels, device=device)
    memory = torch.zeros(layers, slots, shape.value_heads, shape.key_dim, shape.value_dim, device=device)
    return States(inputs, memory)


@dataclass(frozen=True)
class StatePlan:
    """How the flat rows of a step map to sequences and states. N sequences, T rows, M states to store.

    Attributes:
        shape: of the layers.
        starts: [N + 1] i64, each sequence's first row, and T.
        slots: [N] i64, each sequence's state.
        fresh: [N] bool, whether it begins with an empty state instead.
        saves: [M, 3] i64: sequence, how many of its rows come before, slot to store in; ordered by the first two.
        windows: [T, taps] i64, the inputs of each row's convolution among the N * (taps - 1) remembered ones followed
            by the T new ones.
        tails: [N, taps - 1] i64, the inputs to remember after the step, likewise.
        save_tails: [M, taps - 1] i64, those to store with each of ``saves``.
        rounds: rows to compute together, one of each sequence that is not at its end, the longest sequences first.
        order: [N] i64, the sequences, longest first.
        places: [T] i64, where each row is among all rounds.
        stores: ``saves`` by their number of rows before: places in ``order``, and slots.
    """

    shape: DeltaShape
    starts: Tensor
    slots: Tensor
    fresh: Tensor
    saves: Tensor
    windows: Tensor
    tails: Tensor
    save_tails: Tensor
    rounds: tuple[Tensor, ...]
    order: Tensor
    places: Tensor
    stores: Mapping[int, Sequence[tuple[int, int]]]


def plan_states(
    lengths: Sequence[int],
    slots: Sequence[int],
    fresh: Sequence[bool],
    saves: Sequence[tuple[int, int, int]],
    shape: DeltaShape,
    device: torch.device | str = "cpu",
) -> StatePlan:
    """Plan a step over sequences whose new tokens lie one after another in the flat batch.

    Args:
        lengths: new tokens of each sequence, at least 1.
        slots: each sequence's state, no two the same.
        fresh: whether a sequence begins here.
        saves: (sequence, how many of its new tokens come before, slot to store its state in), at least 1 token.
        shape: of the layers.
        device: where the states are.
    """
    counts, past = np.array(lengths, np.int64), shape.taps - 1
    starts = np.concatenate([[0], np.cumsum(counts)])
    ordered = np.array(sorted(saves), np.int64).reshape(-1, 3)
    owner = np.repeat(np.arange(len(counts)), counts)
    offset = np.arange(starts[-1]) - starts[owner]
    order = np.argsort(-counts, kind="stable")
    sorted_starts, active = starts[order], -np.sort(-counts)
    rounds = [sorted_starts[: int((active > step).sum())] + step for step in range(int(active[0]))]
    places = np.empty(starts[-1], np.int64)
    places[np.concatenate(rounds)] = np.arange(starts[-1])

    def reach(sequence: np.ndarray, before: np.ndarray, width: int) -> Tensor:
        """The last ``width`` inputs before the new token number ``before`` of each sequence: [len, width]."""
        at = before[:, None] - width + np.arange(width)
        remembered = sequence[:, None] * past + past + at
        return torch.from_numpy(np.where(at < 0, remembered, len(counts) * past + starts[sequence][:, None] + at))

    parts = {
        "starts": torch.from_numpy(starts),
        "slots": torch.tensor(slots, dtype=torch.int64),
        "fresh": torch.tensor(fresh, dtype=torch.bool),
        "saves": torch.from_numpy(ordered),
        "windows": reach(owner, offset + 1, shape.taps),
        "tails": reach(np.arange(len(counts)), counts, past),
        "save_tails": reach(ordered[:, 0], ordered[:, 1], past),
        "order": torch.from_numpy(order),
        "places": torch.from_numpy(places),
    }
    ranks, stores = np.argsort(order), dict[int, list[tuple[int, int]]]()
    for sequence, after, slot in saves:
        stores.setdefault(after, []).append((int(ranks[sequence]), slot))
    moved = {name: tensor.to(device) for name, tensor in parts.items()}
    own_rounds = tuple(torch.from_numpy(rows).to(device) for rows in rounds)
    return StatePlan(shape, rounds=own_rounds, stores=stores, **moved)


def plan_next_states(slots: Tensor, shape: DeltaShape) -> StatePlan:
    """Plan a step of sequences with one new token each, none their first, from what is on the device: nothing is read.

    Args:
        slots: [N] integers, each sequence's state; one that is there several times belongs to nobody.
        shape: of the layers.
    """
    count, past, device = len(slots), shape.taps - 1, slots.device
    rows = torch.arange(count, device=device)
    remembered = rows.unsqueeze(1) * past + torch.arange(past, device=device)
    windows = torch.cat((remembered, count * past + rows.unsqueeze(1)), 1)
    return StatePlan(
        shape,
        starts=torch.arange(count + 1, device=device),
        slots=slots.long(),
        fresh=torch.zeros(count, dtype=torch.bool, device=device),
        saves=rows.new_empty(0, 3),
        windows=windows,
        tails=windows[:, 1:],
        save_tails=rows.new_empty(0, past),
        rounds=(rows,),
        order=rows,
        places=rows,
        stores={},
    )
