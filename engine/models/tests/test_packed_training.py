"""Training on packed weights: the loss and the gradient are those of the same model in float32."""

import pytest
import torch

from engine.models import PackedCausalAttention, SingleAdapter, load_for_training, load_model, new_adapter, packed
from kernels import native


def loss_and_gradient(model, adapter, ids):
    hidden = model(ids, torch.arange(len(ids)), PackedCausalAttention([len(ids)]), SingleAdapter(adapter))
    loss = torch.nn.functional.cross_entropy(model.logits(hidden[:-1]), ids[1:])
    gradients = torch.autograd.grad(loss, adapter.parameters())
    return loss.item(), torch.cat([gradient.reshape(-1) for gradient in gradients])


@pytest.mark.model
@pytest.mark.skipif(native.library() is None, reason="no C compiler here")
def test_loss_and_gradient_are_closer_to_float32_than_bfloat16_products_are(starter_gguf, monkeypatch):
    monkeypatch.setattr(packed, "outruns_bf16", lambda: True)
    full = load_model(starter_gguf, dtype=torch.float32)
    plain = load_model(starter_gguf, dtype=torch.bfloat16)
    model = load_for_training(starter_gguf, dtype=torch.bfloat16, device=torch.device("cpu"))
    assert model.layers[0].packed and model.layers[0].qkv.numel() == 0
    adapter = new_adapter(full.config, 4, 8, ("q_proj", "v_proj", "down_proj"), seed=0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for _, up in adapter.weights.values():
            up.copy_(torch.randn(up.shape, generator=generator) * 0.01)
    ids = torch.randint(1000, 20000, (96,), generator=generator)
    loss, gradient = loss_and_gradient(full, adapter, ids)
    packed_loss, packed_gradient = loss_and_gradient(model, adapter, ids)
    _, plain_gradient = loss_and_gradient(plain, adapter, ids)

    def angle(other):
        return torch.nn.functional.cosine_similarity(gradient, other, 0).item()

    assert abs(packed_loss - loss) < 0.02 * loss
    assert angle(packed_gradient) > 0.99
    assert angle(packed_gradient) > angle(plain_gradient) - 0.002
