"""Where a GGUF file keeps the tensor of a Hugging Face name, and how it differs there, family by family."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.catalog import ModelConfig

WHOLE = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
PARTS = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "mlp.gate": "ffn_gate_inp",
    "mlp.router": "ffn_gate_inp",
}
OTHER_PARTS = {
    "gemma3": {
        "post_attention_layernorm": "post_attention_norm",
        "pre_feedforward_layernorm": "ffn_norm",
        "post_feedforward_layernorm": "post_ffw_norm",
    },
    "gpt_oss": {"post_attention_layernorm": "post_attention_norm"},
}
EXPERT = re.compile(r"mlp\.experts\.(\d+)\.(gate|up|down)_proj\.weight")
STACKED = {
    "self_attn.sinks": ("attn_sinks.weight",),
    "mlp.experts.gate_up_proj": ("ffn_gate_exps.weight", "ffn_up_exps.weight"),
    "mlp.experts.gate_up_proj_bias": ("ffn_gate_exps.bias", "ffn_up_exps.bias"),
    "mlp.experts.down_proj": ("ffn_down_exps.weight",),
    "mlp.experts.down_proj_bias": ("ffn_down_exps.bias",),
}
"""Of gpt-oss, all experts of a layer at once."""


@dataclass(frozen=True)
class Stored:
    """Where a tensor is in a GGUF file.

    Attributes:
        names: of the stored tensors that make it.
        expert: which of the experts in them; None for the whole.
        heads: it has the rows of so many heads in llama.cpp's order, in which rotated pairs are neighbours; 0 if not.
        turned: from what is stored to the tensor as Hugging Face's files have it; None if that is the same.
    """

    names: tuple[str, ...]
    expert: int | None = None
    heads: int = 0
    turned: Callable[..., Tensor] | None = None

    @property
    def verbatim(self) -> bool:
        """Whether its rows are the stored ones, in some order."""
        return self.expert is None and (self.turned is None or self.heads > 0)


def stored_as(config: ModelConfig, name: str) -> Stored:
    """Where the tensor ``name`` is.

    Raises:
        KeyError: if files of this family have no such tensor.
    """
    lowered = _one_less if config.family == "gemma3" else None
    if name in WHOLE:
        return Stored((WHOLE[name],), turned=lowered if name == "model.norm.weight" else None)
    _, _, layer, rest = name.split(".", 3)
    block = f"blk.{layer}."
    expert = EXPERT.fullmatch(rest)
    if expert:
        return Stored((f"{block}ffn_{expert[2]}_exps.weight",), int(expert[1]))
    if rest in STACKED:
        return Stored(tuple(block + part for part in STACKED[rest]), turned=TURNS.get(rest))
    part, kind = rest.rsplit(".", 1)
    names = (f"{block}{OTHER_PARTS.get(config.family, {}).get(part) or PARTS[part]}.{kind}",)
    if config.family == "llama" and part in ("self_attn.q_proj", "self_attn.k_proj"):
        heads = config.heads if part == "self_attn.q_proj" else config.kv_heads
        return Stored(names, heads=heads, turned=lambda tensor: unpermuted(tensor, heads))
    return Stored(names, turned=lowered if part.endswith("norm") else None)


def unpermuted(tensor: Tensor, heads: int) -> Tensor:
    """From llama.cpp's row order (rotated pairs are neighbours) to half-split: [rows, …] -> [rows, …]."""
    return tensor.view(heads, tensor.shape[0] // heads // 2, 2, *tensor.shape[1:]).transpose(1, 2).reshape(tensor.shape)


def _one_less(weight: Tensor) -> Tensor:
    """Gemma: GGUF files have the factor itself, Hugging Face's the factor less one."""
    return weight - 1


def _alternating(gate: Tensor, up: Tensor) -> Tensor:
    """[experts, ffn] and the same -> [experts, 2 ffn]."""
    return torch.stack((gate, up), 2).flatten(1, 2)


TURNS: dict[str, Callable[..., Tensor]] = {
    "mlp.experts.gate_up_proj": lambda gate, up: _alternating(gate, up).transpose(1, 2),
    "mlp.experts.gate_up_proj_bias": _alternating,
    "mlp.experts.down_proj": lambda down: down.transpose(1, 2),
}
