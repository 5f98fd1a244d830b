"""The real model from its GGUF file against transformers, which dequantises the same file."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from engine.models import PackedCausalAttention, load_model
from engine.text import Renderer

QUESTIONS = [
    "What is the capital of France?",
    "Write a Python function that adds two numbers.",
    "List three colours. Answer with JSON.",
    "Erkläre mir, was ein Vulkan ist. 🌋",
]


TOLERANCE = 1e-4
"""Largest difference of a logit in float32."""


@pytest.fixture(scope="module")
def peer(starter_gguf):
    return AutoModelForCausalLM.from_pretrained(
        starter_gguf.parent, gguf_file=starter_gguf.name, dtype=torch.float32
    ).eval()


@pytest.fixture(scope="module")
def model(starter_gguf):
    return load_model(starter_gguf, dtype=torch.float32)


def prompts(renderer, count):
    """``count`` prompts of mixed length, the longest of exactly 1,000 tokens."""
    made = [renderer.render([{"role": "user", "content": QUESTIONS[0]}])]
    text = " ".join(QUESTIONS) * 40
    lengths = torch.linspace(1000, 30, count - 1).int().tolist()
    for number, length in enumerate(lengths):
        ids = renderer.render([{"role": "user", "content": QUESTIONS[number % 4] + " " + text[number * 7 :]}])
        made.append(ids[:length])
    return made


def compare(model, peer, prompts, greedy):
    """Logits of every prompt, greedy continuations of some; returns how many of these are the same to the end."""
    same = 0
    for number, ids in enumerate(prompts):
        with torch.inference_mode():
            hidden = model(torch.tensor(ids), torch.arange(len(ids)), PackedCausalAttention([len(ids)]))
            expected = peer(torch.tensor([ids])).logits[0]
            torch.testing.assert_close(model.logits(hidden), expected, atol=TOLERANCE, rtol=0)
            if number in greedy:
                same += same_or_tied(peer, ids, greedy_tokens(model, ids, 64), peer_tokens(peer, ids, 64))
    return same


def same_or_tied(peer, ids, ours, theirs):
    """Whether two continuations are the same; where they part, the peer's own logits must leave it open."""
    if ours == theirs:
        return True
    place = next(i for i, pair in enumerate(zip(ours, theirs, strict=True)) if pair[0] != pair[1])
    logits = peer(torch.tensor([[*ids, *theirs[:place]]])).logits[0, -1]
    gap = float(logits[theirs[place]] - logits[ours[place]])
    assert 0 <= gap <= 2 * TOLERANCE, f"token {place}: {ours[place]} is {gap} below {theirs[place]}"
    return False


def greedy_tokens(model, ids, count):
    from kernels.paged_attention import new_pages, paged_attention, plan_batch, turn_and_write

    config, table = model.config, list(range(-(-(len(ids) + count) // 16)))
    pages = new_pages(config.layers, len(table), 16, config.kv_heads, config.head_dim, model.dtype)
    made, fed = [], ids
    while len(made) < count:
        plan = plan_batch([len(fed)], [len(ids) + len(made)], [table], 16)

        def attention(layer, query, key, value, *, turns, spec, plan=plan):
            turned = turn_and_write(query, key, value, turns, pages[layer], plan)
            return paged_attention(turned, pages[layer], plan, spec)

        hidden = model(torch.tensor(fed), plan.positions, attention)
        fed = [int(model.logits(hidden[-1:]).argmax())]
        made += fed
    return made


def peer_tokens(peer, ids, count):
    # Without a mask generate() would take every <|im_end|> in the prompt for padding and not attend to it.
    prompt = torch.tensor([ids])
    out = peer.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=count,
        min_new_tokens=count,
        do_sample=False,
        eos_token_id=None,
    )
    return out[0, len(ids) :].tolist()


@pytest.mark.model
def test_logits_and_greedy_tokens_equal_transformers(model, peer, starter_gguf):
    assert compare(model, peer, prompts(Renderer.load(starter_gguf), 2), greedy={0}) == 1


@pytest.mark.model
@pytest.mark.slow
def test_twenty_prompts_equal_transformers(model, peer, starter_gguf):
    assert compare(model, peer, prompts(Renderer.load(starter_gguf), 20), greedy=range(20)) >= 18
