"""The peer that is slow to load, once."""

import pytest
from transformers import AutoTokenizer


@pytest.fixture(scope="session")
def starter_peer(starter_gguf):
    return AutoTokenizer.from_pretrained(starter_gguf.parent, gguf_file=starter_gguf.name)
