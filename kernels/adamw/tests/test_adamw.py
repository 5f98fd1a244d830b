"""AdamW in torch and in Triton: against torch's own in float64, odd lists, addresses, wrong arguments by name."""

import pytest
import torch

from kernels.adamw import adamw
from kernels.adamw import gpu as launch
from kernels.arguments import ArgumentError
from kernels.registry import preferring
from kernels.testing.check import check, problems

NAMES = ("parameters", "gradients", "first", "second")


def lists(device, *shapes, parameter=torch.float32):
    generator = torch.Generator().manual_seed(1)
    made = {name: [torch.randn(shape, generator=generator).to(device) for shape in shapes] for name in NAMES}
    made["parameters"] = [tensor.to(parameter) for tensor in made["parameters"]]
    made["second"] = [tensor.square() for tensor in made["second"]]
    return made


@pytest.mark.parametrize(("spec", "case"), problems("adamw"))
def test_equals_float64(spec, case, device):
    check(spec, case, device)


@pytest.mark.parametrize("backend", ["triton", "torch"])
def test_many_steps_are_torch_s_optimizer(backend, device):
    given = lists(device, (7,), (3, 4))
    given["first"], given["second"] = ([torch.zeros_like(one) for one in given[name]] for name in ("first", "second"))
    theirs = [torch.nn.Parameter(one.clone()) for one in given["parameters"]]
    optimizer = torch.optim.AdamW(theirs, 0.05, (0.8, 0.95), 1e-6, 0.2)
    with preferring(backend):
        for step in range(1, 6):
            for parameter, slope in zip(theirs, given["gradients"], strict=True):
                parameter.grad = slope / step
            optimizer.step()
            scale = torch.tensor(1 / step, device=device)
            adamw(**given, step=step, rate=0.05, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.2, scale=scale)
    for ours, parameter in zip(given["parameters"], theirs, strict=True):
        torch.testing.assert_close(ours, parameter.detach())


def test_a_tensor_has_the_same_bits_in_any_list_at_any_address(device):
    together, alone = lists(device, (1500,), (33,)), lists(device, (1500,), (33,))
    launch.adamw(**together, step=3, rate=0.1)
    for index in (1, 0):
        part = {name: [tensors[index]] for name, tensors in alone.items()}
        # One value further, where nothing can be read 16 bytes at a time.
        moved = {name: [torch.cat((one[:1], one))[1:]] for name, (one,) in part.items()}
        launch.adamw(**part, step=3, rate=0.1)
        launch.adamw(**moved, step=3, rate=0.1)
        for name in NAMES:
            assert torch.equal(part[name][0], together[name][index])
            assert torch.equal(moved[name][0], together[name][index])


def test_the_table_follows_the_tensors(device):
    """Gradients are elsewhere after every step; the moments stay."""
    given, plain = lists(device, (5,)), lists(device, (5,))
    for step in (1, 2):
        for one, backend in ((given, "triton"), (plain, "torch")):
            one["gradients"] = [torch.full((5,), 1.0 / step, device=device)]
            with preferring(backend):
                adamw(**one, step=step, rate=0.1)
    torch.testing.assert_close(given["parameters"][0], plain["parameters"][0])


@pytest.mark.parametrize(
    ("change", "argument"),
    [
        ({"parameters": [torch.zeros(4, dtype=torch.float16), torch.zeros(2, 3)]}, "parameters[0]"),
        ({"parameters": [torch.zeros(4), torch.zeros(2, 3, dtype=torch.bfloat16)]}, "parameters[1]"),
        ({"parameters": [torch.zeros(4), torch.zeros(3, 2).t()]}, "parameters[1]"),
        ({"gradients": [torch.zeros(4)]}, "gradients"),
        ({"gradients": [torch.zeros(5), torch.zeros(2, 3)]}, "gradients[0]"),
        ({"first": [torch.zeros(4), torch.zeros(2, 3, dtype=torch.bfloat16)]}, "first[1]"),
        ({"second": [torch.zeros(4, device="meta"), torch.zeros(2, 3)]}, "second[0]"),
        ({"step": 0}, "step"),
        ({"betas": (0.9, 1.5)}, "betas"),
        ({"scale": torch.ones(1)}, "scale"),
    ],
)
def test_wrong_arguments_are_named(change, argument, device):
    def moved(value):
        return [one if one.is_meta else one.to(device) for one in value] if isinstance(value, list) else value

    fitting = {**lists(device, (4,), (2, 3)), "step": 1, "rate": 0.1}
    changes = {name: value.to(device) if name == "scale" else moved(value) for name, value in change.items()}
    with pytest.raises(ArgumentError, match="accepted") as raised:
        launch.adamw(**{**fitting, **changes})
    assert raised.value.argument == argument
