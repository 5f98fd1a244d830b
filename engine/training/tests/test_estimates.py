"""Estimates agree with what the trainer will do, and grow with what makes it slow."""

from __future__ import annotations

import dataclasses

from hypothesis import given
from hypothesis import strategies as st

from engine.catalog import ModelConfig
from engine.training import estimates
from engine.training.estimates import BF16_FLAGS, estimate
from engine.training.packing import plan_steps
from fw_sdk.types import TrainingConfig

SMOL = ModelConfig(
    family="llama", vocab_size=49152, hidden_size=576, layers=30, heads=9, kv_heads=3, head_dim=64, ffn_size=1536,
    norm_eps=1e-5, rope_base=1e5, rope_scaling=None, max_context=8192, tie_embeddings=True, eos_ids=(2,), bos_id=1,
    attention_bias=False, mlp_bias=False,
)  # fmt: skip


@given(st.lists(st.integers(2, 400), min_size=1, max_size=30), st.integers(1, 3), st.integers(16, 4096))
def test_rows_tokens_and_steps_are_exact(lengths, epochs, batch_size):
    config = TrainingConfig(epochs=epochs, batch_size=batch_size)
    found = estimate(SMOL, lengths, [1] * len(lengths), config)
    assert (found.rows, found.tokens_per_epoch, found.trained_tokens_per_epoch) == (
        len(lengths), sum(lengths), len(lengths)
    )  # fmt: skip
    assert found.steps == len(plan_steps(lengths, batch_size=batch_size, epochs=epochs, seed=0))


def test_the_function_calling_example_takes_minutes_and_few_gibibytes():
    """Three where the CPU computes with 16 bits, four where it does not."""
    found = estimate(SMOL, [233] * 300, [33] * 300, TrainingConfig())
    assert found.seconds is None or found.seconds > 20
    gibibytes = 3 if set(BF16_FLAGS) & estimates._cpu_flags() else 4
    assert 600 << 20 < found.peak_memory_bytes < gibibytes << 30
    assert found.warnings == []


def test_a_larger_model_takes_longer_and_more():
    wide = dataclasses.replace(SMOL, layers=60)
    small, large = (estimate(config, [200] * 50, [50] * 50, TrainingConfig()) for config in (SMOL, wide))
    assert large.peak_memory_bytes > 1.5 * small.peak_memory_bytes
    assert small.seconds is None or large.seconds > 1.5 * small.seconds


def test_warnings_say_what_will_go_wrong():
    config = TrainingConfig(max_context_length=100, learning_rate_warmup_steps=5, batch_size=4096, epochs=2)
    texts = " ".join(estimate(SMOL, [90, 200, 5000], [1, 0, 1], config).warnings)
    for expected in (
        "2 rows are longer than 100",
        "1 rows have no trained token",
        "only 5 steps teach little: batch_size=128 (tokens) makes about 82",
        "only 2 of 5290",
        "warm-up",
    ):
        assert expected in texts
    wild = estimate(SMOL, [90] * 100, [50] * 100, TrainingConfig(learning_rate=0.5, batch_size=128)).warnings
    assert wild == ["a learning rate of 0.5 is 500 times the usual 0.001: such trainings mostly diverge"]
    assert "no row has a token" in " ".join(estimate(SMOL, [90], [0], TrainingConfig()).warnings)
