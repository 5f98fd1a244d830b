"""Configurations from every place they come from."""

import json

import numpy as np
import pytest

from engine.catalog import RopeScaling, SlidingWindow, find_model_files, read_config
from engine.catalog.hf_config import config_from_hf
from engine.catalog.tests.gguf_writer import LLAMA
from engine.catalog.tests.gguf_writer import gguf as write
from fw_sdk.types import FwError

HF = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 100,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 32,
    "max_position_embeddings": 256,
    "rope_theta": 500.0,
    "eos_token_id": [5, 6],
}


def test_the_tiny_model(tiny_llama_dir):
    config = read_config(tiny_llama_dir)
    assert (config.hidden_size, config.layers, config.kv_heads, config.head_dim) == (64, 2, 2, 16)
    assert config.vocab_size < 1000
    assert (config.bos_id, config.eos_ids, config.tie_embeddings) == (1, (2,), True)


def test_gguf(tmp_path):
    path = tmp_path / "m.gguf"
    path.write_bytes(write(LLAMA, {"token_embd.weight": np.zeros((11, 8)), "output.weight": np.zeros((11, 8))}))
    config = read_config(path)
    assert config == read_config(tmp_path)
    assert (config.vocab_size, config.heads, config.kv_heads, config.head_dim) == (11, 2, 1, 4)
    assert (config.tie_embeddings, config.eos_ids, config.rope_scaling) == (False, (2,), None)
    path.write_bytes(write(LLAMA, {"token_embd.weight": np.zeros((11, 8)), "rope_freqs.weight": np.ones(2)}))
    assert read_config(path).rope_scaling == RopeScaling("stored")


def test_both_spellings_of_rope():
    old = config_from_hf({**HF, "rope_scaling": {"type": "linear", "factor": 2.0}})
    new = config_from_hf({**HF, "rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 500.0}})
    assert old == new
    assert old.rope_base == 500.0
    assert old.rope_scaling == RopeScaling("linear", 2.0)


def test_mistral_is_llama_with_a_window():
    mistral = {**HF, "model_type": "mistral", "architectures": ["MistralForCausalLM"]}
    assert config_from_hf(mistral) == config_from_hf(HF)
    assert config_from_hf({**mistral, "sliding_window": 256}) == config_from_hf(HF)
    windowed = config_from_hf({**mistral, "sliding_window": 64})
    assert (windowed.max_context, windowed.window, windowed.kind(1)) == (256, SlidingWindow(64), "sliding")


def test_generation_config_adds_end_tokens(tiny_llama_dir, tmp_path):
    for file in tiny_llama_dir.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 9]}))
    assert read_config(tmp_path).eos_ids == (2, 9)


@pytest.mark.parametrize(
    "change",
    [
        {"model_type": "phi3", "architectures": ["Phi3ForCausalLM"]},
        {"architectures": ["LlamaForSequenceClassification"]},
        {"hidden_act": "gelu"},
        {"quantization_config": {"bits": 4}},
        {"rope_scaling": {"type": "longrope", "factor": 2}},
        {"num_key_value_heads": 3},
        {"num_hidden_layers": 0},
        {"vocab_size": 2**40},
        {"hidden_size": "wide"},
        {"hidden_size": None},
    ],
)
def test_what_cannot_run_is_refused(tiny_llama_dir, tmp_path, change):
    (tmp_path / "model.safetensors").write_bytes(b"")
    (tmp_path / "config.json").write_text(json.dumps({**HF, **change}))
    with pytest.raises(FwError) as caught:
        read_config(tmp_path)
    assert caught.value.code == "model_unsupported"


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "\xff"])
def test_broken_config_files(tmp_path, content):
    (tmp_path / "model.safetensors").write_bytes(b"")
    (tmp_path / "config.json").write_text(content, encoding="latin-1")
    with pytest.raises(FwError) as caught:
        read_config(tmp_path)
    assert caught.value.code == "model_unsupported"


def test_what_is_not_a_model(tmp_path):
    with pytest.raises(FwError) as caught:
        read_config(tmp_path / "nowhere")
    assert caught.value.code == "not_found"
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(FwError) as caught:
        find_model_files(tmp_path)
    assert "ickle" in caught.value.message
    assert "safetensors" in caught.value.hint
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(FwError) as caught:
        find_model_files(tmp_path)
    assert "a.gguf" in caught.value.message


@pytest.mark.model
def test_the_starter(starter_gguf):
    from engine.catalog import STARTERS

    config, starter = read_config(starter_gguf), STARTERS["smollm2-135m"]
    assert (config.parameters, config.max_context) == (starter.parameters, starter.context)
    assert (config.layers, config.hidden_size, config.heads, config.kv_heads) == (30, 576, 9, 3)
