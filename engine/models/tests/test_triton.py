"""Models through the Triton kernels, in the interpreter where there is no GPU: as through torch, there and back."""

import pytest
import torch
import transformers

from engine.models import PackedCausalAttention, load_model
from kernels.registry import preferring
from kernels.rms_norm import gpu

COMMON = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 24,
    "tie_word_embeddings": False,
}
MIXTURE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "norm_topk_prob": True}
FAMILIES = {
    "llama": (transformers.LlamaForCausalLM, transformers.LlamaConfig, {}),
    "qwen3": (transformers.Qwen3ForCausalLM, transformers.Qwen3Config, {}),
    "qwen3_moe": (transformers.Qwen3MoeForCausalLM, transformers.Qwen3MoeConfig, MIXTURE),
    "gemma3": (transformers.Gemma3ForCausalLM, transformers.Gemma3TextConfig, {"query_pre_attn_scalar": 16}),
}


@pytest.fixture(params=FAMILIES)
def model(request, tmp_path):
    """A random model of each family."""
    kind, config, fields = FAMILIES[request.param]
    torch.manual_seed(0)
    peer = kind(config(**{**COMMON, **fields}))
    for name, parameter in peer.named_parameters():
        noise = torch.randn_like(parameter)
        parameter.data = parameter + noise * 0.3 if "norm" in name else noise * parameter.shape[-1] ** -0.5
    peer.save_pretrained(tmp_path)
    return load_model(tmp_path, dtype=torch.float32)


def test_logits_and_gradients_are_those_of_torch(model, device):
    model.to(device)
    ids = torch.tensor([3, 9, 27, 17, 51], device=device)
    positions = torch.tensor([0, 1, 2, 0, 1], device=device)
    found = []
    for backend in ("triton", "torch"):
        model.embedding = model.embedding.detach().requires_grad_()
        with preferring(backend):
            logits = model.logits(model(ids, positions, PackedCausalAttention([3, 2])))
            found.append((logits, torch.autograd.grad(logits.logsumexp(1).sum(), model.embedding)[0]))
    assert found[0][0].std() > 0.5
    assert not torch.equal(*(logits for logits, _ in found))
    for ours, truth in zip(*found, strict=True):
        torch.testing.assert_close(ours, truth, atol=1e-4, rtol=1e-3)


def test_residual_sums_are_normed_in_the_pass_that_adds(model, device, monkeypatch):
    """Without gradients; the two norms behind sums, and the first one, which has none."""
    model.to(device)
    ids, positions = torch.tensor([3, 9, 27, 17, 51], device=device), torch.tensor([0, 1, 2, 0, 1], device=device)
    residuals, launch = [], gpu._launch

    def counted(hidden, residual, *others):
        if hidden.shape[-1] == COMMON["hidden_size"]:
            residuals.append(residual is not None)
        launch(hidden, residual, *others)

    monkeypatch.setattr(gpu, "_launch", counted)
    found = []
    for backend in ("triton", "torch"):
        with torch.no_grad(), preferring(backend):
            found.append(model.logits(model(ids, positions, PackedCausalAttention([3, 2]))))
    own = 2 if model.config.family == "gemma3" else 0  # what a block adds is normed as well
    assert sorted(residuals) == [False] * (1 + own) + [True, True]
    torch.testing.assert_close(*found, atol=1e-4, rtol=1e-3)
