"""The registry is a pure table: every operator answers its own spec's dtypes, and configurations exist for them."""

import pytest
import torch

from kernels import registry, tuned
from kernels.registry import OPERATORS


@pytest.mark.parametrize("spec", registry.specs(), ids=lambda spec: spec.name)
def test_every_operator_has_implementations_that_exist(spec):
    found = registry.implementations(spec.name)
    assert found[0].backend == "triton"
    assert found[0].function == spec.gpu
    for implementation in found:
        if implementation.backend != "triton":
            assert callable(implementation.load())


@pytest.mark.parametrize("operator", OPERATORS)
def test_every_kernel_of_the_tables_is_gated(operator):
    gated = {gate.kernel for spec in registry.specs(operator) for gate in spec.gates}
    assert set(tuned.kernels_of(operator)) <= gated


def test_the_choice_follows_the_table():
    def choose(device, numerics):
        return registry.select("rms_norm", {"width": 64}, torch.bfloat16, device, numerics).backend

    assert choose("cuda", "fast") == choose("cuda", "exact") == "triton"
    assert choose("cpu", "fast") == "torch"
    assert choose("cpu", "exact") == "c"
    with registry.preferring("triton"):
        assert choose("cpu", "fast") == "triton"


def test_what_nothing_computes_is_an_error_that_says_so():
    with pytest.raises(LookupError, match="no operator 'rms'"):
        registry.spec("rms")
    with pytest.raises(LookupError, match="nothing computes rms_norm"):
        registry.select("rms_norm", {"width": 64}, torch.bfloat16, "xpu", "exact")


def test_rules_are_read_from_the_top_and_a_forced_configuration_wins():
    assert tuned.tuned("rms_norm", "add_rms_norm", width=128)["ROWS"] == 16
    assert tuned.tuned("rms_norm", "add_rms_norm", width=4096)["ROWS"] == 1
    with tuned.forced("add_rms_norm", {"ROWS": 2}):
        assert tuned.tuned("rms_norm", "add_rms_norm", width=128) == {"ROWS": 2}
