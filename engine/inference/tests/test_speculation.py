"""Guesses change how many tokens a step brings and nothing else: the same text with and without them."""

import json
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.inference import Engine, EngineConfig, Request, SamplingParams
from engine.inference.sequence import Sequence
from engine.inference.speculation import PROBATION, PromptLookup, Speculation
from engine.inference.tests.test_shaping import Numbers
from engine.inference.tests.tiny import VOCABULARY, tiny_model
from engine.models import load_for_inference, load_model
from engine.text import Renderer
from engine.text.grammar import GrammarCompiler, GrammarSpec
from fw_sdk.types import FwError
from kernels import native

PACKABLE = {"hidden_size": 64, "head_dim": 16, "intermediate_size": 96}
KINDS = ["float32", pytest.param("int8", marks=pytest.mark.skipif(native.library() is None, reason="no C compiler"))]
HOW = ["lookup", "draft", "wrong"]


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("speculation")
    return {seed: tiny_model(root / str(seed), seed=seed, **PACKABLE) for seed in (0, 1)}


@pytest.fixture(scope="module")
def renderer(folders):
    return Renderer.load(folders[0])


@pytest.fixture(scope="module")
def models(folders):
    """Target and a draft model that is sometimes right: the target with noise on its weights."""

    @cache
    def both(dtype):
        target = load_for_inference(folders[0], dtype=dtype, device=torch.device("cpu"), numerics="auto")
        near = load_model(folders[0], dtype=torch.float32)
        generator = torch.Generator().manual_seed(1)
        for buffer in near.buffers():
            if buffer.dim() == 2:
                buffer.mul_(1 + 0.05 * torch.randn(buffer.shape, generator=generator))
        return target, near

    return both


class WrongGuesses:
    """A proposer that is nearly always wrong."""

    def propose(self, wanted):
        return [[(sequence.known * 7 + place) % 250 for place in range(most)] for sequence, most in wanted]

    def forget(self, sequence_id):
        pass


def make(models, renderer, dtype, how, **sizes):
    target, near = models(dtype)
    kind = {"off": "off", "draft": "draft"}.get(how, "lookup")
    config = EngineConfig(speculation=kind, kv_bytes=sizes.pop("kv_bytes", 1 << 20), **sizes)
    engine = Engine(target, renderer, config, near if how == "draft" else None)
    if how == "wrong":
        engine._speculation = Speculation(WrongGuesses(), 4)
    return engine


def requests(temperature):
    """Plain ones, one that repeats itself, penalties, a grammar, prompt log-probabilities, stop strings."""
    base = {"max_tokens": 40, "temperature": temperature, "ignore_eos": True}
    copied = tuple(range(60, 80)) * 3
    return [
        Request("plain", (1, 2, 3), SamplingParams(**base, seed=1)),
        Request("cut", (4, 2), SamplingParams(**base, seed=2, top_p=0.9, top_k=20, logprobs=2)),
        Request("copied", copied, SamplingParams(**base, seed=3, logit_bias=tuple((t, 6.0) for t in range(60, 80)))),
        Request("stuck", (9,) * 12, SamplingParams(**base, seed=4, logit_bias=((9, 60.0),))),
        Request("penalised", copied, SamplingParams(**base, seed=5, frequency_penalty=0.6, repetition_penalty=1.2)),
        Request("grammar", (7, 7), SamplingParams(max_tokens=40, temperature=temperature, seed=6), grammar=Numbers(8)),
        Request("scored", copied, SamplingParams(**base, seed=7, prompt_logprobs=1, min_tokens=9)),
        Request("stopped", (30, 31), SamplingParams(**base, seed=8, stop=("\x00never", "A"), logprobs=0)),
    ]


@pytest.fixture(scope="module")
def alone(models, renderer):
    """Bytes of a page, and what each request says alone and without guesses."""

    @cache
    def all_alone(dtype):
        engine = make(models, renderer, dtype, "off", prefix_cache=False)
        return engine.memory.page_bytes, {item.id: answers(engine, [item])[0] for item in requests(1.0)}

    return all_alone


def answers(engine, items):
    found = engine.generate(items)
    engine.check_integrity()
    assert engine.stats.kv_usage == 0
    return [(answer.token_ids, answer.text, answer.finish_reason) for answer in found]


@pytest.mark.parametrize("dtype", KINDS)
@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_text_is_the_same_with_and_without_guesses(models, renderer, dtype, how, temperature):
    items = requests(temperature)
    wanted = answers(make(models, renderer, dtype, "off"), items)
    engine = make(models, renderer, dtype, how)
    assert answers(engine, items) == wanted
    stats = engine.stats
    assert stats.drafted_tokens > 0
    assert stats.accepted_tokens <= stats.drafted_tokens
    if how != "wrong":
        assert stats.accepted_tokens > 20
    assert stats.generation_tokens == sum(len(tokens) for tokens, *_ in wanted)


@settings(deadline=None, max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    dtype=st.sampled_from(["float32"] if native.library() is None else ["float32", "int8"]),
    how=st.sampled_from(HOW),
    budget=st.integers(4, 40),
    running=st.integers(1, 4),
    pages=st.integers(8, 30),
    order=st.permutations(range(8)),
    drafts=st.integers(1, 6),
    cached=st.booleans(),
)
def test_the_same_seed_gives_the_same_text_whatever_the_load(
    models, renderer, alone, dtype, how, budget, running, pages, order, drafts, cached
):
    items = requests(1.0)
    page_bytes, wanted = alone(dtype)
    engine = make(
        models,
        renderer,
        dtype,
        how,
        kv_bytes=pages * page_bytes,
        max_batched_tokens=max(budget, running),
        max_running=running,
        draft_tokens=drafts,
        prefix_cache=cached,
    )
    items = [items[place] for place in order if len(items[place].prompt) + 40 <= engine.context]
    for item, found in zip(items, answers(engine, items), strict=True):
        assert found == wanted[item.id]


@pytest.mark.parametrize("how", HOW)
def test_a_compiled_grammar_holds_along_guesses(models, renderer, how):
    compiler = GrammarCompiler(renderer.tokenizer, VOCABULARY, renderer.stop_ids)
    digits = compiler.compile(GrammarSpec("regex", "(12|345)(-(12|345)){2,9}"))
    names = ["red", "blue"]
    schema = {"type": "object", "properties": {name: {"enum": names} for name in names}, "required": names}
    schema["additionalProperties"] = False
    objects = compiler.compile(GrammarSpec("json_schema", json.dumps(schema)))
    items = [
        Request(f"{seed}", tuple(range(seed, seed + 9)) * 2, SamplingParams(max_tokens=90, seed=seed), grammar=grammar)
        for seed in range(6)
        for grammar in ((digits, objects)[seed % 2],)
    ]
    wanted = answers(make(models, renderer, "float32", "off"), items)
    engine = make(models, renderer, "float32", how)
    assert answers(engine, items) == wanted
    assert engine.stats.accepted_tokens > 0 or how != "lookup"
    for item, (_, text, reason) in zip(items, wanted, strict=True):
        if item.grammar is digits:
            assert reason == "stop"
            assert set(text.split("-")) <= {"12", "345"}
        elif reason == "stop":  # the others got lost in blanks
            assert set(json.loads(text)) == set(names)
    assert any(item.grammar is objects and reason == "stop" for item, (*_, reason) in zip(items, wanted, strict=True))


def test_log_probabilities_are_those_without_guesses(models, renderer):
    sampling = SamplingParams(max_tokens=30, temperature=0.9, seed=3, logprobs=2, ignore_eos=True)
    prompt = tuple(range(40, 60)) * 2
    one, other = (
        make(models, renderer, "float32", how).generate([Request("r", prompt, sampling)])[0] for how in ("off", "draft")
    )
    assert [item.token_id for item in one.logprobs] == [item.token_id for item in other.logprobs]
    assert [item.logprob for item in one.logprobs] == pytest.approx([item.logprob for item in other.logprobs], abs=1e-4)


def test_a_right_guess_saves_a_step_and_a_bad_guesser_is_stopped(models, renderer):
    stuck = Request("stuck", (9,) * 12, SamplingParams(max_tokens=60, temperature=0, logit_bias=((9, 100.0),)))
    engine = make(models, renderer, "float32", "lookup")
    engine.add(stuck)
    outputs = []
    while engine.has_work:
        outputs += engine.step()
    assert len(outputs) <= 14
    assert max(len(output.token_ids) for output in outputs) == 5
    assert sum((output.token_ids for output in outputs), ()) == (9,) * 60

    wrong = make(models, renderer, "float32", "wrong")
    wrong.generate([Request("r", (1, 2), SamplingParams(max_tokens=80, temperature=1.0, ignore_eos=True))])
    assert PROBATION <= wrong.stats.drafted_tokens < PROBATION + 8


def test_a_page_with_a_rejected_guess_is_not_shared(models, renderer):
    engine = make(models, renderer, "float32", "wrong")
    sampling = SamplingParams(max_tokens=40, temperature=0, ignore_eos=True)
    first = engine.generate([(5, 6, 7)], sampling)[0]
    again = engine.generate([(5, 6, 7, *first.token_ids[:35])], sampling)[0]
    assert again.usage.cached_tokens >= 32
    assert again.token_ids[:5] == first.token_ids[35:]


def test_lookup_finds_what_followed_the_last_time():
    def guesses(tokens, most, proposer=None, limit=100):
        sequence = Sequence(Request("r", tuple(tokens)), arrival=0, limit=limit)
        return (proposer or PromptLookup()).propose([(sequence, most)])[0]

    assert guesses([1, 2, 3, 4, 5, 6, 1, 2, 3], 3) == [4, 5, 6]
    assert guesses([1, 2, 3, 4, 9, 1, 2, 3, 5, 1, 2, 3], 2) == [5, 1]
    assert guesses([1, 2, 3, 4, 5], 3) == []
    assert guesses([7, 7, 7, 7], 4) == [7, 7, 7, 7]
    assert guesses([1, 2], 3) == []
    assert guesses([1, 2, 1, 2, 1, 2], 5) == [1, 2, 1, 2, 1]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 2), min_size=1, max_size=40), st.integers(1, 40), st.integers(1, 5))
def test_lookup_token_by_token_equals_lookup_at_once(tokens, start, most):
    start = min(start, len(tokens))
    sequence = Sequence(Request("r", tuple(tokens[:start])), arrival=0, limit=60)
    grown = PromptLookup()
    for token in tokens[start:]:
        grown.propose([(sequence, most)])
        sequence.append(token)
    whole = Sequence(Request("r", tuple(tokens)), arrival=0, limit=60)
    found = grown.propose([(sequence, most)])
    assert found == PromptLookup().propose([(whole, most)])
    place = next((p for p in range(len(tokens) - 1, 2, -1) if tokens[p - 3 : p] == tokens[-3:]), None)
    assert bool(found[0]) == (place is not None)
    if place is not None:
        expected = list(tokens)
        while len(expected) < len(tokens) + most:
            expected.append(expected[place + len(expected) - len(tokens)])
        assert found[0] == expected[len(tokens) :]


def test_a_draft_model_that_does_not_fit_is_refused(folders, models, renderer, tmp_path):
    target, near = models("float32")
    for config, draft in ((EngineConfig(speculation="draft"), None), (EngineConfig(), near)):
        with pytest.raises(FwError, match="draft"):
            Engine(target, renderer, config, draft)
    other = tiny_model(tmp_path / "other")
    text = (other / "tokenizer.json").read_text()
    (other / "tokenizer.json").write_text(text.replace("<|im_start|>", "<|other|>"))
    with pytest.raises(FwError, match="other tokens"):
        Engine.load(folders[0], dtype="float32", config=EngineConfig(speculation="draft"), draft_model=other)
    with pytest.raises(FwError, match="speculation must be one of"):
        EngineConfig(speculation="magic")
    with pytest.raises(FwError, match="draft_tokens"):
        EngineConfig(draft_tokens=0)


def test_a_draft_model_loads_from_its_path(folders, renderer):
    config = EngineConfig(speculation="draft", kv_bytes=1 << 20)
    engine = Engine.load(folders[0], dtype="float32", config=config, draft_model=folders[0])
    found = engine.generate([(1, 2, 3)], SamplingParams(max_tokens=41, temperature=1.0, ignore_eos=True))[0]
    assert len(found.token_ids) == 41
    assert engine.stats.accepted_tokens == engine.stats.drafted_tokens  # it is the target itself
    pool = engine._speculation._proposer._pool
    assert pool.free == pool.total
    engine.add(Request("r", (1, 2, 3)))
    for _ in range(3):
        engine.step()
    assert pool.free < pool.total
    engine.restart()
    assert pool.free == pool.total
    assert np.unique(found.token_ids).size > 5
