"""How large the cache becomes, and what is said when it cannot."""

import pytest
import torch

from engine.catalog import read_config
from engine.inference.config import EngineConfig
from engine.inference.memory import account
from engine.inference.tests.tiny import tiny_model
from fw_sdk.types import FwError

GIB = 1 << 30


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return read_config(tiny_model(tmp_path_factory.mktemp("tiny") / "model", max_position_embeddings=1 << 24))


def size(config, **sizes):
    return account(config, EngineConfig(**sizes), weight_bytes=0, dtype=torch.float32, device=torch.device("cpu"))


def test_the_budget_is_kept_to_the_page(config):
    for budget in (GIB // 64, 3 * GIB // 128 + 5000):
        found = size(config, kv_bytes=budget)
        assert budget - found.page_bytes < found.kv_bytes <= budget
        assert f"{found.tokens} tokens" in found.text()


def test_less_than_a_page_says_how_much_is_needed_and_that_works(config):
    with pytest.raises(FwError, match=r"budget is 9\.31e-10 GiB") as caught:
        size(config, kv_bytes=1)
    assert (caught.value.code, caught.value.param) == ("out_of_memory", "kv_bytes")
    needed = float(caught.value.hint.removeprefix("give it at least ").split()[0])
    assert size(config, kv_bytes=int(needed * GIB * 1.01)).pages == 1


def test_more_than_there_is_says_what_fits_and_that_works(config):
    with pytest.raises(FwError, match="does not fit") as caught:
        size(config, kv_bytes=1 << 50)
    assert caught.value.code == "out_of_memory"
    possible = float(caught.value.hint.removeprefix("give it at most ").split()[0])
    assert size(config, kv_bytes=int(possible * GIB * 0.98)).pages > 1
