"""A few steps on other families than Llama: the loss and its gradient do not depend on packing, and the loss falls."""

import pytest
import torch
import transformers

from engine.models import load_model, new_adapter
from engine.training.tests.test_trainer import ALPHA, RANK, SETTINGS, random_rows
from engine.training.trainable import TrainableAdapter
from engine.training.trainer import Trainer

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
CASES = {
    "Qwen3": {},
    "Qwen3Moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32},
    "Gemma3": {"sliding_window": 9, "layer_types": ["sliding_attention", "full_attention"]},
    "GptOss": {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 9},
}


@pytest.mark.parametrize("name", CASES)
def test_a_few_steps(name, tmp_path):
    torch.manual_seed(0)
    config = getattr(transformers, "Gemma3TextConfig" if name == "Gemma3" else f"{name}Config")
    getattr(transformers, f"{name}ForCausalLM")(config(**{**COMMON, **CASES[name]})).save_pretrained(tmp_path)
    model = load_model(tmp_path, dtype=torch.float32)
    rows = random_rows(12, common=14)
    adapter = new_adapter(model.config, RANK, ALPHA, model.config.targets, seed=3)
    for _, up in adapter.weights.values():
        up.data.normal_(0, 0.05, generator=torch.Generator().manual_seed(1))
    trainer = Trainer(model, TrainableAdapter(adapter, dtype=model.dtype, device=model.device), rows, SETTINGS)
    loss, gradient = trainer.loss_and_gradient(range(4))
    trained = [row.trained_tokens for row in rows[:4]]
    alone = [trainer.loss_and_gradient([row]) for row in range(4)]
    shares = [count / sum(trained) for count in trained]
    assert loss == pytest.approx(sum(share * one for share, (one, _) in zip(shares, alone, strict=True)), abs=1e-5)
    summed = sum(share * one for share, (_, one) in zip(shares, alone, strict=True))
    torch.testing.assert_close(gradient, summed, atol=1e-5, rtol=1e-3)
    before = trainer.evaluate(rows)
    trainer.run(lambda report: None)
    assert trainer.evaluate(rows) < before - 0.1
