"""The GPU's benchmark runs from beginning to end without a GPU, and says so where it cannot measure."""

import pytest
import torch

from tests.benchmarks import gpu
from tests.benchmarks.gpu_sides import SMALL


def test_every_line_of_it_runs_on_a_cpu(capsys):
    assert gpu.main(["--tiny", "--write"]) == 0
    lines = {line.split(" | ")[0].lstrip("| "): line.split(" | ") for line in capsys.readouterr().out.splitlines()}
    for work in ("latency between tokens, 1 stream", "prefill, 8 tokens"):
        assert all(float(cell) > 0 for cell in lines[work][2:4])
    for work in ("host gap, 2 streams", "LoRA training, rank 16, all projections", "exact ÷ fast, prefill"):
        assert lines[work][2] not in ("", "–")


def test_a_part_that_fails_is_named_in_the_table():
    text = gpu.body({"ours": {"token 1": 0.005, "token 2": 0.008, "prefill": 50_000.0},
                     "exact": {"failed": "FwError: cannot be had"}}, SMALL, "Some GPU")  # fmt: skip
    assert "| latency between tokens, 1 stream | ms | 5 | – |" in text
    assert "| decode, 2 streams after 5 tokens | tok/s | 250 | – |" in text
    assert "exact failed: FwError: cannot be had" in text


@pytest.mark.skipif(torch.cuda.is_available(), reason="it would measure")
def test_without_a_gpu_it_says_so(capsys):
    assert gpu.main(["--write"]) == 1
    assert capsys.readouterr().err == "there is no CUDA GPU here: nothing was measured, and nothing was written\n"
