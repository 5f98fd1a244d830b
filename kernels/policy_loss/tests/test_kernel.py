"""The policy loss: against autograd in float64, where it is clipped, its normalisations, wrong arguments by name."""

import pytest
import torch

from kernels.arguments import ArgumentError
from kernels.policy_loss import gpu as launch
from kernels.policy_loss import policy_loss, row_weights
from kernels.policy_loss.spec import problem
from kernels.registry import preferring
from kernels.spec import Maker
from kernels.testing.check import check, problems


@pytest.mark.parametrize(("spec", "case"), problems("policy_loss"))
def test_equals_float64(spec, case, device):
    check(spec, case, device)


@pytest.mark.parametrize("backend", ["triton", "torch"])
def test_a_clipped_token_pulls_no_more(backend, device):
    """Ratios 1.5 and 0.5 with either sign of the advantage: clipped where the pull would lead farther away."""
    arguments = problem(4, 16, 30, torch.float32, reference=False).make(Maker(device))
    hidden, weight = arguments["hidden"], arguments["weight"]
    targets = torch.tensor([0, 3, 5, 7], device=device)
    now = (hidden @ weight.T).log_softmax(-1).gather(1, targets.unsqueeze(1)).squeeze(1)
    ratios = torch.tensor([1.5, 1.5, 0.5, 0.5], device=device)
    advantages = torch.tensor([1.0, -1.0, 1.0, -1.0], device=device)
    hidden = hidden.requires_grad_()
    with preferring(backend):
        found = policy_loss(
            hidden, weight, targets, now - ratios.log(), advantages, torch.ones(4, device=device), clip_high=0.28
        )
    torch.testing.assert_close(found.losses.tolist(), [-1.28, 1.5, -0.5, 0.8], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found.logprobs, now, atol=1e-4, rtol=1e-4)
    (gradient,) = torch.autograd.grad(2 * found.losses.sum(), hidden)
    assert (gradient == 0).all(1).tolist() == [True, False, False, True]


def test_the_operator_s_gradient_is_autograd_s(device):
    arguments = problem(9, 24, 40, torch.float32).make(Maker(device))
    tensors = [arguments[name] for name in ("hidden", "weight", "targets", "old", "advantages", "weights")]
    rest = {name: value for name, value in arguments.items() if name in ("reference", "clip_low", "clip_high", "kl")}
    tensors[0].requires_grad_()
    per_row = torch.linspace(-1, 2, 9, device=device)
    found = []
    for backend in ("triton", "torch"):
        with preferring(backend):
            result = policy_loss(*tensors, **rest)
        assert not result.logprobs.requires_grad
        found.append((result.losses, *torch.autograd.grad((result.losses * per_row).sum(), tensors[0])))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_a_broken_row_says_so_and_does_not_disturb_others(device):
    arguments = problem(8, 24, 40, torch.float32).make(Maker(device))
    arguments["targets"] = arguments["targets"].clamp_min(0)
    whole = launch.policy_loss(**arguments)
    arguments["old"][2], arguments["advantages"][5] = torch.nan, torch.nan
    losses, _, gradient = launch.policy_loss(**arguments)
    assert losses.isnan().nonzero().flatten().tolist() == [2, 5]
    kept = [0, 1, 3, 4, 6, 7]
    assert torch.equal(losses[kept], whole[0][kept])
    assert torch.equal(gradient[kept], whole[2][kept])


def test_tokens_or_sequences_count_alike():
    torch.testing.assert_close(row_weights([1, 3], "token"), torch.full((4,), 0.25))
    torch.testing.assert_close(row_weights([1, 3, 0], "sequence"), torch.tensor([1 / 2, 1 / 6, 1 / 6, 1 / 6]))
    assert row_weights([], "sequence").shape == row_weights([], "token").shape == (0,)


@pytest.mark.parametrize(
    ("change", "argument"),
    [
        ({"hidden": torch.zeros(3, 8, dtype=torch.float64)}, "hidden"),
        ({"targets": torch.zeros(4, dtype=torch.int64)}, "targets"),
        ({"old": torch.zeros(4)}, "old"),
        ({"advantages": torch.zeros(3, dtype=torch.bfloat16)}, "advantages"),
        ({"weights": torch.zeros(6)[::2]}, "weights"),
        ({"reference": torch.zeros(2)}, "reference"),
        ({"clip_low": 1.5}, "clip_low"),
        ({"clip_high": -0.1}, "clip_high"),
        ({"kl": -1.0}, "kl"),
    ],
)
def test_wrong_arguments_are_named(change, argument, device):
    fitting = {
        "hidden": torch.zeros(3, 8),
        "weight": torch.zeros(5, 8),
        "targets": torch.zeros(3, dtype=torch.int64),
        **{name: torch.zeros(3) for name in ("old", "advantages", "weights", "reference")},
        "clip_low": 0.2,
        "clip_high": 0.2,
        "kl": 0.0,
    }
    moved = {
        name: value.to(device) if isinstance(value, torch.Tensor) else value
        for name, value in {**fitting, **change}.items()
    }
    with pytest.raises(ArgumentError, match="accepted") as raised:
        launch.policy_loss(**moved)
    assert raised.value.argument == argument
