"""GGUF files of every family, written as llama.cpp's converter writes them, against transformers."""

import dataclasses
import re

import gguf
import pytest
import torch
import transformers

from engine.catalog import read_config
from engine.catalog.tests.gguf_writer import gguf as write
from engine.models import PackedCausalAttention, load_model
from fw_sdk.types import FwError

COMMON = {
    "vocab_size": 300,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": None,
    "tie_word_embeddings": False,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 5000.0,
    "factor": 4.0,
    "truncate": False,
    "original_max_position_embeddings": 128,
}
QWEN_YARN = {**YARN, "truncate": True}
MIXTURE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "norm_topk_prob": True}
GEMMA = {
    "num_hidden_layers": 6,
    "tie_word_embeddings": True,
    "sliding_window": 9,
    "query_pre_attn_scalar": 16,
    "rope_parameters": {
        "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 100_000.0},
    },
}
GPT_OSS = {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 9, "rope_parameters": YARN}
CASES = {
    "llama": ("Llama", {"num_key_value_heads": 4, "attention_bias": True}, {}),
    "qwen2": (
        "Qwen2",
        {"rope_parameters": QWEN_YARN},
        {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0, "rope.scaling.original_context_length": 128},
    ),
    "qwen3": ("Qwen3", {}, {}),
    "qwen3moe": ("Qwen3Moe", MIXTURE, {"expert_count": 4, "expert_used_count": 2, "expert_feed_forward_length": 32}),
    "gemma3": (
        "Gemma3",
        GEMMA,
        {"attention.sliding_window": 9, "rope.scaling.type": "linear", "rope.scaling.factor": 8.0},
    ),
    "gpt-oss": (
        "GptOss",
        GPT_OSS,
        {
            "expert_count": 4,
            "expert_used_count": 2,
            "expert_feed_forward_length": 96,
            "attention.sliding_window": 9,
            "rope.scaling.type": "yarn",
            "rope.scaling.factor": 4.0,
            "rope.scaling.original_context_length": 128,
        },
    ),
}


def metadata(architecture, config, more):
    rope = config.rope_parameters
    fields = {
        "block_count": config.num_hidden_layers,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.key_length": config.head_dim,
        "attention.layer_norm_rms_epsilon": float(config.rms_norm_eps),
        "rope.freq_base": float(rope.get("full_attention", rope)["rope_theta"]),
        **more,
    }
    tokenizer = {"tokenizer.ggml.bos_token_id": 1, "tokenizer.ggml.eos_token_id": 2}
    return {
        "general.architecture": architecture,
        **{f"{architecture}.{key}": value for key, value in fields.items()},
        **tokenizer,
    }


def permuted(weight, heads):
    """Rows in llama.cpp's order for its Llama."""
    return (
        weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)
    )


def converted(architecture, config, name, tensor):
    """Pairs of a name without ``.weight`` and a tensor, as the converter has them."""
    if architecture == "llama" and (part := re.search(r"self_attn\.([qk])_proj", name)):
        heads = config.num_attention_heads if part[1] == "q" else config.num_key_value_heads
        return [(name, permuted(tensor, heads))]
    if architecture == "gemma3" and name.endswith("norm.weight"):
        return [(name, tensor + 1)]
    if architecture == "qwen3moe" and "gate_up_proj" in name:
        return list(zip(halves(name, "gate_up_proj", ".weight"), tensor.chunk(2, 1), strict=True))
    if architecture == "gpt-oss" and "experts" in name:
        if name.endswith("down_proj_bias"):
            return [(name.replace("_proj_bias", "_proj.bias"), tensor)]
        if name.endswith("gate_up_proj_bias"):
            names = halves(name, "gate_up_proj_bias", ".bias")
            return list(zip(names, (tensor[..., ::2], tensor[..., 1::2]), strict=True))
        turned = tensor.transpose(1, 2)
        if name.endswith("down_proj"):
            return [(f"{name}.weight", turned)]
        return list(zip(halves(name, "gate_up_proj", ".weight"), (turned[:, ::2], turned[:, 1::2]), strict=True))
    return [(name if name.endswith((".weight", ".bias")) else f"{name}.weight", tensor)]


def halves(name, both, suffix):
    return [name.replace(both, f"{half}_proj{suffix}") for half in ("gate", "up")]


def save(architecture, path):
    """The model as transformers has it; its GGUF file is at ``path``."""
    name, fields, more = CASES[architecture]
    torch.manual_seed(0)
    config_class = "Gemma3TextConfig" if name == "Gemma3" else f"{name}Config"
    config = getattr(transformers, config_class)(**{**COMMON, **fields})
    peer = getattr(transformers, f"{name}ForCausalLM")(config).eval()
    for at, parameter in peer.named_parameters():
        if at.endswith("bias") or "norm" in at or "sinks" in at:
            parameter.data.add_(torch.randn_like(parameter) * 0.3)
    arch = next(number for number, text in gguf.MODEL_ARCH_NAMES.items() if text == architecture)
    names = gguf.get_tensor_name_map(arch, config.num_hidden_layers)
    tensors = {}
    for at, parameter in peer.named_parameters():
        for source, tensor in converted(architecture, config, at, parameter.detach()):
            stored = names.get_name(source, try_suffixes=(".weight", ".bias"))
            assert stored, source
            tensors[stored] = tensor.contiguous().numpy()
    path.write_bytes(write(metadata(architecture, config, more), tensors))
    return peer


@pytest.mark.parametrize("architecture", CASES)
def test_logits_and_configuration(architecture, tmp_path):
    peer = save(architecture, tmp_path / "model.gguf")
    peer.save_pretrained(tmp_path / "folder")
    model = load_model(tmp_path / "model.gguf", dtype=torch.float32)
    ids = torch.randint(3, 300, (40,), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        hidden = model(ids, torch.arange(40), PackedCausalAttention([40]))
        torch.testing.assert_close(model.logits(hidden), peer(ids[None]).logits[0], atol=1e-4, rtol=0)
    twin = read_config(tmp_path / "folder")
    assert dataclasses.replace(model.config, norm_eps=twin.norm_eps) == twin


def test_a_file_without_one_of_its_tensors(tmp_path):
    path = tmp_path / "model.gguf"
    save("qwen3moe", path)
    path.write_bytes(path.read_bytes().replace(b"blk.1.ffn_up_exps", b"blk.1.ffn_xx_exps"))
    with pytest.raises(FwError, match=r"blk\.1\.ffn_up_exps\.weight is missing"):
        load_model(path, dtype=torch.float32)
