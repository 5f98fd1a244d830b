"""What a job, a verdict and a deployment ask for next."""

from __future__ import annotations

from typing import Any

import pytest

from fw_sdk.results.actions import sentence
from fw_sdk.results.next_steps import Setting, Steps, after_comparison, after_deployment, after_job
from fw_sdk.results.spelling import command, tool_call
from fw_sdk.results.tests.made import compared, ended, scored
from fw_sdk.types import (
    Comparison,
    Deployment,
    DeploymentState,
    Evaluation,
    Failure,
    Gate,
    GateKind,
    Interval,
    JobState,
    Verdict,
)


def said(steps: Steps) -> str:
    return sentence(steps, tool_call)


def even(mean: float, verdict: Verdict, *, binary: bool = True, rows_needed: int | None = None) -> Comparison:
    """Equal means on a hundred rows."""
    means = dict.fromkeys(("baseline_mean", "candidate_mean"), mean)
    return compared(
        verdict,
        **means,
        delta=0.0,
        ci=Interval(low=-0.04, high=0.04),
        n=100,
        wins=0,
        losses=0,
        ties=100,
        p_value=1.0 if binary else None,
        rows_needed=rows_needed,
    )


@pytest.mark.parametrize(
    ("found", "begins"),
    [
        (even(0.5, Verdict.BETTER), "deploy(model='new', comparison='c1', name='new')"),
        (even(1.0, Verdict.INCONCLUSIVE), "generate(model='old'"),
        (even(0.96, Verdict.WORSE), "generate(model='old'"),
        (even(1.0, Verdict.INVALID), "job_get(job_id='e-old', view='samples')"),
        (even(0.5, Verdict.WORSE), "keep the baseline; then customize(...)"),
        (even(0.5, Verdict.INCONCLUSIVE, rows_needed=400), "customize(..., heldout='<a file with about 400 rows>')"),
        (even(0.5, Verdict.INCONCLUSIVE), "customize(...) with more"),
        (even(40.0, Verdict.INCONCLUSIVE, binary=False), "customize(...) with more"),
        (even(0.0, Verdict.INCONCLUSIVE, rows_needed=400), "job_get(job_id='e-new', view='samples')"),
    ],
)
def test_a_verdict_names_the_call_that_follows(found: Comparison, begins: str) -> None:
    assert said(after_comparison(found)).startswith(begins)


def test_a_model_that_is_not_better_can_be_served_all_the_same_when_a_person_decides_so() -> None:
    for verdict in (Verdict.WORSE, Verdict.INCONCLUSIVE):
        *_, last = after_comparison(even(0.5, verdict), Setting(name="shop"))
        assert last.text(tool_call).startswith("deploy(model='new', comparison='c1', name='shop', force=true)")
        assert "a person has to decide" in last.says and last.instead


@pytest.mark.parametrize("few_shot", [0, 4])
def test_examples_are_spoken_of_only_where_the_baseline_had_some(few_shot: int) -> None:
    words = said(after_comparison(even(1.0, Verdict.INCONCLUSIVE), Setting(few_shot=few_shot)))
    assert ("example" in words) is bool(few_shot)
    assert words.startswith("job_get(job_id='e-old', detail='full')" if few_shot else "generate(model='old'")


@pytest.mark.parametrize("wanted", [True, False])
def test_what_was_not_to_be_served_is_looked_at_first(wanted: bool) -> None:
    following = said(after_job(ended(compared("better"), request={"deploy": wanted, "deploymentId": "shop"})))
    assert following.startswith("deploy(" if wanted else "job_get(job_id='p', view='samples')")
    assert "deploy(model='new', comparison='c1', name='shop')" in following


@pytest.mark.parametrize(
    ("min_score", "words"),
    [(0.6, "min_score than 0.6"), (0.5, "deploy(model='new', comparison='c1', name='p', min_score=0.5)")],
)
def test_a_pipeline_that_missed_its_minimum_is_not_told_to_deploy_anyhow(min_score: float, words: str) -> None:
    request = {"gate": {"kind": "better", "minScore": min_score}}
    assert words in said(after_job(ended(compared("better"), request=request)))


def test_a_deployment_carries_the_gate_that_the_pipeline_was_started_with() -> None:
    gate = Gate(kind=GateKind.NOT_WORSE, margin=0.05)
    words = said(after_comparison(compared("better"), Setting(gate=gate, name="shop")))
    assert words == "deploy(model='new', comparison='c1', name='shop', gate='not_worse', margin=0.05)"


def test_a_better_model_is_offered_the_place_of_the_one_that_is_served() -> None:
    in_place = said(after_comparison(compared("better"), Setting(name="shop", replaces=True)))
    assert in_place.startswith("deploy(model='new', comparison='c1', name='shop', confirm='shop')")


def test_what_is_served_already_is_asked_not_deployed_again() -> None:
    served = said(after_comparison(compared("better"), Setting(served_as="shop")))
    assert served.startswith("generate(model='shop'") and "deploy(" not in served
    done = said(after_job(ended(compared("better"), deployment="accounts/local/deployments/p", tuned=scored(0.8))))
    assert done.startswith("generate(model='p'") and "deploy(" not in done and "view='samples'" in done


def test_a_perfect_score_has_no_worst_answers() -> None:
    perfect = ended(compared("better"), deployment="accounts/local/deployments/p", tuned=scored(1.0, binary=True))
    assert "samples" not in said(after_job(perfect))


@pytest.mark.parametrize(("shown", "offered"), [(None, True), ({"count": 4}, False)])
def test_examples_are_not_proposed_to_an_evaluation_that_has_them(shown: Any, offered: bool) -> None:
    configuration = {
        "model": "m",
        "modelDigest": "d",
        "baseDigest": "d",
        "dtype": "float32",
        "templateDigest": "t",
        "fewShot": shown,
    }
    job = Evaluation.model_validate(
        {"name": "e", "kind": "evaluate", "state": JobState.COMPLETED, "configuration": configuration}
    )
    assert ("few_shot=4" in said(after_job(job))) is offered


def test_a_failed_job_goes_on_after_its_cause_is_removed() -> None:
    failure = Failure(code="out_of_memory", message="m", hint="lower batch_size.")
    failed = ended(None).model_copy(update={"state": JobState.FAILED, "failure": failure, "outcome": None})
    assert (
        said(after_job(failed)) == "lower batch_size; then customize(...) with the same arguments goes on "
        "where it stopped"
    )
    assert sentence(after_job(failed), command).endswith("fw job resume p goes on where it stopped")


def test_a_starting_deployment_is_looked_at_again() -> None:
    made = Deployment(name="accounts/local/deployments/d", base_model="accounts/local/models/m")
    assert said(after_deployment(made)).startswith("deploy(model='m', name='d')")
    ready = made.model_copy(update={"state": DeploymentState.READY})
    assert said(after_deployment(ready)).startswith("generate(model='d'")


def test_one_model_with_a_better_prompt_needs_no_deployment() -> None:
    same = compared("better", baseline_model="accounts/local/models/new")
    words = said(after_comparison(same))
    assert "without any training" in words and "deploy(" not in words


def test_rows_that_were_trained_on_prove_nothing() -> None:
    assert "measures memory" in said(after_comparison(compared("better", trained_on=4)))
    assert said(after_comparison(compared("better", verified=False))).startswith("evaluate both again")
