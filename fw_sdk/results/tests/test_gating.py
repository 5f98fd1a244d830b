"""When a gate can hold, what would make it hold, and the way back."""

from __future__ import annotations

from typing import Any

import pytest

from fw_sdk.results.actions import sentence
from fw_sdk.results.gating import Wanted, after_refusal, is_hopeless, towards_the_gate, way_back, way_off
from fw_sdk.results.spelling import command, tool_call
from fw_sdk.results.tests.made import compared
from fw_sdk.types import Comparison, Deployment, Gate, GateKind


def wanted(gate: Gate | None = None, *, force: bool = False) -> Wanted:
    return Wanted("new", "shop", None, gate or Gate(), force)


def towards(evidence: Comparison | None) -> str:
    return sentence(towards_the_gate(wanted(), evidence), tool_call)


@pytest.mark.parametrize(
    ("verdict", "gate", "force", "hopeless"),
    [
        ("better", GateKind.BETTER, False, False),
        ("worse", GateKind.BETTER, False, True),
        ("inconclusive", GateKind.BETTER, False, True),
        ("inconclusive", GateKind.BETTER, True, False),
        ("inconclusive", GateKind.NOT_WORSE, False, False),
        ("invalid", GateKind.NOT_WORSE, False, True),
        ("invalid", GateKind.BETTER, True, False),
    ],
)
def test_nobody_confirms_what_the_gate_refuses_anyhow(
    verdict: str, gate: GateKind, force: bool, hopeless: bool
) -> None:
    assert is_hopeless(wanted(Gate(kind=gate), force=force), compared(verdict)) is hopeless
    assert is_hopeless(wanted(), None) is False
    assert is_hopeless(wanted(Gate(min_score=0.6)), compared("better")) is True
    assert is_hopeless(wanted(Gate(min_score=0.5)), compared("better")) is False


@pytest.mark.parametrize(
    ("more", "because"),
    [
        ({"forced": True, "comparison": "c1"}, "comparison='c1', force=true"),
        ({}, "force=true"),
        ({"comparison": "accounts/local/comparisons/c1"}, "comparison='c1'"),
        (
            {"comparison": "c1", "gate": Gate(kind=GateKind.NOT_WORSE, margin=0.05)},
            "comparison='c1', gate='not_worse', margin=0.05",
        ),
        ({"comparison": "c1", "gate": Gate(min_score=0.9)}, "comparison='c1', min_score=0.9"),
    ],
)
def test_the_way_back_rests_on_what_the_former_model_rested_on(more: dict[str, Any], because: str) -> None:
    former = Deployment(name="accounts/local/deployments/shop", base_model="accounts/local/models/old", **more)
    assert way_back(former).text(tool_call) == f"deploy(model='old', name='shop', {because}, confirm='shop')"


def test_a_first_deployment_can_be_stopped() -> None:
    first = Deployment(name="accounts/local/deployments/shop", base_model="accounts/local/models/old")
    assert way_off(first).text(tool_call) == "deploy(action='stop', name='shop', confirm='shop')"
    assert way_off(first).text(command) == "fw deploy stop shop"


def test_a_refused_gate_says_what_would_decide_it() -> None:
    assert towards(None).startswith("evaluate(model='new', data=..., evaluator=...)")
    assert "split='heldout'" in towards(compared("better", trained_on=4))
    assert is_hopeless(wanted(), compared("better", trained_on=4))
    other = compared("better", candidate_model="accounts/local/models/other")
    assert "candidate='new'" in towards(other) and is_hopeless(wanted(), other)
    undecided = towards(compared("inconclusive", rows_needed=663))
    assert "'old'" in undecided and "'new'" in undecided and "663 rows in all" in undecided
    assert "compare(baseline='e-old', candidate='e-new', detail='full')" in towards(compared("worse"))
    failing = towards(compared("invalid", baseline_failed_rows=1, candidate_failed_rows=3))
    assert failing.startswith("job_get(job_id='e-new', view='samples')") and "compare(...)" in failing
    low = Wanted("new", "shop", None, Gate(min_score=0.9), force=False)
    assert "min_score than 0.9" in sentence(towards_the_gate(low, compared("better")), tool_call)


def test_the_shell_compares_evaluations_not_models() -> None:
    assert sentence(towards_the_gate(wanted(), None), command).endswith("fw compare BASELINE CANDIDATE")


@pytest.mark.parametrize("replaces", [True, False])
def test_a_refused_gate_says_how_to_serve_the_model_all_the_same(replaces: bool) -> None:
    *_, last = after_refusal(wanted(), compared("worse"), replaces=replaces)
    confirm = ", confirm='shop'" if replaces else ""
    assert last.text(tool_call).startswith(f"deploy(model='new', name='shop', force=true{confirm})")
    assert last.text(command).startswith("fw deploy start new --id shop --force ")
