"""What a fine-tune will take on this machine, from the model's shape and the rows' lengths alone."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from engine.catalog import ModelConfig
from engine.training.packing import PASS_TOKENS, plan_lanes, plan_steps
from fw_sdk.types import Estimate, TrainingConfig
from kernels.native import outruns_bf16

FLOPS_PER_CORE = {"amx_bf16": 600e9, "avx512_bf16": 140e9, "avx512f": 45e9, "avx2": 30e9}
FLOPS_PER_CORE_OTHERWISE = 8e9
FLOPS_PER_CORE_PACKED = 95e9
STEP_OVERHEAD_S = 0.05
BF16_FLAGS = ("amx_bf16", "avx512_bf16")
RUNTIME_BYTES = 450 << 20
FEW_STEPS = 60
SMALLEST_BATCH = 128
USUAL_RATE, WILD_RATE = 1e-3, 20
FEW_TRAINED_SHARE = 0.02


def estimate(
    config: ModelConfig, row_lengths: Sequence[int], trained_lengths: Sequence[int], training: TrainingConfig
) -> Estimate:
    """Tokens and steps exactly; time and memory for this machine's CPU, within about a third.

    Args:
        config: of the base model.
        row_lengths: tokens of each row.
        trained_lengths: of those, the ones that the loss counts.
        training: the request.
    """
    steps = plan_steps(row_lengths, batch_size=training.batch_size, epochs=training.epochs, seed=training.seed)
    tokens, trained = sum(row_lengths), sum(trained_lengths)
    has_gpu = Path("/dev/nvidia0").exists()
    flops = training.epochs * _epoch_flops(config, row_lengths, trained, training.lora_rank)
    seconds = None if has_gpu else flops / _cpu_flops() + STEP_OVERHEAD_S * len(steps)
    return Estimate(
        rows=len(row_lengths),
        tokens_per_epoch=tokens,
        trained_tokens_per_epoch=trained,
        steps=len(steps),
        seconds=seconds,
        peak_memory_bytes=_peak_memory_bytes(config, row_lengths, training),
        warnings=_warnings(config, row_lengths, trained_lengths, training, len(steps)),
    )


def _epoch_flops(config: ModelConfig, row_lengths: Sequence[int], trained: int, rank: int) -> float:
    """Forward and the gradient of activations through the frozen weights; the adapter's own weights' too."""
    shapes = [config.target_shape(target) for target in config.targets]
    adapted = config.layers * rank * sum(inputs + outputs for inputs, outputs in shapes)
    head = config.vocab_size * config.hidden_size
    attention = 6 * config.layers * config.heads * config.head_dim * sum(length * length for length in row_lengths)
    return float(sum(row_lengths) * (4 * config.multiplied + 6 * adapted) + 4 * trained * head + attention)


def _cpu_flops() -> float:
    """Matrix throughput that training reaches here, from the CPU's flags and the cores this process may use."""
    flags = _cpu_flags()
    per_core = next((rate for flag, rate in FLOPS_PER_CORE.items() if flag in flags), FLOPS_PER_CORE_OTHERWISE)
    if outruns_bf16():
        per_core = FLOPS_PER_CORE_PACKED
    return per_core * len(os.sched_getaffinity(0))


def _cpu_flags() -> set[str]:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((set(line.split()) for line in lines if line.startswith("flags")), set())


def _peak_memory_bytes(config: ModelConfig, row_lengths: Sequence[int], training: TrainingConfig) -> int:
    """Weights, adapter with its optimiser, and what the passes that run side by side keep for backward."""
    item = 2 if _cpu_flags() & set(BF16_FLAGS) else 4
    shapes = [config.target_shape(target) for target in config.targets]
    adapter = config.layers * training.lora_rank * sum(inputs + outputs for inputs, outputs in shapes)
    lanes = plan_lanes(len(os.sched_getaffinity(0)), training.batch_size)
    live_tokens = max(min(lanes * PASS_TOKENS, training.batch_size), lanes * max(row_lengths, default=0))
    ffn = config.experts.ffn_size * config.experts.chosen if config.experts else config.ffn_size
    kept = 5 * config.hidden_size + config.query_size * 2 + 2 * config.kv_size + 3 * ffn
    activations = config.layers * live_tokens * kept * item
    return RUNTIME_BYTES + config.parameters * item + adapter * (16 + item) + activations


def _warnings(
    config: ModelConfig,
    row_lengths: Sequence[int],
    trained_lengths: Sequence[int],
    training: TrainingConfig,
    steps: int,
) -> list[str]:
    limit = min(config.max_context, training.max_context_length or config.max_context)
    too_long = sum(length > limit for length in row_lengths)
    untrained = sum(count == 0 for count in trained_lengths)
    trained, tokens = sum(trained_lengths), sum(row_lengths)
    times = training.learning_rate / USUAL_RATE
    found = {
        f"{too_long} rows are longer than {limit} tokens; training will refuse them": too_long,
        "no row has a token to train on; training will refuse": not trained,
        f"{untrained} rows have no trained token and will be left out": untrained and trained,
        _few_steps(steps, training, tokens): trained and steps < FEW_STEPS,
        f"only {trained} of {tokens} tokens are trained": trained and trained < FEW_TRAINED_SHARE * tokens,
        f"a learning rate of {training.learning_rate:g} is {times:.0f} times the usual {USUAL_RATE:g}: such trainings "
        "mostly diverge": times > WILD_RATE,
        "the warm-up is as long as the training": training.learning_rate_warmup_steps >= steps > 0,
    }
    return [text for text, holds in found.items() if holds]


def _few_steps(steps: int, training: TrainingConfig, tokens: int) -> str:
    """That so few steps teach little, and the batch size with which there would be enough."""
    wanted = max(SMALLEST_BATCH, 1 << max(0, (training.epochs * tokens // FEW_STEPS).bit_length() - 1))
    only = "a single step teaches" if steps == 1 else f"only {steps} steps teach"
    if wanted >= training.batch_size:
        return f"{only} little: raise the epochs or give more rows"
    about = training.epochs * tokens // wanted
    more = f"batch_size={wanted} (tokens) makes about {about} and takes longer"
    return f"{only} little: {more}; or raise the epochs"
