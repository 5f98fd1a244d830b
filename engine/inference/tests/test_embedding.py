"""Vectors against transformers and sentence-transformers' own rule, and the thread under many callers."""

import asyncio
import json
import random

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, processors
from transformers import AutoModel, AutoTokenizer, Qwen3Config, Qwen3Model

from engine.inference import EmbeddingEngine, EmbeddingLoop
from engine.inference.embedding import batches
from engine.inference.tests.tiny_bert import WORDS, save_tiny_bert, write_modules
from fw_sdk.types import FwError

TEXTS = [
    "The cat sat on the mat.",
    "a dog",
    "",
    "Zürich is städtisch, 東京 is big",
    "the cats running away " * 4,
    "a dog",
]


def expected(folder, texts, pool, limit):
    """One text at a time through transformers."""
    model, tokenizer = (
        AutoModel.from_pretrained(folder, dtype=torch.float32).eval(),
        AutoTokenizer.from_pretrained(folder),
    )
    vectors = []
    for text in texts:
        with torch.no_grad():
            inputs = tokenizer(text, return_tensors="pt", truncation=True, max_length=limit)
            vectors.append(pool(model(**inputs).last_hidden_state[0]))
    return torch.stack(vectors).numpy()


def unit(vector):
    return torch.nn.functional.normalize(vector, dim=-1)


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny-bert")
    save_tiny_bert(folder)
    return folder


@pytest.fixture(scope="module")
def engine(bert):
    return EmbeddingEngine.load(bert, max_batched_tokens=40)


def test_mean_pooling_equals_transformers(bert, engine):
    found = engine.embed(TEXTS)
    np.testing.assert_allclose(found.vectors, expected(bert, TEXTS, lambda h: unit(h.mean(0)), 64), atol=1e-5)
    assert found.token_counts[1] == 2 + 2 and found.token_counts[2] == 2
    assert (engine.width, engine.context, engine.format) == (32, 64, "float32")


@pytest.mark.parametrize(
    ("pooling", "normalise", "activation", "pool"),
    [
        ("pooling_mode_cls_token", True, "gelu", lambda h: unit(h[0])),
        ("pooling_mode_mean_tokens", False, "relu", lambda h: h.mean(0)),
        ("pooling_mode_lasttoken", True, "gelu_new", lambda h: unit(h[-1])),
    ],
)
def test_pooling_is_what_the_folder_says(tmp_path, pooling, normalise, activation, pool):
    save_tiny_bert(tmp_path, pooling=pooling, normalise=normalise, hidden_act=activation)
    found = EmbeddingEngine.load(tmp_path).embed(TEXTS).vectors
    np.testing.assert_allclose(found, expected(tmp_path, TEXTS, pool, 64), atol=1e-5)


def test_a_vector_does_not_depend_on_what_is_beside_it(engine):
    random.seed(1)
    texts = [" ".join(random.choices(WORDS[:-2], k=random.randint(0, 40))) for _ in range(40)]
    together = engine.embed(texts).vectors
    for number in range(0, 40, 7):
        np.testing.assert_allclose(engine.embed([texts[number]]).vectors[0], together[number], atol=1e-6)


def test_token_ids_are_taken_as_they_are(engine):
    ids = engine.tokenize(TEXTS[:2])
    np.testing.assert_array_equal(engine.embed(ids).vectors, engine.embed(TEXTS[:2]).vectors)


def test_too_long_is_refused_unless_truncation_is_asked_for(bert, engine):
    long = "the cat " * 100
    with pytest.raises(FwError) as caught:
        engine.embed(["a", long])
    assert caught.value.code == "context_length_exceeded"
    assert "Input 1 has 202 tokens" in caught.value.message and "64" in caught.value.message
    cut = engine.embed([long], truncate=True)
    assert cut.token_counts == (64,)
    np.testing.assert_allclose(cut.vectors, expected(bert, [long], lambda h: unit(h.mean(0)), 64), atol=1e-5)
    assert engine.tokenize([long], truncate=True)[0][-1] == 3


def test_fewer_dimensions_are_the_leading_ones_scaled(engine):
    whole, short = engine.embed(TEXTS).vectors, engine.embed(TEXTS, dimensions=8).vectors
    np.testing.assert_allclose(short, unit(torch.tensor(whole[:, :8])).numpy(), atol=1e-6)
    for wrong in (0, 33):
        with pytest.raises(FwError, match="1 to 32"):
            engine.embed(TEXTS, dimensions=wrong)


@pytest.mark.parametrize("inputs", [[], [[]], [[1, 99999]], [[-1]], ["\ud800"]])
def test_what_cannot_be_embedded(engine, inputs):
    with pytest.raises(FwError) as caught:
        engine.embed(inputs)
    assert caught.value.code == "invalid_argument"


def test_batches_keep_the_budget_and_lose_nothing():
    lengths = [random.randint(1, 30) for _ in range(200)]
    made = list(batches(lengths, 50))
    assert sorted(number for batch in made for number in batch) == list(range(200))
    assert all(sum(lengths[number] for number in batch) <= 50 for batch in made)
    assert list(batches([99], 50)) == [[0]]


def test_a_decoder_with_last_token_pooling(tiny_llama_dir, tmp_path):
    for file in tiny_llama_dir.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    write_modules(tmp_path, "pooling_mode_lasttoken", True)
    engine = EmbeddingEngine.load(tmp_path, dtype="float32")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    model = AutoModel.from_pretrained(tmp_path, dtype=torch.float32).eval()
    texts = ["What is the weather?", "Berlin"]
    for text, vector, count in zip(texts, *vars(engine.embed(texts)).values(), strict=True):
        ids = [*tokenizer(text, add_special_tokens=False).input_ids, tokenizer.eos_token_id]
        with torch.no_grad():
            hidden = model(torch.tensor([ids])).last_hidden_state[0, -1]
        np.testing.assert_allclose(vector, unit(hidden).numpy(), atol=1e-5)
        assert count == len(ids)
    assert engine.tokenize(["Berlin " * 90], truncate=True)[0][-1] == tokenizer.eos_token_id


def test_a_decoder_without_a_head_as_qwen3_embedding_is_saved(tiny_llama_dir, tmp_path):
    """Its tokenizer's own template ends every text, with another token than the one that ends an answer."""
    torch.manual_seed(0)
    fields = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "head_dim": 8, "vocab_size": 512}
    fields |= {"num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": False}
    peer = Qwen3Model(Qwen3Config(**fields, initializer_range=0.2, max_position_embeddings=128)).eval()
    peer.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == ["Qwen3Model"]
    tokenizer = Tokenizer.from_file(str(tiny_llama_dir / "tokenizer.json"))
    end = "<|endoftext|>"
    template = processors.TemplateProcessing(single=f"$A {end}", special_tokens=[(end, tokenizer.token_to_id(end))])
    tokenizer.post_processor = template
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_bytes((tiny_llama_dir / "tokenizer_config.json").read_bytes())
    write_modules(tmp_path, "pooling_mode_lasttoken", True)
    engine = EmbeddingEngine.load(tmp_path, dtype="float32")
    for text, vector in zip(
        ["What is this?", "Berlin"], engine.embed(["What is this?", "Berlin"]).vectors, strict=True
    ):
        ids = tokenizer.encode(text).ids
        assert ids[-1] == tokenizer.token_to_id(end)
        with torch.no_grad():
            hidden = peer(torch.tensor([ids])).last_hidden_state[0, -1]
        np.testing.assert_allclose(vector, unit(hidden).numpy(), atol=1e-5)


def test_unsupported_pooling_and_modules(tmp_path):
    save_tiny_bert(tmp_path, pooling="pooling_mode_max_tokens")
    with pytest.raises(FwError, match="max_tokens"):
        EmbeddingEngine.load(tmp_path)
    modules = json.loads((tmp_path / "modules.json").read_text())
    modules.append({"idx": 3, "name": "3", "path": "3_Dense", "type": "sentence_transformers.models.Dense"})
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(FwError, match="Dense"):
        EmbeddingEngine.load(tmp_path)


@pytest.fixture
def loop(engine):
    loop = EmbeddingLoop(engine, max_waiting_tokens=3000)
    loop.start()
    yield loop
    loop.stop()
    assert not loop.alive


def test_many_callers_share_batches_and_each_gets_its_own(engine, loop):
    texts = [[" ".join(WORDS[:k]), "a cat " * j] for k in range(1, 8) for j in range(1, 8)]

    async def everyone():
        asked = [asyncio.ensure_future(loop.embed(pair)) for pair in texts]
        await asyncio.sleep(0)
        asked[3].cancel()
        return await asyncio.gather(*asked, return_exceptions=True)

    found = asyncio.run(everyone())
    for number, (pair, answer) in enumerate(zip(texts, found, strict=True)):
        if number == 3:
            assert isinstance(answer, asyncio.CancelledError)
            continue
        np.testing.assert_allclose(answer.vectors, engine.embed(pair).vectors, atol=1e-6)
    stats = loop.stats
    assert stats.waiting == 0 and 2 * len(texts) - 2 <= stats.inputs <= 2 * len(texts)


def test_bad_input_fails_its_own_caller_only(engine, loop):
    async def both():
        return await asyncio.gather(loop.embed(["the cat"]), loop.embed([[10**6]]), return_exceptions=True)

    good, bad = asyncio.run(both())
    np.testing.assert_allclose(good.vectors, engine.embed(["the cat"]).vectors, atol=1e-6)
    assert bad.code == "invalid_argument"


def test_a_full_queue_and_a_failing_model(bert):
    engine = EmbeddingEngine.load(bert)
    loop = EmbeddingLoop(engine, max_waiting_tokens=20)

    async def refused():
        loop.start()
        asked = [asyncio.ensure_future(loop.embed(["the cat sat on the mat and ran"])) for _ in range(60)]
        return await asyncio.gather(*asked, return_exceptions=True)

    answers = asyncio.run(refused())
    codes = {answer.code for answer in answers if isinstance(answer, FwError)}
    assert codes <= {"resource_exhausted"} and any(not isinstance(answer, FwError) for answer in answers)
    engine.model.norm.fill_(float("nan"))
    with pytest.raises(FwError, match="finite"):
        asyncio.run(loop.embed(["a cat"]))
    engine.model.norm.fill_(1.0)
    asyncio.run(loop.embed(["a cat"]))
    loop.stop()
    with pytest.raises(FwError, match="does not run"):
        asyncio.run(loop.embed(["a cat"]))


@pytest.mark.model
def test_minilm_equals_transformers(minilm_dir):
    engine = EmbeddingEngine.load(minilm_dir)
    assert (engine.width, engine.context, engine.format) == (384, 256, "float32")
    texts = [*TEXTS, "How do I reset my password?", "Where can I change my login?", "The stock market fell. " * 20]
    found = engine.embed(texts).vectors
    peer = expected(minilm_dir, texts, lambda h: unit(h.mean(0)), 256)
    assert np.abs(found - peer).max() <= 1e-5
    assert (found * peer).sum(1).min() >= 0.9999
    assert found[6] @ found[7] > 0.5 > found[6] @ found[8]
