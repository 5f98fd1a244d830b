"""Logits against transformers, over every way a Llama can be configured and stored."""

import json

import pytest
import torch
from transformers import LlamaForCausalLM

from conftest import save_tiny_llama
from engine.models import PackedCausalAttention, load_model
from fw_sdk.types import FwError

VARIANTS = {
    "plain": {"num_key_value_heads": 4},
    "grouped, untied": {"tie_word_embeddings": False, "num_key_value_heads": 1},
    "biases": {"attention_bias": True, "mlp_bias": True},
    "wide heads": {"head_dim": 24, "num_attention_heads": 8, "num_key_value_heads": 2},
    "llama3 rope": {
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 5000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 128,
        }
    },
    "linear rope": {"rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}},
    "sharded": {"max_shard_size": "60KB"},
}


def logits_of(model, ids):
    hidden = model(torch.tensor(ids), torch.arange(len(ids)), PackedCausalAttention([len(ids)]))
    return model.logits(hidden)


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_equal_transformers(variant, tmp_path):
    save_tiny_llama(tmp_path, **VARIANTS[variant])
    if variant == "sharded":
        assert len(list(tmp_path.glob("*.safetensors"))) > 1
    peer = LlamaForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    model = load_model(tmp_path, dtype=torch.float32)
    ids = torch.randint(0, 512, (300,), generator=torch.Generator().manual_seed(1)).tolist()
    with torch.inference_mode():
        expected = peer(torch.tensor([ids])).logits[0]
        assert expected.std() > 0.5
        torch.testing.assert_close(logits_of(model, ids), expected, atol=1e-4, rtol=0)
    assert sum(parameter.numel() for parameter in peer.parameters()) == model.config.parameters


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_files_load_exactly(dtype, tmp_path):
    save_tiny_llama(tmp_path)
    LlamaForCausalLM.from_pretrained(tmp_path, dtype=dtype).save_pretrained(tmp_path)
    peer = LlamaForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    model = load_model(tmp_path, dtype=torch.float32)
    assert torch.equal(model.embedding, peer.model.embed_tokens.weight)
    assert torch.equal(model.layers[1].down, peer.model.layers[1].mlp.down_proj.weight)


def test_packed_sequences_do_not_see_each_other(tiny_llama_dir):
    model = load_model(tiny_llama_dir, dtype=torch.float32)
    first, second = [5, 6, 7, 8, 9], [11, 12, 13]
    positions = torch.tensor([0, 1, 2, 3, 4, 0, 1, 2])
    with torch.inference_mode():
        packed = model(torch.tensor(first + second), positions, PackedCausalAttention([5, 3]))
        packed = model.logits(packed)
        torch.testing.assert_close(packed[:5], logits_of(model, first), atol=1e-5, rtol=0)
        torch.testing.assert_close(packed[5:], logits_of(model, second), atol=1e-5, rtol=0)


def test_weights_are_frozen_buffers(tiny_llama_dir):
    model = load_model(tiny_llama_dir, dtype=torch.float32)
    assert not list(model.parameters())
    assert not any(buffer.requires_grad for buffer in model.buffers())
    assert not logits_of(model, [1, 2, 3]).requires_grad


def test_tied_head_is_the_embedding(tiny_llama_dir):
    model = load_model(tiny_llama_dir, dtype=torch.bfloat16)
    assert model.head.data_ptr() == model.embedding.data_ptr()


def test_a_misshapen_model_is_refused(tmp_path):
    save_tiny_llama(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for change in ({"num_hidden_layers": 3}, {"intermediate_size": 159}, {"vocab_size": 511}):
        (tmp_path / "config.json").write_text(json.dumps({**config, **change}))
        with pytest.raises(FwError) as caught:
            load_model(tmp_path, dtype=torch.float32)
        assert caught.value.code == "model_unsupported"


def test_truncated_safetensors_are_refused(tmp_path):
    save_tiny_llama(tmp_path)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(FwError) as caught:
        load_model(tmp_path, dtype=torch.float32)
    assert caught.value.code == "model_unsupported"


def test_wanted_rows_alone(tiny_llama_dir):
    """Asking for some rows gives what asking for all gives there, in the order asked for."""
    model = load_model(tiny_llama_dir, dtype=torch.float32)
    ids, rows = torch.tensor([5, 6, 7, 8, 9, 11, 12, 13]), torch.tensor([7, 0, 4])
    positions, attention = torch.tensor([0, 1, 2, 3, 4, 0, 1, 2]), PackedCausalAttention([5, 3])
    with torch.inference_mode():
        everything = model(ids, positions, attention)
        torch.testing.assert_close(model(ids, positions, attention, None, rows), everything[rows], atol=1e-5, rtol=0)
