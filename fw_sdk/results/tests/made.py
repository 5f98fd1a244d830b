"""Values of the wire contract that the tests of this room talk about."""

from __future__ import annotations

from typing import Any

from fw_sdk.types import (
    BaselineResult,
    Comparison,
    Interval,
    JobKind,
    JobState,
    Pipeline,
    PipelineResult,
    ScoreSummary,
)


def compared(verdict: str, **more: Any) -> Comparison:
    """A comparison of ``new`` with ``old`` on ten rows, by default with a mean of 0.5 on both sides."""
    fields = {
        "name": "accounts/local/comparisons/c1",
        "baseline": "accounts/local/evaluationJobs/e-old",
        "candidate": "accounts/local/evaluationJobs/e-new",
        "baseline_model": "accounts/local/models/old",
        "candidate_model": "accounts/local/models/new",
        **dict.fromkeys(("baseline_mean", "candidate_mean", "delta"), 0.5),
        "ci": Interval(low=0.1, high=0.9),
        **dict.fromkeys(("n", "wins", "losses", "ties"), 10),
        "verdict": verdict,
        "verified": True,
    }
    return Comparison(**{**fields, **more})


def scored(mean: float, n: int = 100, **more: Any) -> ScoreSummary:
    """A score with an interval of a tenth on each side."""
    return ScoreSummary(n=n, mean=mean, ci=Interval(low=mean - 0.1, high=mean + 0.1), **more)


def ended(comparison: Comparison | None, *, request: dict[str, Any] | None = None, **outcome: Any) -> Pipeline:
    """A completed pipeline ``p`` whose best baseline has four examples in its prompt."""
    best = BaselineResult(label="few_shot", evaluation="p-few-shot", summary=scored(0.3), comparison=comparison)
    base = BaselineResult(label="base", evaluation="p-base", summary=scored(0.1))
    fields = {"model": "old", "adapter": "new", "comparison": comparison, "baselines": [base, best], **outcome}
    return Pipeline(
        name="accounts/local/pipelines/p",
        kind=JobKind.PIPELINE,
        state=JobState.COMPLETED,
        request={"fewShotCount": 4, **(request or {})},
        outcome=PipelineResult(**fields),
    )
