"""Choosing a device and a format."""

import pytest
import torch

from engine.models import pick_device, pick_dtype, pick_numerics
from fw_sdk.types import FwError


def test_explicit_choices_are_kept():
    assert pick_device("cpu") == torch.device("cpu")
    assert pick_dtype("cpu", "float32") is pick_dtype("cpu", "fp32") is torch.float32
    assert pick_dtype("cpu", "bf16") is torch.bfloat16


def test_auto_is_something_the_device_can_do():
    device = pick_device()
    assert pick_dtype(device) in (torch.bfloat16, torch.float32)
    torch.ones(2, 2, dtype=pick_dtype(device), device=device).matmul(
        torch.ones(2, 2, device=device).to(pick_dtype(device))
    )


def test_wrong_names():
    for call in (lambda: pick_device("gpuu"), lambda: pick_dtype("cpu", "int3")):
        with pytest.raises(FwError) as caught:
            call()
        assert caught.value.code == "invalid_argument"
    if not torch.cuda.is_available():
        with pytest.raises(FwError) as caught:
            pick_device("cuda")
        assert caught.value.code == "failed_precondition"


def test_exact_on_a_gpu_needs_triton_and_no_recurrent_layers(monkeypatch):
    gpu, bf16 = torch.device("cuda"), torch.bfloat16
    assert pick_numerics(gpu, bf16) == "fast"
    monkeypatch.setattr("engine.models.dtype.find_spec", lambda name: object())
    assert pick_numerics(gpu, bf16, "exact") == "exact"
    with pytest.raises(FwError, match="recurrent layers"):
        pick_numerics(gpu, bf16, "exact", recurrent=True)
    monkeypatch.setattr("engine.models.dtype.find_spec", lambda name: None)
    with pytest.raises(FwError, match="needs Triton"):
        pick_numerics(gpu, bf16, "exact")
    assert pick_numerics(gpu, bf16) == "fast"
