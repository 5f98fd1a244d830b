"""Gated delta net: a recurrent layer's convolution and its matrix-valued state, over a flat batch of sequences.

Each value head keeps a matrix ``S [key_dim, value_dim]``. A token first shrinks it, then corrects what it says about
the token's key, then reads it with the token's query:

    S = exp(g) S;   S += k (beta (v - k S))^T;   out = q S

Queries, keys and values come from a short causal convolution over the tokens before. The last inputs of the convolution
and ``S`` are the state; it has one slot per sequence, and a step may store copies of it after any of its tokens.

    states = new_states(layers, slots, shape, device)
    states.copy(restores)
    plan = plan_states(lengths, slots, fresh, saves, shape, device)
    out = gated_delta_net(mixed, decay, write, weights, states.layer(0), plan)

Tokens are taken one after another, so a row's bits depend on its own sequence alone, however that is cut into steps.
"""

from kernels.gated_delta_net.cpu import gated_delta_net
from kernels.gated_delta_net.states import (
    DeltaShape,
    DeltaWeights,
    LayerStates,
    StatePlan,
    States,
    new_states,
    plan_next_states,
    plan_states,
)

__all__ = [
    "DeltaShape",
    "DeltaWeights",
    "LayerStates",
    "StatePlan",
    "States",
    "gated_delta_net",
    "new_states",
    "plan_next_states",
    "plan_states",
]
