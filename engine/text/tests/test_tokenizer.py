"""Ids against transformers' own tokenizers; the GGUF vocabulary against the same vocabulary from tokenizer.json."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from tokenizers import Tokenizer as Backend
from transformers import AutoTokenizer

from engine.text import Tokenizer
from engine.text.gguf_tokenizer import tokenizer_from_gguf
from engine.text.tests.strings import MIXED, STRINGS
from fw_sdk.types import FwError


@pytest.fixture(scope="module")
def tiny(tiny_llama_dir):
    return Tokenizer.load(tiny_llama_dir)


def metadata_of(folder, pre):
    """GGUF metadata with the vocabulary of a folder's tokenizer.json."""
    fields = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = sorted(fields["model"]["vocab"].items(), key=lambda pair: pair[1])
    special = {token["content"] for token in fields["added_tokens"]}
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": [token for token, _ in vocabulary],
        "tokenizer.ggml.token_type": [3 if token in special else 1 for token, _ in vocabulary],
        "tokenizer.ggml.merges": [" ".join(pair) for pair in fields["model"]["merges"]],
    }


def test_ids_equal_transformers(tiny, tiny_llama_dir):
    peer = AutoTokenizer.from_pretrained(tiny_llama_dir)
    for text in STRINGS:
        ids = tiny.encode(text)
        assert ids == peer.encode(text, add_special_tokens=False)
        assert tiny.decode(ids) == peer.decode(ids, clean_up_tokenization_spaces=False)
        assert tiny.decode(ids, skip_special=True) == peer.decode(ids, skip_special_tokens=True)
    assert tiny.eos_ids == (peer.eos_token_id,)
    assert tiny.bos_id == peer.bos_token_id
    assert tiny.vocab_size == len(peer)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=MIXED)
def test_text_survives_and_bytes_add_up(tiny, text):
    ids = tiny.encode(text)
    assert tiny.decode(ids) == text
    assert b"".join(map(tiny.id_to_bytes, ids)) == text.encode()


def test_gguf_vocabulary_gives_the_same_ids(tiny, tiny_llama_dir):
    rebuilt = tokenizer_from_gguf(metadata_of(tiny_llama_dir, "gpt-2"))
    for text in STRINGS:
        assert rebuilt.encode(text, add_special_tokens=False).ids == tiny.encode(text)


def test_smollm_splits_every_digit(tiny_llama_dir):
    metadata = metadata_of(tiny_llama_dir, "smollm")
    metadata["tokenizer.ggml.tokens"] += ["12", "Ġ1"]
    metadata["tokenizer.ggml.merges"] += ["1 2", "Ġ 1"]
    split = tokenizer_from_gguf(metadata)
    whole = tokenizer_from_gguf({**metadata, "tokenizer.ggml.pre": "gpt2"})
    assert split.encode("x 12").tokens[-3:] == ["Ġ", "1", "2"]
    assert len(whole.encode("x 12").tokens) < len(split.encode("x 12").tokens)


def test_llama_bpe_takes_whole_words_and_three_digits(tiny_llama_dir):
    metadata = metadata_of(tiny_llama_dir, "llama-bpe")
    metadata["tokenizer.ggml.tokens"] += ["123", "12", "zyzzyva"]
    metadata["tokenizer.ggml.merges"] += ["1 2", "12 3"]
    rebuilt = tokenizer_from_gguf(metadata)
    assert rebuilt.encode("1234").tokens == ["123", "4"]
    assert rebuilt.encode("zyzzyva").tokens == ["zyzzyva"]


@pytest.mark.parametrize(
    "change",
    [
        {"tokenizer.ggml.pre": "qwen2"},
        {"tokenizer.ggml.model": "llama"},
        {"tokenizer.ggml.merges": ["nosuch pair"]},
        {"tokenizer.ggml.merges": ["a b c"]},
        {"tokenizer.ggml.tokens": 7},
    ],
)
def test_other_gguf_tokenizers_are_refused_by_name(tiny_llama_dir, change):
    with pytest.raises(FwError) as caught:
        tokenizer_from_gguf(metadata_of(tiny_llama_dir, "gpt-2") | change)
    assert caught.value.code == "model_unsupported"
    if "tokenizer.ggml.pre" in change:
        assert "qwen2" in caught.value.message


def test_a_lone_surrogate_is_the_callers_mistake(tiny):
    with pytest.raises(FwError) as caught:
        tiny.encode("a\ud800b")
    assert caught.value.code == "invalid_argument"


@pytest.mark.parametrize("content", ["", "{", "[]", '{"model": 1}'])
def test_a_broken_tokenizer_file_is_refused(tmp_path, content):
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(FwError) as caught:
        Tokenizer.load(tmp_path)
    assert caught.value.code == "model_unsupported"


def test_digest_follows_the_content(tiny, tiny_llama_dir, tmp_path):
    assert Tokenizer.load(tiny_llama_dir).digest == tiny.digest
    backend = Backend.from_file(str(tiny_llama_dir / "tokenizer.json"))
    backend.add_tokens(["brand-new"])
    backend.save(str(tmp_path / "tokenizer.json"))
    assert Tokenizer.load(tmp_path).digest != tiny.digest


@pytest.mark.model
def test_starter_equals_transformers(starter_gguf, starter_peer):
    tokenizer, peer = Tokenizer.load(starter_gguf), starter_peer
    for text in STRINGS:
        if not any(character.isnumeric() for character in text):
            assert tokenizer.encode(text) == peer.encode(text, add_special_tokens=False), text
        assert tokenizer.decode(tokenizer.encode(text)) == text
    digits = tokenizer.encode("12345")
    assert [tokenizer.decode([number]) for number in digits] == list("12345")
    assert tokenizer.eos_ids == (peer.eos_token_id,) == (2,)
    assert tokenizer.chat_template == peer.chat_template
