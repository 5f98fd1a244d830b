"""Which runner computes a model's steps."""

from __future__ import annotations

import torch

from engine.inference.config import EngineConfig
from engine.inference.gpu_runner import GpuRunner
from engine.inference.packed_runner import PackedRunner
from engine.inference.runner import Runner
from engine.inference.torch_runner import TorchRunner
from engine.models import CausalLM, PackedModel, pick_device

RUNNING_ON_GPU = 256
"""Requests that hold pages at once; more would leave the recorded sizes of a step."""


def runner_for(model: CausalLM | PackedModel, config: EngineConfig, batched: int) -> Runner:
    """The compiled decoder for packed weights, recorded steps on a GPU, torch's operators otherwise.

    Args:
        model: the weights.
        config: sizes.
        batched: tokens of a step at most.
    """
    if isinstance(model, PackedModel):
        return PackedRunner(model, config, max_tokens=batched, threads=torch.get_num_threads())
    return GpuRunner(model, config) if model.device.type == "cuda" else TorchRunner(model, config)


def usual_running(device: str) -> int:
    """Requests that run at once on ``device`` (auto, cpu or cuda) unless somebody says otherwise.

    Raises:
        FwError: as ``pick_device``.
    """
    return RUNNING_ON_GPU if pick_device(device).type == "cuda" else EngineConfig.max_running
