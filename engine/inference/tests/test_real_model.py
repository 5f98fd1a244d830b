"""The real starter model through the engine: what it says, and that batching does not change it."""

import pytest
import torch

from engine.inference import Engine, EngineConfig, SamplingParams
from engine.models import PackedCausalAttention

QUESTIONS = ("What is the capital of France?", "What is two plus two?", "Name a colour.")


@pytest.mark.model
def test_the_starter_answers_the_same_alone_and_in_a_batch(starter_gguf):
    engine = Engine.load(starter_gguf, dtype="float32", config=EngineConfig(kv_bytes=64 << 20, max_batched_tokens=64))
    chats = [[{"role": "user", "content": question}] for question in QUESTIONS]
    greedy = SamplingParams(max_tokens=8, temperature=0)
    together = engine.generate(chats, greedy)
    assert together[0].text == "The capital of France is Paris."
    assert together[0].finish_reason == "stop"
    assert engine.generate(chats[1:2], greedy)[0].token_ids == together[1].token_ids
    prompt = engine.renderer.render(chats[2])
    ids = torch.tensor([*prompt, *together[2].token_ids])
    with torch.inference_mode():
        hidden = engine.model(ids, torch.arange(len(ids)), PackedCausalAttention([len(ids)]))
        best = engine.model.logits(hidden[len(prompt) - 1 : -1]).argmax(-1)
    assert tuple(best.tolist()) == together[2].token_ids
    engine.check_integrity()
