"""What a comparison's verdict asks for next."""

from __future__ import annotations

import pytest

from fw_mcp.plans import kept
from fw_mcp.views import after_comparison, after_job
from fw_sdk.types import Comparison, Interval, JobKind, JobState, Pipeline, PipelineResult, Verdict


def comparison(mean: float, verdict: Verdict, *, binary: bool = True, rows_needed: int | None = None) -> Comparison:
    return Comparison(
        name="accounts/local/comparisons/one",
        baseline="accounts/local/evaluationJobs/base",
        candidate="accounts/local/evaluationJobs/tuned",
        baseline_model="accounts/local/models/base",
        candidate_model="accounts/local/models/tuned",
        baseline_mean=mean,
        candidate_mean=mean,
        delta=0.0,
        ci=Interval(low=-0.04, high=0.04, level=0.95),
        n=100,
        wins=0,
        losses=0,
        ties=100,
        p_value=1.0 if binary else None,
        verdict=verdict,
        rows_needed=rows_needed,
    )


@pytest.mark.parametrize(
    ("found", "begins"),
    [
        (comparison(0.5, Verdict.BETTER), "deploy(model='tuned', comparison='one'"),
        (comparison(1.0, Verdict.INCONCLUSIVE), "generate(model='base'"),
        (comparison(0.96, Verdict.WORSE), "generate(model='base'"),
        (comparison(0.5, Verdict.WORSE), "keep the baseline"),
        (comparison(1.0, Verdict.INVALID), "job_get(job_id='base', view='samples')"),
        (comparison(0.5, Verdict.INCONCLUSIVE, rows_needed=400), "evaluate on about 400 rows"),
        (comparison(0.5, Verdict.INCONCLUSIVE), "customize(...) with more"),
        (comparison(40.0, Verdict.INCONCLUSIVE, binary=False), "customize(...) with more"),
    ],
)
def test_a_verdict_names_the_call_that_follows(found: Comparison, begins: str) -> None:
    following = after_comparison(found)
    assert following.startswith(begins)
    assert ("no training is needed" in following) == begins.startswith("generate")


@pytest.mark.parametrize("wanted", [True, False])
def test_what_was_not_to_be_served_is_looked_at_first(wanted: bool) -> None:
    pipeline = Pipeline(
        name="accounts/local/pipelines/p",
        kind=JobKind.PIPELINE,
        state=JobState.COMPLETED,
        request={"deploy": wanted},
        outcome=PipelineResult(model="base", adapter="tuned", comparison=comparison(0.5, Verdict.BETTER)),
    )
    following = after_job(pipeline)
    assert following.startswith("deploy(" if wanted else "job_get(job_id='p', view='samples')")
    assert "deploy(model='tuned'" in following


def test_a_plan_says_what_it_stored() -> None:
    assert kept("rows", None, evaluator="scorer") == "dataset 'rows', evaluator 'scorer'"
    assert kept("rows", "other") == "dataset 'rows', dataset 'other'"
