"""The Triton kernels: against float64, masked and broken values, wrong arguments by name, a row's bits in any batch."""

import pytest
import torch

from kernels.arguments import ArgumentError
from kernels.numerics import numerics
from kernels.registry import preferring
from kernels.softmax import gpu as launch
from kernels.softmax import log_softmax, log_sum_exp, logprob_gather, softmax
from kernels.softmax.reference import logprob_gather_reference
from kernels.spec import Maker
from kernels.testing.check import check, problems
from kernels.tuned import forced

INF = float("inf")
SHORT_SPLITS = {"SPLIT": 16, "num_warps": 4}


@pytest.mark.parametrize(("spec", "case"), problems("softmax"))
def test_equals_float64(spec, case, device):
    check(spec, case, device)


@pytest.mark.parametrize("width", [60, 5000])
def test_a_row_has_the_same_bits_in_any_batch(width, device):
    maker = Maker(device)
    x, targets = maker.normal(5, width, scale=4.0), maker.integers(0, width, 5, dtype=torch.int64)

    def found(rows):
        scored = launch.logprob_gather(x[rows], targets[rows], entropy=True)
        return launch.softmax(x[rows]), launch.log_softmax(x[rows]), launch.log_sum_exp(x[rows]), *scored

    whole = found(slice(None))
    for rows in (slice(0, 1), slice(2, 5)):
        assert all(torch.equal(ours, theirs[rows]) for ours, theirs in zip(found(rows), whole, strict=True))


@pytest.mark.parametrize("width", [20, 40])
def test_masked_values_have_no_share_wherever_they_stand(width, device):
    x = Maker(device).normal(4, width, dtype=torch.float32)
    x[0, :17], x[1, 18:], x[2, 1:], x[3, 5] = -INF, -INF, -INF, INF
    targets = torch.tensor([18, 3, 0, -1], device=device)
    with forced("split_sums", SHORT_SPLITS):
        shares, normaliser = launch.softmax(x), launch.log_sum_exp(x)
        picked, _, entropy = launch.logprob_gather(x, targets, entropy=True)
    torch.testing.assert_close(shares[:3], torch.softmax(x[:3], -1))
    torch.testing.assert_close(normaliser, torch.logsumexp(x, -1))
    truth = logprob_gather_reference(x[:3], targets[:3], entropy=True)
    torch.testing.assert_close(picked[:3].double(), truth[0])
    torch.testing.assert_close(entropy[:3].double(), truth[2])
    assert picked[3] == 0


def test_a_row_without_any_number_is_as_torch_has_it(device):
    x = torch.full((2, 40), -INF, device=device)
    x[1] = float("nan")
    with forced("split_sums", SHORT_SPLITS):
        assert launch.softmax(x).isnan().all()
        assert launch.log_sum_exp(x).tolist()[0] == -INF
        assert launch.log_sum_exp(x)[1].isnan()


def test_far_values_keep_their_differences(device):
    """The log-probability is computed from distances, not as the difference of two large numbers."""
    x = torch.tensor([[30_000.0, 30_000.5, 29_999.0]], device=device)
    ours = launch.logprob_gather(x, torch.tensor([2], device=device))[0].double()
    torch.testing.assert_close(ours, torch.log_softmax(x.double(), -1)[:, 2], atol=1e-6, rtol=0)


def test_no_target_and_an_impossible_one(device):
    x = Maker(device).normal(2, 8)
    found = launch.logprob_gather(x, torch.tensor([-100, 8], device=device))[0]
    assert found[0] == 0 and found[1].isnan()


def test_the_operators_go_through_them(device):
    maker = Maker(device)
    x, targets = maker.normal(3, 2, 24, dtype=torch.float32), maker.integers(0, 24, 3, dtype=torch.int64)
    found = []
    for backend in ("triton", "torch"):
        with preferring(backend):
            scored = logprob_gather(x[:, 0], targets, entropy=True)
            found.append((softmax(x), softmax(x[0, 0]), log_softmax(x), log_sum_exp(x), *scored))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs)
    with preferring("triton"), numerics("exact"):
        assert torch.equal(softmax(x), found[0][0])


def test_gradients_go_through_torch(device):
    x = Maker(device).normal(3, 8, dtype=torch.float32).requires_grad_()
    with preferring("triton"):
        torch.testing.assert_close(
            torch.autograd.grad(softmax(x)[:, 0].sum() + log_softmax(x)[:, 1].sum() + log_sum_exp(x).sum(), x)[0],
            torch.autograd.grad(
                torch.softmax(x, 1)[:, 0].sum() + torch.log_softmax(x, 1)[:, 1].sum() + x.logsumexp(1).sum(), x
            )[0],
        )
        with pytest.raises(RuntimeError, match="no gradient"):
            logprob_gather(x, torch.zeros(3, dtype=torch.int64, device=device))


@pytest.mark.parametrize(
    ("change", "argument"),
    [
        ({"logits": torch.zeros(4, 8, dtype=torch.float64)}, "logits"),
        ({"logits": torch.zeros(4)}, "logits"),
        ({"logits": torch.zeros(4, 0)}, "logits's width"),
        ({"logits": torch.zeros(8, 4).t()}, "logits"),
        ({"targets": torch.zeros(5, dtype=torch.int64)}, "targets"),
        ({"targets": torch.zeros(4, dtype=torch.int32)}, "targets"),
        ({"targets": torch.zeros(4, dtype=torch.int64, device="meta")}, "targets"),
    ],
)
def test_wrong_arguments_are_named(change, argument, device):
    fitting = {"logits": torch.zeros(4, 8), "targets": torch.zeros(4, dtype=torch.int64)}
    moved = {name: value if value.is_meta else value.to(device) for name, value in {**fitting, **change}.items()}
    with pytest.raises(ArgumentError, match="accepted") as raised:
        launch.logprob_gather(**moved)
    assert raised.value.argument == argument
