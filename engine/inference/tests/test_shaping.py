"""Penalties, biases, grammars and the prompt's log-probabilities, against the same rules spelled out token by token."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.inference import Engine, EngineConfig, Request, SamplingParams
from engine.inference.masks import allowed, masks_along
from engine.inference.sampler import draw
from engine.inference.shaping import Shaping, shape
from engine.inference.tests.tiny import VOCABULARY, tiny_model
from engine.models import PackedCausalAttention, load_model
from engine.text import Renderer
from fw_sdk.types import FwError

PAGE_BYTES = 2 * 2 * 16 * 4 * 4
END = 258
DASH, ZERO, NINE = (ord(char) - ord("!") for char in "-09")
"""Token ids of the tiny tokenizer."""


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="module")
def model(path):
    return load_model(path, dtype=torch.float32)


@pytest.fixture(scope="module")
def renderer(path):
    return Renderer.load(path)


def make(model, renderer=None, **sizes):
    return Engine(model, renderer, EngineConfig(page_size=4, **sizes))


@torch.inference_mode()
def plain_logits(model, tokens):
    ids = torch.tensor(tokens)
    return model.logits(model(ids, torch.arange(len(tokens)), PackedCausalAttention([len(tokens)]), None))


class Numbers:
    """A grammar of digits in groups of three with dashes between them, ``groups`` in all; an answer may end early."""

    def __init__(self, groups):
        self.groups = groups

    def matcher(self):
        return NumbersMatcher(self.groups)


class NumbersMatcher:
    def __init__(self, groups):
        self.length, self.taken = 4 * groups - 1, []

    @property
    def finished(self):
        return len(self.taken) == self.length or self.taken[-1:] == [END]

    def _allows(self, token):
        place = len(self.taken)
        if place >= self.length or self.taken[-1:] == [END]:
            return token == END
        if place % 4 == 3:
            return token in (DASH, END)
        return ZERO <= token <= NINE

    def mask(self):
        words = np.zeros(-(-VOCABULARY // 32), np.uint32)
        for token in range(VOCABULARY):
            if self._allows(token):
                words[token // 32] |= np.uint32(1 << token % 32)
        return words

    def accept(self, token):
        if not self._allows(token):
            raise FwError("internal", f"{token} may not come next")
        self.taken.append(token)

    def rollback(self, count):
        del self.taken[len(self.taken) - count :]


def spelled_out(logits, sampling, prompt, answer):
    """The penalties as their documents have them, one token at a time."""
    found = logits.double().clone()
    for token, bias in sampling.logit_bias:
        found[token] += bias
    for token in set(prompt) | set(answer):
        found[token] *= 1 / sampling.repetition_penalty if found[token] > 0 else sampling.repetition_penalty
    for token in set(answer):
        found[token] -= sampling.presence_penalty + sampling.frequency_penalty * answer.count(token)
    return found


TOKENS = st.lists(st.integers(0, 40), min_size=0, max_size=30)
PENALTIES = st.fixed_dictionaries(
    {
        "frequency_penalty": st.sampled_from([0.0, 0.7, -1.5]),
        "presence_penalty": st.sampled_from([0.0, 1.1, -0.4]),
        "repetition_penalty": st.sampled_from([1.0, 1.3, 0.8]),
        "logit_bias": st.dictionaries(st.integers(0, 60), st.floats(-9, 9), max_size=4).map(lambda x: tuple(x.items())),
    }
)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(TOKENS.filter(bool), TOKENS, PENALTIES, st.integers(0, 45)), min_size=1, max_size=4))
def test_a_token_that_the_device_alone_knows_counts_as_if_it_were_known(cases):
    shapings, latest = [], []
    for prompt, answer, changes, last in cases:
        request = Request("r", tuple(prompt), SamplingParams(temperature=0, min_tokens=len(answer) + 1, **changes))
        shapings.append(Shaping.of(request, 60, frozenset({3})))
        for token in answer:
            shapings[-1].push(token)
        latest.append(last)
    logits = torch.randn(len(cases), 64, generator=torch.Generator().manual_seed(0)) * 3
    unknown, known = logits.clone(), logits.clone()
    shape(unknown, {row: one.rows((), 1)[0] for row, one in enumerate(shapings)}, torch.tensor(latest))
    for one, last in zip(shapings, latest, strict=True):
        one.push(last)
    shape(known, {row: one.rows(())[0] for row, one in enumerate(shapings)})
    assert torch.equal(unknown, known)
    bare = [torch.empty(logits.shape, device="meta"), torch.tensor(latest, device="meta")]
    shape(bare[0], {row: one.rows((), 1)[0] for row, one in enumerate(shapings)}, bare[1])  # nothing is read back


@settings(deadline=None, max_examples=80)
@given(TOKENS.filter(bool), TOKENS, TOKENS, PENALTIES, st.integers(0, 99))
def test_penalties_are_what_they_say_behind_known_tokens_and_behind_drafts(prompt, answer, drafts, changes, seed):
    sampling = SamplingParams(temperature=0, **changes)
    request = Request("r", tuple(prompt), sampling)
    shaping = Shaping.of(request, 60, frozenset())
    if shaping is None:
        assert changes == {**changes, "frequency_penalty": 0, "presence_penalty": 0, "repetition_penalty": 1}
        return
    for token in answer:
        shaping.push(token)
    rows = len(drafts) + 1
    logits = torch.randn(rows, 64, generator=torch.Generator().manual_seed(seed)) * 3
    before = logits.clone()
    for _ in range(2):  # the first time must leave nothing behind
        shapes = dict(enumerate(shaping.rows(drafts)))
    drawn = draw(logits, [sampling] * rows, [0] * rows, shapes)
    assert torch.equal(logits, before)
    for row in range(rows):
        truth = spelled_out(logits[row], sampling, prompt, answer + drafts[:row])
        assert truth[drawn.tokens[row]] > truth.max() - 1e-5


def test_penalties_change_what_the_engine_says(model):
    plain = SamplingParams(max_tokens=60, temperature=0, ignore_eos=True)
    harsh = SamplingParams(max_tokens=60, temperature=0, ignore_eos=True, frequency_penalty=2.0, presence_penalty=2.0)
    engine = make(model)
    repeats = lambda answer: len(answer.token_ids) - len(set(answer.token_ids))  # noqa: E731
    first, second = engine.generate([Request("a", (7, 8, 9), plain), Request("b", (7, 8, 9), harsh)])
    assert repeats(second) < repeats(first)
    known = []
    for token in second.token_ids:
        truth = spelled_out(plain_logits(model, [7, 8, 9, *known])[-1], harsh, [7, 8, 9], known)
        assert truth[token] > truth.max() - 1e-4
        known.append(token)


def test_a_bias_forces_and_forbids(model):
    forced = SamplingParams(max_tokens=5, temperature=1.0, ignore_eos=True, logit_bias=((66, 100.0),), logprobs=0)
    found = make(model).generate([(1, 2)], forced)[0]
    assert set(found.token_ids) == {66}
    truth = plain_logits(model, [1, 2, *found.token_ids]).log_softmax(-1)[1:-1, 66]
    assert [item.logprob for item in found.logprobs] == pytest.approx(truth.tolist(), abs=1e-4)


def test_min_tokens_keeps_the_end_away(model, renderer):
    ends = SamplingParams(max_tokens=30, temperature=0, logit_bias=((END, 100.0),))
    assert make(model, renderer).generate([(1,)], ends)[0].usage.completion_tokens == 1
    late = SamplingParams(max_tokens=30, temperature=0, logit_bias=((END, 100.0),), min_tokens=9)
    found = make(model, renderer).generate([(1,)], late)[0]
    assert (found.usage.completion_tokens, found.finish_reason) == (10, "stop")


@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_a_grammar_holds_and_its_end_is_a_stop(model, renderer, temperature):
    requests = [
        Request(str(i), (i,), SamplingParams(max_tokens=50, temperature=temperature, seed=i), grammar=Numbers(3))
        for i in range(12)
    ]
    engine = make(model, renderer)
    found = engine.generate(requests)
    for answer in found:
        assert answer.finish_reason == "stop"
        groups = answer.text.split("-")
        assert all(len(group) == 3 and group.isdigit() for group in groups)
        ended = answer.token_ids[-1] == END
        assert ended or len(groups) == 3
    assert engine.stats.masked_rows == sum(answer.usage.completion_tokens for answer in found)
    assert engine.stats.mask_seconds > 0


def test_a_broken_grammar_fails_its_own_request(model, renderer):
    class Broken(NumbersMatcher):
        def __init__(self, fails):
            super().__init__(3)
            self.fails = fails

        def mask(self):
            if self.fails == "mask" and len(self.taken) == 2:
                raise ValueError("lost")
            if self.fails == "closed" and len(self.taken) == 2:
                return np.zeros(-(-VOCABULARY // 32), np.uint32)
            return super().mask()

        def accept(self, token):
            if self.fails == "accept" and len(self.taken) == 2:
                raise RuntimeError("lost too")
            super().accept(token)

    class Grammar:
        def __init__(self, fails):
            self.fails = fails

        def matcher(self):
            return Broken(self.fails)

    sampling = SamplingParams(max_tokens=20, temperature=0)
    engine = make(model, renderer)
    for name in ("mask", "closed", "accept", "none"):
        engine.add(Request(name, (1, 2), sampling, grammar=Grammar(name)))
    ends = {}
    while engine.has_work:
        for output in engine.step():
            if output.finished:
                ends[output.request_id] = output
        engine.check_integrity()
    assert ends["none"].finish_reason == "stop"
    for name, word in (("mask", "lost"), ("closed", "no token"), ("accept", "lost too")):
        assert word in ends[name].error.message
    assert engine.stats.kv_usage == 0


def test_masks_of_a_vocabulary_that_is_no_multiple_of_anything():
    words = np.array([0b101, 1 << 31], np.uint32)
    assert np.flatnonzero(allowed([words], 64)[0]).tolist() == [0, 2, 63]
    assert np.flatnonzero(allowed([words, words], 70)[1]).tolist() == [0, 2, 63]
    assert np.flatnonzero(allowed([words], 33)[0]).tolist() == [0, 2]


def test_masks_along_drafts_stop_where_the_grammar_does():
    matcher = NumbersMatcher(1)
    digits = [ZERO, ZERO + 1, NINE]
    found = masks_along(matcher, digits, frozenset({END}))
    assert [mask is not None for mask in found] == [True, True, True, False]
    found = masks_along(matcher, [ZERO, DASH, ZERO], frozenset())
    assert [mask is not None for mask in found] == [True, True, False, False]
    assert matcher.taken == []


SCORED = SamplingParams(max_tokens=4, temperature=0.7, ignore_eos=True, prompt_logprobs=2, logprobs=1)
SIZES = {
    "roomy": {},
    "chunked": {"max_batched_tokens": 7, "max_running": 4},
    "preempted": {"kv_bytes": 30 * PAGE_BYTES, "max_running": 8, "max_batched_tokens": 24},
}


@pytest.mark.parametrize("sizes", SIZES)
def test_prompt_logprobs_equal_a_plain_forward_however_the_prompt_is_computed(model, sizes):
    engine = make(model, **SIZES[sizes])
    prompts = [tuple((11 * i + 5 * place) % 250 for place in range(1 + 9 * i)) for i in range(8)]
    engine.generate(prompts, SamplingParams(max_tokens=9, ignore_eos=True))  # the prefix cache knows all of them now
    found = engine.generate([Request(f"s{i}", prompt, SCORED) for i, prompt in enumerate(prompts)])
    for prompt, answer in zip(prompts, found, strict=True):
        truth = plain_logits(model, prompt + answer.token_ids).log_softmax(-1)
        scores = answer.prompt_logprobs
        assert len(scores) == len(prompt)
        assert scores[0] is None
        for place, item in enumerate(scores[1:], 1):
            assert item.token_id == prompt[place]
            assert item.logprob == pytest.approx(truth[place - 1, prompt[place]].item(), abs=1e-4)
            assert [value for _, value in item.top] == pytest.approx(truth[place - 1].topk(2).values.tolist(), abs=1e-4)
        assert answer.usage.cached_tokens == 0
        assert len(answer.logprobs) == 4
    assert sizes != "preempted" or engine.stats.preemptions > 0
    engine.check_integrity()


def test_a_prompt_longer_than_the_rows_of_a_step_is_scored_in_turns(model, monkeypatch):
    engine = make(model)
    engine._scheduler.spare_rows = 3
    prompts = [tuple(range(40)), tuple(range(90, 60, -1))]
    found = engine.generate([*(Request(str(i), prompt, SCORED) for i, prompt in enumerate(prompts)), (5, 6)])
    for prompt, answer in zip(prompts, found, strict=False):
        truth = plain_logits(model, prompt).log_softmax(-1)
        assert [item.logprob for item in answer.prompt_logprobs[1:]] == pytest.approx(
            [truth[place, token].item() for place, token in enumerate(prompt[1:])], abs=1e-4
        )


def test_rows_that_nobody_shapes_are_not_changed_by_those_that_are(model, renderer):
    plain = SamplingParams(max_tokens=20, temperature=1.0, seed=4, ignore_eos=True)
    alone = make(model, renderer).generate([(1, 2, 3)], plain)[0]
    shaped = SamplingParams(max_tokens=20, temperature=1.0, seed=5, frequency_penalty=1.0, logit_bias=((9, 3.0),))
    others = [Request(f"o{i}", (1, 2, i), shaped, grammar=Numbers(4) if i % 2 else None) for i in range(5)]
    found = make(model, renderer).generate([*others, Request("it", (1, 2, 3), plain)])
    assert found[-1].token_ids == alone.token_ids
    again = make(model, renderer).generate([others[2]])[0]
    assert again.token_ids == found[2].token_ids


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("frequency_penalty", 2.1),
        ("presence_penalty", "much"),
        ("repetition_penalty", 0),
        ("repetition_penalty", math.nan),
        ("logit_bias", ((1, 200.0),)),
        ("logit_bias", ((1, 2.0), (1, 3.0))),
        ("logit_bias", ((-1, 2.0),)),
        ("logit_bias", {1: 2.0}),
        ("prompt_logprobs", 21),
        ("min_tokens", -1),
        ("min_tokens", 257),
    ],
)
def test_wrong_parameters_are_refused_by_name(field, value):
    with pytest.raises(FwError) as caught:
        SamplingParams(**{field: value})
    assert caught.value.code == "invalid_argument"
    assert caught.value.param == field


@pytest.mark.parametrize(
    ("request_", "word"),
    [
        (Request("r", (1,), SamplingParams(logit_bias=((VOCABULARY, 1.0),))), "logit_bias"),
        (Request("r", (1,), SamplingParams(min_tokens=3), grammar=Numbers(1)), "min_tokens"),
    ],
)
def test_what_cannot_be_shaped_is_refused(model, request_, word):
    with pytest.raises(FwError, match=word):
        make(model).add(request_)
