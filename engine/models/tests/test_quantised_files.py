"""Models whose safetensors are fp8 load as what they say; what fw does not read is refused by name."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GptOssConfig, GptOssForCausalLM, LlamaForCausalLM
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from conftest import save_tiny_llama
from engine.catalog import GgufFile, read_config
from engine.catalog.tests.gguf_writer import LLAMA, gguf
from engine.models import load_for_inference, load_for_training, load_model
from engine.models.scaled import mxfp4_to_float
from engine.models.tests.test_llama import logits_of
from engine.models.weights import SafetensorsWeights
from fw_sdk.types import FwError

FP8 = torch.float8_e4m3fn
COMPRESSED = {
    "quant_method": "compressed-tensors",
    "format": "float-quantized",
    "config_groups": {"group_0": {"targets": ["Linear"], "weights": {"num_bits": 8, "type": "float"}}},
}
KINDS = {
    "blocks": ({"quant_method": "fp8", "weight_block_size": [48, 32]}, "_scale_inv"),
    "one scale": ({"quant_method": "fp8", "activation_scheme": "static"}, "_scale"),
    "a scale per row": (COMPRESSED, "_scale"),
}


def quantised(weight, kind, block=(48, 32)):
    """(fp8, scales, what they mean) of a matrix."""
    rows, columns = weight.shape
    if kind == "blocks":
        high, wide = -(-rows // block[0]), -(-columns // block[1])
        scale = torch.rand(high, wide) * 0.01 + 0.001
        full = scale.repeat_interleave(block[0], 0).repeat_interleave(block[1], 1)[:rows, :columns]
    else:
        scale = full = (
            weight.abs().amax(1, keepdim=True) / 448 if kind == "a scale per row" else weight.abs().max() / 448
        )
    numbers = (weight / full).clamp(-448, 448).to(FP8)
    return numbers, scale, numbers.float() * full


@pytest.mark.parametrize("kind", KINDS)
def test_fp8_is_what_its_scales_say(kind, tmp_path):
    config, suffix = KINDS[kind]
    save_tiny_llama(tmp_path)
    peer = LlamaForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    tensors = load_file(tmp_path / "model.safetensors")
    for name in [name for name in tensors if name.endswith("_proj.weight")]:
        tensors[name], tensors[name + suffix], meaning = quantised(tensors[name], kind)
        peer.get_parameter(name).data.copy_(meaning)
        if kind == "one scale":
            tensors[name.removesuffix("weight") + "input_scale"] = torch.tensor(0.5)
    save_file(tensors, tmp_path / "model.safetensors")
    fields = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**fields, "quantization_config": config}))
    ids = torch.randint(0, 512, (100,), generator=torch.Generator().manual_seed(1)).tolist()
    with torch.inference_mode():
        found = logits_of(load_model(tmp_path, dtype=torch.float32), ids)
        torch.testing.assert_close(found, peer(torch.tensor([ids])).logits[0], atol=1e-4, rtol=0)
    assert read_config(tmp_path).parameters == sum(parameter.numel() for parameter in peer.parameters())
    del tensors["model.layers.1.mlp.up_proj.weight" + suffix]
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(FwError, match="is fp8 and has no scale"):
        load_model(tmp_path, dtype=torch.float32)


def test_mxfp4_has_the_name_and_the_shape_of_the_full_tensor(tmp_path):
    blocks = torch.randint(0, 256, (3, 10, 2, 16), dtype=torch.uint8)
    scales = torch.randint(120, 130, (3, 10, 2), dtype=torch.uint8)
    names = ("layers.0.mlp.experts.gate_up_proj_blocks", "layers.0.mlp.experts.gate_up_proj_scales")
    save_file(dict(zip((f"model.{name}" for name in names), (blocks, scales), strict=True)), tmp_path / "a.safetensors")
    found = SafetensorsWeights((tmp_path / "a.safetensors",)).get("model.layers.0.mlp.experts.gate_up_proj")
    assert found.shape == (3, 64, 10)
    assert torch.equal(found.transpose(1, 2), mxfp4_to_float(blocks, scales))


def test_a_gpt_oss_file_in_mxfp4_equals_transformers(tmp_path):
    """Its experts as the publisher stores them: transposed, in blocks of 32 inputs."""
    fields = {"hidden_size": 64, "intermediate_size": 96, "num_local_experts": 4, "num_experts_per_tok": 2}
    fields |= {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}
    torch.manual_seed(0)
    config = GptOssConfig(vocab_size=320, max_position_embeddings=256, sliding_window=16, eos_token_id=2, **fields)
    peer = GptOssForCausalLM(config).eval()
    for name, parameter in peer.named_parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.1)
        if name.endswith(("gate_up_proj", "down_proj")):
            shape = (parameter.shape[0], parameter.shape[2], parameter.shape[1] // 32)
            blocks = torch.randint(0, 256, (*shape, 16), dtype=torch.uint8)
            scales = torch.randint(121, 125, shape, dtype=torch.uint8)
            parameter.data.copy_(convert_moe_packed_tensors(blocks, scales, dtype=torch.float32))
            parameter.stored = blocks, scales
    peer.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    for name, parameter in peer.named_parameters():
        if hasattr(parameter, "stored"):
            del tensors[name]
            tensors[f"{name}_blocks"], tensors[f"{name}_scales"] = parameter.stored
    save_file(tensors, tmp_path / "model.safetensors")
    stated = json.loads((tmp_path / "config.json").read_text())
    stated["quantization_config"] = {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]}
    (tmp_path / "config.json").write_text(json.dumps(stated))
    ids = torch.randint(3, 320, (60,)).tolist()
    with torch.inference_mode():
        found = logits_of(load_model(tmp_path, dtype=torch.float32), ids)
        torch.testing.assert_close(found, peer(torch.tensor([ids])).logits[0], atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("config", "word"),
    [
        ({"quant_method": "awq", "bits": 4}, "'awq' in 4 bits"),
        ({"quant_method": "gptq", "bits": 8}, "'gptq' in 8 bits"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "'bitsandbytes' in 4 bits"),
        ({"quant_method": "fp8", "fmt": "e5m2"}, "e5m2"),
        (
            {
                "quant_method": "compressed-tensors",
                "format": "pack-quantized",
                "config_groups": {"group_0": {"weights": {"num_bits": 4, "type": "int"}}},
            },
            "int of 4 bits",
        ),
    ],
)
def test_other_quantisations_are_refused_by_name(config, word, tmp_path):
    save_tiny_llama(tmp_path)
    fields = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**fields, "quantization_config": config}))
    with pytest.raises(FwError) as caught:
        read_config(tmp_path)
    assert caught.value.code == "model_unsupported"
    assert word in caught.value.message
    assert all(name in caught.value.hint for name in ("fp8", "compressed-tensors", "mxfp4", "GGUF"))


@pytest.mark.parametrize("purpose", ["inference", "training"])
def test_a_gguf_header_is_read_once(tmp_path, monkeypatch, purpose):
    shapes = {"attn_norm": (8,), "ffn_norm": (8,), "attn_q": (8, 8), "attn_k": (4, 8), "attn_v": (4, 8)}
    shapes |= {"attn_output": (8, 8), "ffn_gate": (16, 8), "ffn_up": (16, 8), "ffn_down": (8, 16)}
    tensors = {f"blk.0.{name}.weight": np.ones(shape) for name, shape in shapes.items()}
    path = tmp_path / "tiny.gguf"
    path.write_bytes(gguf(LLAMA, {"token_embd.weight": np.ones((11, 8)), "output_norm.weight": np.ones(8), **tensors}))
    opened, real = [], GgufFile.open
    monkeypatch.setattr(GgufFile, "open", lambda path: opened.append(path) or real(path))
    if purpose == "inference":
        load_for_inference(path, dtype="auto", device=torch.device("cpu"), numerics="auto")
    else:
        load_for_training(path, dtype=torch.float32, device=torch.device("cpu"))
    assert len(opened) == 1
