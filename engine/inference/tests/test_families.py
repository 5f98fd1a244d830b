"""Each family against transformers: logits, and greedy tokens through the engine, alone, in chunks, in company."""

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
import transformers

from engine.catalog import FAMILIES
from engine.inference import Engine, EngineConfig, SamplingParams
from engine.models import PackedCausalAttention, load_model
from engine.models.registry import MODELS

VOCABULARY = 320
GREEDY = SamplingParams(max_tokens=64, temperature=0, ignore_eos=True)
COMMON = {
    "vocab_size": VOCABULARY,
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
}


MIXTURE = {"num_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 40}


GEMMA = {
    "sliding_window": 17,
    "layer_types": ["sliding_attention", "full_attention"],
    "query_pre_attn_scalar": 24,
    "rope_parameters": {
        "sliding_attention": {"rope_type": "default", "rope_theta": 500.0},
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 100_000.0},
    },
}
GPT_OSS = {
    "num_local_experts": 6,
    "num_experts_per_tok": 2,
    "sliding_window": 15,
    "rope_parameters": {
        "rope_type": "yarn",
        "rope_theta": 5000.0,
        "factor": 4.0,
        "beta_fast": 8.0,
        "beta_slow": 1.0,
        "truncate": False,
        "original_max_position_embeddings": 128,
    },
}
HYBRID = {
    "layer_types": ["linear_attention", "full_attention"],
    "linear_key_head_dim": 24,
    "linear_value_head_dim": 20,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "initializer_range": 0.1,
}
SHARED = {**MIXTURE, "shared_expert_intermediate_size": 56}
SUM_TO_1 = {"norm_topk_prob": True}


@dataclass(frozen=True)
class Case:
    """One way to configure a family, by transformers' own classes."""

    model: str
    config: str
    family: str
    fields: dict[str, Any] = field(default_factory=dict)
    shard: str = "10MB"


CASES = {
    "llama": Case("LlamaForCausalLM", "LlamaConfig", "llama"),
    "mistral with a window": Case("MistralForCausalLM", "MistralConfig", "llama", {"sliding_window": 19}, "100KB"),
    "qwen2": Case("Qwen2ForCausalLM", "Qwen2Config", "qwen2", {"tie_word_embeddings": True}, "100KB"),
    "qwen2 with windows": Case(
        "Qwen2ForCausalLM",
        "Qwen2Config",
        "qwen2",
        {"use_sliding_window": True, "sliding_window": 21, "max_window_layers": 1},
    ),
    "qwen3": Case("Qwen3ForCausalLM", "Qwen3Config", "qwen3", {"head_dim": 24}, "100KB"),
    "qwen3_moe": Case("Qwen3MoeForCausalLM", "Qwen3MoeConfig", "qwen3_moe", {**MIXTURE, **SUM_TO_1}, "100KB"),
    "qwen3_moe unnormalised": Case("Qwen3MoeForCausalLM", "Qwen3MoeConfig", "qwen3_moe", MIXTURE),
    "gemma3": Case("Gemma3ForCausalLM", "Gemma3TextConfig", "gemma3", GEMMA, "100KB"),
    "gpt_oss": Case("GptOssForCausalLM", "GptOssConfig", "gpt_oss", GPT_OSS, "100KB"),
    "qwen3_next": Case("Qwen3NextForCausalLM", "Qwen3NextConfig", "qwen3_next", {**HYBRID, **SHARED}, "100KB"),
    "qwen3_5": Case("Qwen3_5ForCausalLM", "Qwen3_5TextConfig", "qwen3_next", HYBRID, "100KB"),
    "qwen3_5_moe": Case("Qwen3_5MoeForCausalLM", "Qwen3_5MoeTextConfig", "qwen3_next", {**HYBRID, **SHARED}),
}


@pytest.fixture(scope="module", params=CASES)
def both(request, tmp_path_factory):
    """A random model as transformers has it and as fw loads it."""
    case, folder = CASES[request.param], tmp_path_factory.mktemp("family")
    torch.manual_seed(0)
    config = getattr(transformers, case.config)(**{**COMMON, **case.fields})
    peer = getattr(transformers, case.model)(config).eval()
    for name, parameter in peer.named_parameters():
        if name.endswith("bias") or "norm" in name or "sinks" in name:
            parameter.data.add_(torch.randn_like(parameter) * 0.3)
    peer.save_pretrained(folder, max_shard_size=case.shard)
    assert (len(list(folder.glob("*.safetensors"))) > 1) == (case.shard == "100KB")
    model = load_model(folder, dtype=torch.float32)
    assert model.config.family == case.family
    return peer, model


def prompt(length, seed):
    return torch.randint(3, VOCABULARY, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def continued(peer, ids):
    """64 tokens as transformers goes on greedily."""
    given = torch.tensor([ids])
    peer.generation_config.eos_token_id = None
    out = peer.generate(given, attention_mask=torch.ones_like(given), max_new_tokens=64, do_sample=False)
    return out[0, len(ids) :].tolist()


def test_every_family_has_a_class_and_a_case():
    assert set(FAMILIES) == set(MODELS) == {case.family for case in CASES.values()}


def test_logits_and_number_of_weights(both):
    peer, model = both
    ids = prompt(150, 1)
    with torch.inference_mode():
        expected = peer(torch.tensor([ids])).logits[0]
        hidden = model(torch.tensor(ids), torch.arange(len(ids)), PackedCausalAttention([len(ids)]))
        assert expected.std() > 0.5
        torch.testing.assert_close(model.logits(hidden), expected, atol=1e-4, rtol=0)
    assert sum(parameter.numel() for parameter in peer.parameters()) == model.config.parameters


def test_greedy_tokens_alone_in_chunks_and_in_a_mixed_batch(both):
    peer, model = both
    prompts = [prompt(length, length) for length in (47, 5, 90, 23)]
    wanted = [continued(peer, ids) for ids in prompts[:2]]

    def answers(given, **sizes):
        engine = Engine(model, None, EngineConfig(kv_bytes=1 << 22, **sizes))
        found = [answer.token_ids for answer in engine.generate(given, GREEDY)]
        engine.check_integrity()
        return [list(tokens) for tokens in found]

    assert answers(prompts[:1]) == wanted[:1]
    assert answers(prompts[:1], max_batched_tokens=8, max_running=8) == wanted[:1]
    assert answers(prompts, max_batched_tokens=32, max_running=8)[:2] == wanted


def test_the_text_part_of_a_model_that_sees_pictures(tmp_path):
    vision = transformers.SiglipVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14
    )
    text = transformers.Gemma3TextConfig(**{**COMMON, **GEMMA})
    torch.manual_seed(0)
    both_parts = transformers.Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4)
    peer = transformers.Gemma3ForConditionalGeneration(both_parts).eval()
    peer.save_pretrained(tmp_path)
    model, ids = load_model(tmp_path, dtype=torch.float32), prompt(60, 3)
    with torch.inference_mode():
        hidden = model(torch.tensor(ids), torch.arange(60), PackedCausalAttention([60]))
        torch.testing.assert_close(model.logits(hidden), peer(torch.tensor([ids])).logits[0], atol=1e-4, rtol=0)


def test_the_text_part_of_a_hybrid_that_sees_pictures(tmp_path):
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 64}
    text = {**COMMON, **HYBRID}
    torch.manual_seed(0)
    both_parts = transformers.Qwen3_5Config(text_config=text, vision_config=vision)
    peer = transformers.Qwen3_5ForConditionalGeneration(both_parts).eval()
    peer.save_pretrained(tmp_path)
    model, ids = load_model(tmp_path, dtype=torch.float32), prompt(60, 3)
    with torch.inference_mode():
        hidden = model(torch.tensor(ids), torch.arange(60), PackedCausalAttention([60]))
        torch.testing.assert_close(model.logits(hidden), peer(torch.tensor([ids])).logits[0], atol=1e-4, rtol=0)
