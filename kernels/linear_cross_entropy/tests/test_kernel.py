"""The Triton kernels: against float64, rows that do not count, chunks, wrong arguments by name, and the operator."""

import pytest
import torch

from kernels.arguments import ArgumentError
from kernels.linear_cross_entropy import gpu as launch
from kernels.linear_cross_entropy import linear_cross_entropy
from kernels.linear_cross_entropy.spec import problem
from kernels.registry import preferring
from kernels.spec import Maker
from kernels.testing.check import check, problems


@pytest.mark.parametrize(("spec", "case"), problems("linear_cross_entropy"))
def test_equals_float64(spec, case, device):
    check(spec, case, device)


def test_chunks_of_rows_change_no_bits(device, monkeypatch):
    arguments = problem(70, 40, 90, factors=True).make(Maker(device))
    whole = launch.linear_cross_entropy_gradient(**arguments)
    monkeypatch.setattr(launch, "CHUNK_VALUES", 66 * 90)
    assert [part.stop - part.start for part in launch.chunks(70, 90)] == [66, 4]
    parts = launch.linear_cross_entropy_gradient(**arguments)
    monkeypatch.setattr(launch, "CHUNK_VALUES", 1000 * 90)
    assert [part.stop - part.start for part in launch.chunks(2000, 90)] == [896, 896, 208]
    for ours, theirs in zip(parts, whole, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-2, rtol=1e-2)
        assert torch.equal(ours[:66], theirs[:66])


def test_rows_that_do_not_count_and_targets_beyond_the_head(device):
    arguments = problem(4, 16, 30).make(Maker(device))
    arguments["targets"] = torch.tensor([3, -100, 30, 29], device=device)
    losses, normalisers, gradient = launch.linear_cross_entropy_gradient(**arguments)
    assert losses[1] == 0
    assert (gradient[1] == 0).all()
    assert losses.isnan().tolist() == [False, False, True, False]
    assert normalisers.isfinite().all()


def test_a_confident_token_keeps_the_digits_of_its_gradient(device):
    """Its share rounds to 1 in bfloat16; the gradient is what is missing to 1."""
    hidden = torch.zeros(1, 16, dtype=torch.bfloat16, device=device)
    hidden[0, 0] = 1.0
    weight = torch.zeros(20, 16, dtype=torch.bfloat16, device=device)
    weight[5, 0] = 12.0
    _, _, gradient = launch.linear_cross_entropy_gradient(hidden, weight, torch.tensor([5], device=device))
    missing = 1 - 1 / (1 + 19 * torch.exp(torch.tensor(-12.0, dtype=torch.float64)))
    assert gradient[0, 0].item() == pytest.approx(-12 * missing.item(), rel=1e-2)


@pytest.mark.parametrize("weighed", [False, True])
def test_the_operator_goes_through_them(weighed, device):
    arguments = problem(9, 32, 50, torch.float32).make(Maker(device))
    hidden, weight, targets = arguments["hidden"].requires_grad_(), arguments["weight"], arguments["targets"]
    weights = torch.linspace(0, 2, 9, device=device) if weighed else None
    per_row = torch.linspace(-1, 2, 9, device=device)
    found = []
    for backend in ("triton", "torch"):
        with preferring(backend):
            losses = linear_cross_entropy(hidden, weight, targets, weights=weights)
            found.append((losses, torch.autograd.grad((losses * per_row).sum(), hidden)[0]))
            with torch.no_grad():
                torch.testing.assert_close(linear_cross_entropy(hidden, weight, targets, weights=weights), losses)
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    assert (found[0][0][targets < 0] == 0).all()


@pytest.mark.parametrize(
    ("change", "argument"),
    [
        ({"hidden": torch.zeros(3, 8, dtype=torch.float64)}, "hidden"),
        ({"hidden": torch.zeros(8, 3).t()}, "hidden"),
        ({"weight": torch.zeros(5, 9)}, "weight"),
        ({"weight": torch.zeros(0, 8)}, "weight's vocabulary"),
        ({"weight": torch.zeros(5, 8, dtype=torch.bfloat16)}, "weight"),
        ({"targets": torch.zeros(4, dtype=torch.int64)}, "targets"),
        ({"targets": torch.zeros(3, dtype=torch.int32)}, "targets"),
        ({"factors": torch.zeros(2)}, "factors"),
        ({"factors": torch.zeros(3, device="meta")}, "factors"),
    ],
)
def test_wrong_arguments_are_named(change, argument, device):
    fitting = {
        "hidden": torch.zeros(3, 8),
        "weight": torch.zeros(5, 8),
        "targets": torch.zeros(3, dtype=torch.int64),
        "factors": torch.zeros(3),
    }
    moved = {name: value if value.is_meta else value.to(device) for name, value in {**fitting, **change}.items()}
    with pytest.raises(ArgumentError, match="accepted") as raised:
        launch.linear_cross_entropy_gradient(**moved)
    assert raised.value.argument == argument
