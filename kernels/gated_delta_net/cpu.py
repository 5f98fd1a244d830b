"""The gated delta net in torch operators, one round of tokens after another; in C where that serves."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from kernels.gated_delta_net import native
from kernels.gated_delta_net.states import DeltaShape, DeltaWeights, LayerStates, StatePlan
from kernels.numerics import exact, refuse_gradients

NORM_EPS = 1e-6


def gated_delta_net(
    mixed: Tensor, decay: Tensor, write: Tensor, weights: DeltaWeights, states: LayerStates, plan: StatePlan
) -> Tensor:
    """What each new token reads from its sequence's state.

    Args:
        mixed: [T, channels], queries, keys and values before the convolution.
        decay: [T, value_heads], what each token says about forgetting.
        write: [T, value_heads], what it says about writing.
        weights: of the layer.
        states: of the layer; those of the plan's sequences move on, and copies are stored as planned.
        plan: which rows and states belong together.

    Returns:
        [T, value_heads, value_dim] in the dtype of ``mixed``. Differentiable in the first three as long as nothing else
        uses the states.

    Raises:
        RuntimeError: under exact numerics where the C kernel does not serve: torch's sums depend on the batch.
    """
    arguments = (mixed.float(), decay.float(), write.float(), weights, states, plan)
    out = native.gated_delta_net(*arguments)
    if out is None and exact():
        refuse_gradients(mixed, decay, write)
        raise RuntimeError("exact numerics need compiled kernels and a CPU")
    return (_in_torch(*arguments) if out is None else out).to(mixed.dtype)


def _in_torch(
    mixed: Tensor, decay: Tensor, write: Tensor, weights: DeltaWeights, states: LayerStates, plan: StatePlan
) -> Tensor:
    shape = plan.shape
    filtered = _filter(mixed, weights, states, plan)
    keys = shape.key_heads * shape.key_dim
    query, key, value = filtered.split([keys, keys, shape.value_heads * shape.value_dim], 1)
    query, key = _heads(query, shape) * shape.key_dim**-0.5, _heads(key, shape)
    value = value.view(-1, shape.value_heads, shape.value_dim)
    keep = torch.exp(-weights.rate * functional.softplus(decay + weights.bias))
    strength = torch.sigmoid(write)
    state = torch.where(plan.fresh[:, None, None, None], 0.0, states.memory[plan.slots])[plan.order]
    read = []
    for step, rows in enumerate(plan.rounds, 1):
        live = state[: len(rows)] * keep[rows][:, :, None, None]
        k = key[rows]
        change = (value[rows] - (live * k.unsqueeze(-1)).sum(-2)) * strength[rows].unsqueeze(-1)
        live = live + k.unsqueeze(-1) * change.unsqueeze(-2)
        read.append((live * query[rows].unsqueeze(-1)).sum(-2))
        state = live if len(rows) == len(state) else torch.cat([live, state[len(rows) :]])
        for rank, slot in plan.stores.get(step, ()):
            states.memory[slot] = state[rank].detach()
    states.memory[plan.slots[plan.order]] = state.detach()
    return torch.cat(read)[plan.places]


def _filter(mixed: Tensor, weights: DeltaWeights, states: LayerStates, plan: StatePlan) -> Tensor:
    """The convolution and its activation, [T, channels] -> [T, channels]; remembers the inputs of the next one."""
    before = torch.where(plan.fresh[:, None, None], 0.0, states.inputs[plan.slots]).flatten(0, 1)
    held = torch.cat([before, mixed])
    total = held[plan.windows[:, 0]] * weights.filters[0]
    for tap in range(1, plan.shape.taps):
        total = total + held[plan.windows[:, tap]] * weights.filters[tap]
    states.inputs[plan.slots] = held[plan.tails].detach()
    states.inputs[plan.saves[:, 2]] = held[plan.save_tails].detach()
    return functional.silu(total)


def _heads(flat: Tensor, shape: DeltaShape) -> Tensor:
    """[T, key_heads * key_dim] -> [T, value_heads, key_dim] of length 1, each as often as value heads share it."""
    heads = flat.view(-1, shape.key_heads, shape.key_dim)
    unit = heads * torch.rsqrt((heads * heads).sum(-1, keepdim=True) + NORM_EPS)
    return unit.repeat_interleave(shape.value_heads // shape.key_heads, 1)
