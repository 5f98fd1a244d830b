"""Adapters on other families than Llama: logits and gradients against PEFT, and what a mixture of experts refuses."""

import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model

from engine.catalog import TARGETS
from engine.catalog.config import ATTENTION_TARGETS
from engine.models import PackedCausalAttention, SingleAdapter, load_adapter, load_model, new_adapter
from fw_sdk.types import FwError

IDS = [3, 44, 17, 90, 260, 5, 5, 8, 131, 7, 99, 12]
COMMON = {
    "vocab_size": 300,
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "initializer_range": 0.2,
    "pad_token_id": None,
}
GEMMA = {"sliding_window": 5, "layer_types": ["sliding_attention", "full_attention"]}
MIXTURE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
CASES = {
    "Qwen2": ({}, TARGETS),
    "Qwen3": ({}, TARGETS),
    "Gemma3": (GEMMA, TARGETS),
    "Qwen3Moe": (MIXTURE, ATTENTION_TARGETS),
    "GptOss": ({"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 5}, ATTENTION_TARGETS),
}


def saved(name, folder):
    torch.manual_seed(0)
    config = getattr(transformers, "Gemma3TextConfig" if name == "Gemma3" else f"{name}Config")
    peer = getattr(transformers, f"{name}ForCausalLM")(config(**{**COMMON, **CASES[name][0]})).eval()
    peer.save_pretrained(folder)
    return peer, load_model(folder, dtype=torch.float32)


def logits_of(model, adapters):
    hidden = model(torch.tensor(IDS), torch.arange(len(IDS)), PackedCausalAttention([len(IDS)]), adapters)
    return model.logits(hidden)


@pytest.mark.parametrize("name", CASES)
def test_logits_and_gradients_are_those_of_peft(name, tmp_path):
    base, model = saved(name, tmp_path / "base")
    plain = logits_of(model, None)
    options = LoraConfig(r=3, lora_alpha=9, target_modules=list(CASES[name][1]), init_lora_weights=False)
    peer = get_peft_model(base, options)
    peer.save_pretrained(tmp_path / "adapter")
    adapter = load_adapter(tmp_path / "adapter", model.config, torch.float32)
    for tensor in adapter.parameters():
        tensor.requires_grad_()
    ours, theirs = logits_of(model, SingleAdapter(adapter)), peer(torch.tensor([IDS])).logits[0]
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)
    assert (ours - plain).abs().max() > 0.1
    ours.log_softmax(-1)[:, 7].sum().backward()
    theirs.log_softmax(-1)[:, 7].sum().backward()
    found = {at: parameter.grad for at, parameter in peer.named_parameters() if parameter.grad is not None}
    assert len(found) == len(adapter.parameters())
    for (layer, target), pair in adapter.weights.items():
        for side, tensor in zip("AB", pair, strict=True):
            (at,) = (at for at in found if f"layers.{layer}." in at and f".{target}.lora_{side}" in at)
            torch.testing.assert_close(tensor.grad, found[at], atol=1e-3, rtol=1e-3)
    with torch.inference_mode():
        merged = peer.merge_and_unload()(torch.tensor([IDS])).logits[0]
    torch.testing.assert_close(ours.detach(), merged, atol=1e-4, rtol=0)


def test_the_experts_of_a_mixture_cannot_be_changed(tmp_path):
    _, model = saved("Qwen3Moe", tmp_path / "base")
    with pytest.raises(FwError, match="gate_proj") as caught:
        new_adapter(model.config, 2, 4.0, TARGETS, seed=0)
    assert "o_proj" in caught.value.hint
    dense = saved("Qwen3", tmp_path / "dense")[0]
    get_peft_model(dense, LoraConfig(r=2, target_modules=["q_proj", "up_proj"])).save_pretrained(tmp_path / "adapter")
    with pytest.raises(FwError, match=r"up_proj.*mixture of experts") as caught:
        load_adapter(tmp_path / "adapter", model.config, torch.float32)
    assert caught.value.code == "model_unsupported"
