"""The truth, in float64: dimension i and dimension i + head_dim / 2 are the plane that position p turns by p * f_i."""

from __future__ import annotations

import torch
from torch import Tensor


def rope_reference(heads: Tensor, positions: Tensor, frequencies: Tensor) -> Tensor:
    """heads: [T, H, head_dim], positions: [T], frequencies: [head_dim / 2] -> [T, H, head_dim] float64."""
    first, second = heads.double().chunk(2, -1)
    turn = torch.polar(torch.ones((), dtype=torch.float64), positions.double()[:, None, None] * frequencies.double())
    turned = torch.complex(first, second) * turn
    return torch.cat((turned.real, turned.imag), -1)


def apply_rope_reference(heads: Tensor, cosine: Tensor, signed_sine: Tensor) -> Tensor:
    """heads: [T, H, head_dim], tables: [T, 1, head_dim] as they were rounded -> [T, H, head_dim] float64."""
    exact = heads.double()
    first, second = exact.chunk(2, -1)
    return exact * cosine.double() + torch.cat((second, first), -1) * signed_sine.double()


def rope_backward_reference(gradient: Tensor, cosine: Tensor, signed_sine: Tensor) -> Tensor:
    """gradient: [T, H, head_dim] -> [T, H, head_dim], by autograd in float64."""
    heads = torch.zeros(gradient.shape, dtype=torch.float64, device=gradient.device, requires_grad=True)
    with torch.enable_grad():
        return torch.autograd.grad(apply_rope_reference(heads, cosine, signed_sine), heads, gradient.double())[0]


def rope_paged_write_reference(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cosine: Tensor,
    signed_sine: Tensor,
    slots: Tensor,
    pages: Tensor,
    scales: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The turned query, and the pages as they are afterwards, token by token, in float64."""
    held, page_size = pages.double(), pages.shape[3]
    most = torch.finfo(pages.dtype).max
    turned = apply_rope_reference(key, cosine, signed_sine)
    for side, heads in enumerate((turned, value.double())):
        for token, slot in enumerate(slots.tolist()):
            if slot >= 0:
                stored = heads[token] if scales is None else heads[token] / scales[side].double()[:, None]
                held[side, :, slot // page_size, slot % page_size] = stored.clamp(-most, most)
    return apply_rope_reference(query, cosine, signed_sine), held
