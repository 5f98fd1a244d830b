"""A model small enough to compute in a millisecond: random weights, a byte tokenizer, a ChatML template."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
VOCABULARY = 256 + len(SPECIAL)
TEMPLATE = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + "
    "'<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 48,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "max_position_embeddings": 256,
    "tie_word_embeddings": False,
    "eos_token_id": 256,
    "bos_token_id": 256,
    "hidden_act": "silu",
    "torch_dtype": "float32",
}


def tiny_model(folder: Path, *, seed: int = 0, **changes: object) -> Path:
    """Write a Hugging Face folder; ``changes`` overwrite fields of config.json."""
    config = {**CONFIG, **changes}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    _tokenizer().save(str(folder / "tokenizer.json"))
    special = {"bos_token": SPECIAL[0], "eos_token": SPECIAL[2], "chat_template": TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", **special}))
    save_file(_weights(config, seed), str(folder / "model.safetensors"))
    return folder


def _tokenizer() -> Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={char: i for i, char in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIAL])
    return tokenizer


def _weights(config: dict, seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    hidden, ffn, width = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    query, kv = config["num_attention_heads"] * width, config["num_key_value_heads"] * width

    def matrix(outputs: int, inputs: int, scale: float = 1.5) -> torch.Tensor:
        return torch.randn(outputs, inputs, generator=generator) * scale / inputs**0.5

    weights = {
        "model.embed_tokens.weight": matrix(VOCABULARY, hidden, hidden**0.5),
        "lm_head.weight": matrix(VOCABULARY, hidden, 2.0),
        "model.norm.weight": torch.ones(hidden),
    }
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        shapes = {"q": (query, hidden), "k": (kv, hidden), "v": (kv, hidden), "o": (hidden, query)}
        for name, shape in shapes.items():
            weights[f"{prefix}self_attn.{name}_proj.weight"] = matrix(*shape)
        for name, shape in {"gate": (ffn, hidden), "up": (ffn, hidden), "down": (hidden, ffn)}.items():
            weights[f"{prefix}mlp.{name}_proj.weight"] = matrix(*shape)
        weights[f"{prefix}input_layernorm.weight"] = torch.ones(hidden)
        weights[f"{prefix}post_attention_layernorm.weight"] = torch.ones(hidden)
    return weights


def tiny_adapter(folder: Path, model: Path, *, seed: int, rank: int = 2) -> Path:
    """Write a PEFT folder with an adapter strong enough to change what is generated."""
    from engine.catalog import TARGETS, read_config
    from engine.models import new_adapter, save_adapter

    adapter = new_adapter(read_config(model), rank, 4.0 * rank, TARGETS, seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, up in adapter.weights.values():
            up.copy_(torch.randn(up.shape, generator=generator) * 0.3)
    save_adapter(folder, adapter, "tiny")
    return folder
