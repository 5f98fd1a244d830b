"""Gates against the sentences they implement."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.control.evidence.gates import Candidate, decide, refusal
from fw_sdk.types import Comparison, Evidence, Gate, GateKind, Interval, Ref, ServedConfiguration, Verdict

TUNED = Candidate("accounts/local/models/tuned", "sha256:" + "a" * 64)
BETTER, NOT_WORSE = Gate(), Gate(kind=GateKind.NOT_WORSE, margin=0.05)


def evidence(configuration: ServedConfiguration | None) -> Evidence:
    model = Ref(name=TUNED.name, digest=TUNED.digest)
    evaluation = Ref(name="accounts/local/evaluationJobs/tuned", digest="sha256:e")
    return Evidence(evaluation=evaluation, model=model, configuration=configuration)


def comparison(**changes) -> Comparison:
    fields = {
        "name": "accounts/local/comparisons/c",
        "baseline": "accounts/local/evaluationJobs/base",
        "candidate": "accounts/local/evaluationJobs/tuned",
        "candidate_model": TUNED.name,
        "candidate_evidence": evidence(scored()),
        "verified": True,
        "baseline_mean": 0.1,
        "candidate_mean": 0.5,
        "delta": 0.4,
        "ci": Interval(low=0.3, high=0.5),
        "n": 100,
        "wins": 40,
        "losses": 0,
        "ties": 60,
        "verdict": Verdict.BETTER,
        "cost": {
            "baseline_tokens": 900.0,
            "candidate_tokens": 300.0,
            "baseline_seconds": 5.0,
            "candidate_seconds": 9.0,
        },
    }
    return Comparison(**{**fields, **changes})


def scored(**changes) -> ServedConfiguration:
    fields = {
        "model": "tuned",
        "model_digest": TUNED.digest,
        "base_digest": "sha256:b",
        "dtype": "float32",
        "template_digest": "t",
    }
    return ServedConfiguration(**{**fields, **changes})


@pytest.mark.parametrize("gate", [BETTER, NOT_WORSE])
def test_a_model_that_is_compared_with_itself_passes_no_gate(gate: Gate) -> None:
    itself = evidence(scored(sampling={"seed": 7}))
    decision = decide(gate, comparison(baseline_evidence=itself), TUNED)
    assert not decision.holds and "with itself" in decision.reason
    with_examples = evidence(scored(few_shot={"count": 4}))
    assert decide(gate, comparison(baseline_evidence=with_examples), TUNED).holds


@pytest.mark.parametrize("gate", [BETTER, NOT_WORSE])
def test_a_baseline_whose_answers_were_cut_earlier_is_no_baseline(gate: Gate) -> None:
    baseline = evidence(scored(model_digest="sha256:c", sampling={"maxTokens": 1}))
    candidate = evidence(scored(sampling={"maxTokens": 256}))
    decision = decide(gate, comparison(baseline_evidence=baseline, candidate_evidence=candidate), TUNED)
    assert not decision.holds and "1 tokens" in decision.reason and "256" in decision.reason


def test_better_passes_on_the_verdict_better_and_says_why() -> None:
    decision = decide(BETTER, comparison(), TUNED)
    assert decision.holds
    assert "better" in decision.reason and "+0.400" in decision.reason and "[+0.300, +0.500]" in decision.reason


@pytest.mark.parametrize("gate", [BETTER, NOT_WORSE])
def test_rows_that_were_trained_on_are_no_evidence(gate: Gate) -> None:
    decision = decide(gate, comparison(trained_on=3), TUNED)
    assert not decision.holds
    assert "3 rows of 100" in decision.reason and "held out" in decision.hint


@pytest.mark.parametrize("verdict", [Verdict.WORSE, Verdict.INCONCLUSIVE, Verdict.INVALID])
def test_better_refuses_every_other_verdict(verdict: Verdict) -> None:
    assert not decide(BETTER, comparison(verdict=verdict), TUNED).holds


def test_an_inconclusive_refusal_says_how_many_rows_would_decide() -> None:
    decision = decide(BETTER, comparison(verdict=Verdict.INCONCLUSIVE, rows_needed=450), TUNED)
    assert "450" in decision.hint


@pytest.mark.parametrize("gate", [BETTER, NOT_WORSE])
@pytest.mark.parametrize(
    ("changed", "evaluated", "said"),
    [
        (
            {"candidate_model": "accounts/local/models/other"},
            scored(model_digest="sha256:" + "c" * 64),
            "is about 'other'",
        ),
        ({}, scored(model_digest="sha256:" + "c" * 64), "sha256:cccc"),
        ({}, scored(few_shot={"count": 4}), "examples in its prompt"),
        ({}, None, "unverified"),
    ],
)
def test_a_comparison_of_anything_else_never_passes(gate, changed, evaluated, said) -> None:
    decision = decide(gate, comparison(**changed, candidate_evidence=evidence(evaluated)), TUNED)
    assert not decision.holds
    assert said in decision.reason


@pytest.mark.parametrize("gate", [BETTER, NOT_WORSE])
def test_no_comparison_never_passes(gate) -> None:
    assert not decide(gate, None, TUNED).holds


@given(
    low=st.floats(-1, 1),
    margin=st.floats(0, 1),
    tokens=st.tuples(st.floats(0, 1e6), st.floats(0, 1e6)),
    seconds=st.tuples(st.floats(0, 1e6), st.floats(0, 1e6)),
    verdict=st.sampled_from(Verdict),
)
def test_not_worse_is_the_margin_and_a_saving(low, margin, tokens, seconds, verdict) -> None:
    cost = dict(
        zip(
            ("baseline_tokens", "candidate_tokens", "baseline_seconds", "candidate_seconds"),
            (*tokens, *seconds),
            strict=True,
        )
    )
    given_ = comparison(ci=Interval(low=low, high=low + 0.1), cost=cost, verdict=verdict)
    decision = decide(Gate(kind=GateKind.NOT_WORSE, margin=margin), given_, TUNED)
    saves = tokens[1] <= tokens[0] or seconds[1] <= seconds[0]
    assert decision.holds == (low >= -margin and saves and verdict is not Verdict.INVALID)


@given(mean=st.floats(-1, 2), wanted=st.floats(-1, 2), kind=st.sampled_from(GateKind), verdict=st.sampled_from(Verdict))
def test_a_minimum_is_asked_of_the_mean_beside_what_the_kind_asks(mean, wanted, kind, verdict) -> None:
    found = comparison(candidate_mean=mean, verdict=verdict)
    without = decide(Gate(kind=kind), found, TUNED)
    decision = decide(Gate(kind=kind, min_score=wanted), found, TUNED)
    assert decision.holds == (without.holds and mean >= wanted)
    if without.holds:
        assert f"{mean:.3f}" in decision.reason and f"{wanted:g}" in decision.reason
    else:
        assert decision == without


@pytest.mark.parametrize("gate", [BETTER, NOT_WORSE, Gate(kind=GateKind.NOT_WORSE, margin=1.0, min_score=0.0)])
def test_an_invalid_comparison_passes_no_gate_and_says_how_many_rows_have_no_score(gate: Gate) -> None:
    found = comparison(verdict=Verdict.INVALID, baseline_failed_rows=1, candidate_failed_rows=7)
    decision = decide(gate, found, TUNED)
    assert not decision.holds and "evaluate again" in decision.hint
    error = refusal(decision, gate, found, TUNED)
    for part in ("says invalid", "baseline 1, candidate 7", "more than 2% of a side's rows have no score"):
        assert part in error.message
    assert (error.details["baselineFailedRows"], error.details["candidateFailedRows"]) == (1, 7)


def test_rows_without_a_score_stand_beside_the_numbers_of_a_gate_that_holds() -> None:
    assert "baseline 0, candidate 2" in decide(BETTER, comparison(candidate_failed_rows=2), TUNED).reason
    assert "without a score" not in decide(BETTER, comparison(), TUNED).reason


def test_a_minimum_that_is_not_reached_stands_in_the_refusal() -> None:
    gate = Gate(min_score=0.9)
    decision = decide(gate, comparison(), TUNED)
    error = refusal(decision, gate, comparison(), TUNED)
    assert "0.500, below the 0.9" in error.message and "min_score" in str(error.hint)
    assert error.details["candidateMean"] == 0.5 and error.details["gate"]["minScore"] == 0.9


def test_not_worse_without_a_recorded_cost_is_refused() -> None:
    decision = decide(NOT_WORSE, comparison(cost={}), TUNED)
    assert not decision.holds and "no cost was recorded" in decision.reason


def test_a_refusal_names_the_comparison_its_numbers_and_how_to_force() -> None:
    worse = comparison(verdict=Verdict.WORSE, delta=-0.2, ci=Interval(low=-0.3, high=-0.1))
    error = refusal(decide(BETTER, worse, TUNED), BETTER, worse, TUNED)
    assert error.code == "gate_not_met" and error.http_status == 409
    for part in ("'c'", "worse", "-0.200", "[-0.300, -0.100]"):
        assert part in error.message
    assert "force" in error.hint and "not deployed" in error.not_done
    assert error.details["verdict"] == "worse" and error.details["ci"]["low"] == -0.3
