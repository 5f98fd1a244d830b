"""The engine on weights in 4 and 8 bits: the same answers in any company, log-probs that recompute to the same bits."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from engine.inference import Engine, EngineConfig, Request, SamplingParams
from engine.inference.tests.tiny import tiny_adapter, tiny_model
from engine.models import PackedCausalAttention, load_adapter, load_model, save_adapter
from fw_sdk.types import FwError
from kernels import native

pytestmark = pytest.mark.skipif(native.library() is None, reason="no C compiler here")

PACKABLE = {"hidden_size": 64, "head_dim": 16, "intermediate_size": 96}
PROMPTS = [[(7 * row + 3 * place) % 250 for place in range(5 + 11 * row)] for row in range(6)]
SMALL = EngineConfig(kv_bytes=1 << 20, max_batched_tokens=64)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("packed") / "model", **PACKABLE)


@pytest.fixture(params=["int8", "int4"])
def engine(folder, request):
    return Engine.load(folder, dtype=request.param, config=SMALL)


def test_a_prompt_has_one_answer_alone_in_a_batch_and_beside_an_adapter(engine, folder, tmp_path):
    params = SamplingParams(max_tokens=12, temperature=0.8, seed=3, ignore_eos=True, logprobs=2)
    alone = [engine.generate([prompt], params)[0] for prompt in PROMPTS]
    engine.load_adapter("other", tiny_adapter(tmp_path / "a", folder, seed=1))
    requests = [Request(str(row), tuple(prompt), params) for row, prompt in enumerate(PROMPTS)]
    beside = [Request(f"a{row}", tuple(prompt), params, "other") for row, prompt in enumerate(PROMPTS)]
    together = engine.generate([*requests, *beside])
    for row, answer in enumerate(alone):
        assert together[row].token_ids == answer.token_ids
        assert together[row].logprobs == answer.logprobs
        assert together[len(PROMPTS) + row].token_ids != answer.token_ids
    engine.check_integrity()


def test_a_sampled_log_prob_is_recomputed_to_the_same_bits(engine):
    params = SamplingParams(max_tokens=8, temperature=1.0, seed=1, ignore_eos=True, logprobs=0)
    answers = engine.generate(PROMPTS, params)
    for prompt, answer in zip(PROMPTS, answers, strict=True):
        for place, token in enumerate(answer.token_ids):
            known = [*prompt, *answer.token_ids[:place]]
            again = SamplingParams(max_tokens=1, temperature=0, ignore_eos=True, logprobs=20)
            top = dict(engine.generate([known], again)[0].logprobs[0].top)
            if token in top:
                assert top[token] == answer.logprobs[place].logprob
    engine.check_integrity()


def test_pages_that_run_out_change_no_answer(folder):
    params = SamplingParams(max_tokens=40, temperature=0, ignore_eos=True)
    roomy = Engine.load(folder, dtype="int8", config=SMALL)
    page_bytes = roomy.memory.page_bytes
    narrow = Engine.load(folder, dtype="int8", config=EngineConfig(kv_bytes=12 * page_bytes, max_batched_tokens=64))
    wanted = [answer.token_ids for answer in roomy.generate(PROMPTS, params)]
    assert [answer.token_ids for answer in narrow.generate(PROMPTS, params)] == wanted
    assert narrow.stats.preemptions > 0
    narrow.check_integrity()


def test_an_adapter_that_is_not_finite_fails_its_own_request_alone(folder, tmp_path):
    engine = Engine.load(folder, dtype="int8", config=SMALL)
    params = SamplingParams(max_tokens=6, temperature=0, ignore_eos=True)
    wanted = engine.generate([PROMPTS[3]], params)[0].token_ids
    broken = load_adapter(tiny_adapter(tmp_path / "nan", folder, seed=1), engine.model.config, torch.float32)
    for _, up in broken.weights.values():
        up.fill_(float("nan"))
    save_adapter(tmp_path / "broken", broken, "tiny")
    engine.load_adapter("broken", tmp_path / "broken")
    with pytest.raises(FwError, match="not a finite number"):
        engine.generate([PROMPTS[3]], params, adapter="broken")
    assert engine.generate([PROMPTS[3]], params)[0].token_ids == wanted
    engine.check_integrity()


def test_packed_answers_follow_the_full_model(folder):
    """Logits of int8 weights with fine activations stay near those of the weights they were made from."""
    engine = Engine.load(folder, dtype="int8", config=SMALL)
    assert (engine.format, engine.numerics, engine.packed) == ("int8", "exact", True)
    model = load_model(folder, dtype=torch.float32)
    for prompt in PROMPTS:
        with torch.inference_mode():
            hidden = model(torch.tensor(prompt), torch.arange(len(prompt)), PackedCausalAttention([len(prompt)]))
            wanted = model.logits(hidden[-1:])[0].log_softmax(-1)
        params = SamplingParams(max_tokens=1, temperature=0, ignore_eos=True, logprobs=5)
        for token, logprob in engine.generate([prompt], params)[0].logprobs[0].top:
            assert abs(logprob - wanted[token].item()) < 0.5


QWEN = {
    "qwen2": {f"{part}_proj.bias": 32 if part == "q" else 16 for part in "qkv"},
    "qwen3": {"q_norm.weight": 16, "k_norm.weight": 16},
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "rope_theta": 10000.0}


@pytest.mark.parametrize("family", QWEN)
def test_qwen_runs_in_the_compiled_step_too(family, tmp_path):
    """Biases and norms of heads, and cosines stretched by YaRN: log-probs near those of the full model."""
    folder = tiny_model(tmp_path / "model", **{**PACKABLE, "num_attention_heads": 2, "num_key_value_heads": 1})
    tensors, generator = load_file(folder / "model.safetensors"), torch.Generator().manual_seed(4)
    for layer in range(2):
        for name, size in QWEN[family].items():
            values = torch.rand(size, generator=generator) + 0.5
            tensors[f"model.layers.{layer}.self_attn.{name}"] = values
    save_file(tensors, folder / "model.safetensors")
    fields = json.loads((folder / "config.json").read_text())
    changes = {"model_type": family, "architectures": [f"{family.title()}ForCausalLM"], "rope_parameters": YARN}
    (folder / "config.json").write_text(json.dumps({**fields, **changes}))
    engine = Engine.load(folder, dtype="int8", config=SMALL)
    assert engine.packed and engine.model.config.family == family
    model, params = load_model(folder, dtype=torch.float32), SamplingParams(max_tokens=1, temperature=0, logprobs=5)
    for prompt in PROMPTS[2:4]:
        with torch.inference_mode():
            hidden = model(torch.tensor(prompt), torch.arange(len(prompt)), PackedCausalAttention([len(prompt)]))
            wanted = model.logits(hidden[-1:])[0].log_softmax(-1)
        for token, logprob in engine.generate([prompt], params)[0].logprobs[0].top:
            assert abs(logprob - wanted[token].item()) < 0.2


@pytest.mark.parametrize(
    ("options", "changes", "word"),
    [
        ({"dtype": "int8"}, {"hidden_size": 48}, "hidden size 48"),
        ({"dtype": "stored"}, PACKABLE, "full precision"),
        ({"numerics": "sloppy"}, PACKABLE, "sloppy"),
        ({"dtype": "int8", "config": EngineConfig(page_size=8)}, PACKABLE, "page_size"),
    ],
)
def test_what_cannot_be_held_like_that_is_refused_with_its_reason(tmp_path, options, changes, word):
    folder = tiny_model(tmp_path / "model", **changes)
    with pytest.raises(FwError, match=word):
        Engine.load(folder, **options)


@pytest.mark.model
def test_the_starter_in_its_own_bits_says_what_float32_says(starter_gguf):
    chats = [[{"role": "user", "content": question}] for question in ("What is the capital of France?", "Count to 5.")]
    greedy = SamplingParams(max_tokens=24, temperature=0)
    config = EngineConfig(kv_bytes=64 << 20)
    full = Engine.load(starter_gguf, dtype="float32", config=config).generate(chats, greedy)
    packed = Engine.load(starter_gguf, config=config)
    assert packed.format == "q4_1"
    assert [answer.text for answer in packed.generate(chats, greedy)] == [answer.text for answer in full]
    assert packed.memory.weight_bytes < 100 << 20
