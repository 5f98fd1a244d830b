"""A report says the verdict first, and everything that stands behind it."""

from __future__ import annotations

from fw_sdk.results.report import min_score, report_on, report_on_comparison, report_on_evaluation
from fw_sdk.results.spelling import command
from fw_sdk.results.tests.made import compared, ended, scored
from fw_sdk.results.text import markdown, next_lines, page
from fw_sdk.types import Evaluation, ExtraMean, Failure, Interval, JobKind, JobState, Split


def better() -> object:
    comparison = compared("better", candidate_mean=0.8, baseline_mean=0.3, n=100, wins=55, losses=5, ties=40)
    request = {"gate": {"kind": "better", "minScore": 0.75}, "deploymentId": "shop"}
    more = {"tuned": scored(0.8), "timings": {"finetune": 61.25}, "deployment": "accounts/local/deployments/shop"}
    return ended(comparison, request=request, **more)


def test_the_page_of_a_pipeline_begins_with_its_verdict_and_fits_a_screen() -> None:
    lines = list(page(report_on(better())))
    assert lines[0] == (
        "better: the tuned model scores 0.800, +0.500, 95 % interval [+0.100, +0.900], n=100, "
        "against the best baseline (few-shot, 0.300)"
    )
    text = "\n".join(lines)
    for row in ("base", "few-shot", "tuned"):
        assert any(line.startswith(row) and line.endswith("100") for line in lines), row
    assert "wins/losses/ties: 55/5/40" in text and "deployment: shop" in text and "finetune 61.2" in text
    assert "min_score: 0.75 was asked for, 0.800 reached: met" in text
    assert len(lines) < 24


def test_the_next_lines_are_commands_with_their_purpose() -> None:
    first, *others = next_lines(report_on(better()).steps, command)
    assert first.startswith("fw chat shop ") and "  # " in first and len(others) <= 2


def test_a_missed_minimum_is_said() -> None:
    asked = ended(compared("better"), request={"gate": {"minScore": 0.6}}, tuned=scored(0.5))
    assert min_score(asked) == (0.6, 0.5, False)
    assert any("0.6 was asked for, 0.500 reached: not met" in fact for fact in report_on(asked).facts)
    assert min_score(ended(compared("better"))) is None


def test_rows_that_are_needed_are_rows_in_all() -> None:
    report = report_on_comparison(compared("inconclusive", rows_needed=285))
    assert any("285 rows in all" in fact and "10 now" in fact for fact in report.facts)


def test_an_invalid_comparison_is_named_as_such_with_the_rows_that_failed() -> None:
    report = report_on(ended(compared("invalid", candidate_failed_rows=3), not_deployed_because="the gate"))
    assert report.headline.startswith("invalid (too many rows have no score)")
    assert "rows without a score: 0 of the baseline, 3 of the candidate" in report.facts
    assert "deployment: none (the gate)" in report.facts


def test_a_failed_pipeline_says_why_first() -> None:
    failure = Failure(code="out_of_memory", message="Step 'finetune' failed: no memory", hint="lower batch_size")
    failed = better().model_copy(update={"state": JobState.FAILED, "failure": failure})
    assert next(iter(page(report_on(failed)))) == "failed: Step 'finetune' failed: no memory"


def test_an_evaluation_shows_the_evaluators_other_numbers() -> None:
    extra = {"city": ExtraMean(n=10, mean=0.25, ci=Interval(low=0.1, high=0.4))}
    evaluation = Evaluation(
        name="accounts/local/evaluationJobs/e",
        kind=JobKind.EVALUATE,
        state=JobState.COMPLETED,
        model="accounts/local/models/m",
        input_split=Split.HELDOUT,
        summary=scored(0.5, extra=extra),
    )
    report = report_on_evaluation(evaluation)
    assert report.headline == "m scores 0.500, 95 % interval [0.400, 0.600], n=100"
    assert any(fact.startswith("city: 0.250") for fact in report.facts)
    unfinished = evaluation.model_copy(update={"summary": None, "state": JobState.RUNNING})
    assert report_on_evaluation(unfinished).headline == "running: e"


def test_markdown_has_the_table_the_facts_and_the_next_step() -> None:
    text = markdown(report_on(better()), command)
    assert text.startswith("**better: ") and "| few-shot | 0.300 |" in text and "Next: fw chat shop" in text
