"""What a training step calls, and what answers on a GPU: the same step through the Triton kernels, call by call."""

import pytest
import torch

from engine.catalog import TARGETS
from engine.models import load_model, new_adapter
from engine.training.examples import Example
from engine.training.trainable import TrainableAdapter
from engine.training.trainer import Trainer
from fw_sdk.types import TrainingConfig
from kernels import registry
from kernels.registry import preferring

ROWS = [
    Example(line, (*range(3, 15), *own), (False,) * 14 + (True,)) for line, own in enumerate([(7, 8, 9), (4, 5, 6)])
]

#: Matrix products alone are the vendor's; under fast numerics nothing here competes with them.
STEP = {
    "adamw": "kernels.adamw.gpu:adamw",
    "causal_attention": "kernels.causal_attention.gpu:causal_attention",
    "linear": "kernels.linear.cpu:linear",
    "linear_cross_entropy_gradient": "kernels.linear_cross_entropy.gpu:linear_cross_entropy_gradient",
    "rms_norm": "kernels.rms_norm.gpu:rms_norm",
    "rms_norm_backward": "kernels.rms_norm.gpu:rms_norm_backward",
    "rope": "kernels.rope.gpu:rope",
    "rope_backward": "kernels.rope.gpu:rope_backward",
    "swiglu": "kernels.swiglu.gpu:swiglu",
    "swiglu_backward": "kernels.swiglu.gpu:swiglu_backward",
}
EVALUATION = {
    **{op: STEP[op] for op in ("causal_attention", "linear", "rms_norm", "rope", "swiglu")},
    "add_rms_norm": "kernels.rms_norm.gpu:add_rms_norm",
    "linear_cross_entropy": "kernels.linear_cross_entropy.gpu:linear_cross_entropy",
}


@pytest.fixture
def calls(monkeypatch):
    """The operators that were asked for since it was last cleared, with their shapes."""
    found, select = [], registry.select

    def recorded(op, shape, *others):
        found.append((op, dict(shape)))
        return select(op, shape, *others)

    monkeypatch.setattr(registry, "select", recorded)
    return found


@pytest.fixture(scope="module")
def llama(tiny_llama_dir, device):
    return load_model(tiny_llama_dir, dtype=torch.float32).to(device)


def made(model):
    adapter = new_adapter(model.config, 4, 8.0, TARGETS, 1)
    settings = TrainingConfig(epochs=1, learning_rate=1e-3, batch_size=96, lora_rank=4, seed=3)
    return Trainer(model, TrainableAdapter(adapter, dtype=model.dtype, device=model.device), ROWS, settings)


def on_a_gpu(calls):
    """operator -> the functions that answer its calls there, in bfloat16."""
    found = {}
    for op, shape in calls:
        found.setdefault(op, set()).add(registry.select(op, shape, torch.bfloat16, "cuda", "fast").function)
    return {op: "".join(sorted(functions)) for op, functions in found.items()}


def test_every_call_of_a_step_takes_its_kernel_and_the_step_is_torch_s(llama, calls):
    trainers, asked = {}, []
    for backend in ("triton", "torch"):
        trainers[backend] = made(llama)
        calls.clear()
        with preferring(backend):
            trainers[backend].run(lambda report: None)
        asked.append([*calls])
    assert asked[0] and on_a_gpu(asked[0]) == STEP
    ours, theirs = trainers["triton"], trainers["torch"]
    assert ours.losses[0][1] == pytest.approx(theirs.losses[0][1], rel=1e-5)
    torch.testing.assert_close(ours.adapter.master, theirs.adapter.master, rtol=1e-4, atol=1e-5)


def test_so_does_every_call_of_an_evaluation(llama, calls):
    trainer = made(llama)
    found = {}
    for backend in ("triton", "torch"):
        calls.clear()
        with preferring(backend):
            found[backend] = trainer.evaluate(ROWS), on_a_gpu([*calls])
    assert found["triton"][1] == EVALUATION
    assert found["triton"][0] == pytest.approx(found["torch"][0], rel=1e-5)
