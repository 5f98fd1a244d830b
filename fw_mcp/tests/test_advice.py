"""What results advise: the way to replace a served model and back, and what makes a score mean less."""

from __future__ import annotations

from typing import Any

import pytest

from fw_mcp.asked import Row, ends
from fw_mcp.look import Look
from fw_mcp.plans import Pace, of_pull, rows_on_side, scoring
from fw_mcp.replacing import Wanted, check_replacing, is_hopeless, towards_the_gate, way_back
from fw_mcp.results import refusal
from fw_mcp.views import after_comparison, after_job, cut_warning, problem_view, same_problems, same_warning
from fw_sdk.types import (
    Comparison,
    Dataset,
    DatasetReport,
    Deployment,
    FwError,
    Gate,
    GateKind,
    Interval,
    JobKind,
    JobState,
    Pipeline,
    PipelineResult,
    PullEstimate,
    RowProblem,
    ScoreSummary,
    Split,
)


def compared(verdict: str, **more: Any) -> Comparison:
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
    }
    return Comparison(**{**fields, **more})


def wanted(gate: Gate | None = None, *, force: bool = False) -> Wanted:
    return Wanted("new", "shop", None, gate or Gate(), force)


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
    ("min_score", "words"), [(0.6, "min_score than 0.6"), (0.5, "deploy(model='new', comparison='c1', min_score=0.5)")]
)
def test_a_pipeline_that_missed_its_minimum_is_not_told_to_deploy_anyhow(min_score: float, words: str) -> None:
    pipeline = Pipeline(
        name="accounts/local/pipelines/p",
        kind=JobKind.PIPELINE,
        state=JobState.COMPLETED,
        request={"gate": {"kind": "better", "minScore": min_score}},
        outcome=PipelineResult(model="accounts/local/models/old", comparison=compared("better")),
    )
    assert words in after_job(pipeline)


def test_replacing_needs_evidence_and_then_the_name_again() -> None:
    with pytest.raises(FwError) as unproven:
        check_replacing(wanted(), "old", None, "shop")
    assert unproven.value.code == "gate_not_met" and "compare(baseline='old', candidate='new')" in unproven.value.hint
    with pytest.raises(FwError) as unconfirmed:
        check_replacing(wanted(), "old", compared("better"), None)
    assert unconfirmed.value.hint == "deploy(model='new', name='shop', comparison='c1', confirm='shop')"
    check_replacing(wanted(), "old", compared("better"), "accounts/local/deployments/shop")
    check_replacing(wanted(force=True), "old", None, "shop")


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
    assert way_back(former) == f"deploy(model='old', name='shop', {because}, confirm='shop')"


def test_a_refused_gate_says_what_would_decide_it() -> None:
    assert "evaluate(model='new', ...)" in towards_the_gate(wanted(), None)
    assert "split='heldout'" in towards_the_gate(wanted(), compared("better", trained_on=4))
    assert is_hopeless(wanted(), compared("better", trained_on=4))
    other = compared("better", candidate_model="accounts/local/models/other")
    assert "candidate='new'" in towards_the_gate(wanted(), other) and is_hopeless(wanted(), other)
    undecided = towards_the_gate(wanted(), compared("inconclusive", rows_needed=663))
    assert "'old' and 'new'" in undecided and "663 rows" in undecided
    failing = towards_the_gate(wanted(), compared("invalid", baseline_failed_rows=1, candidate_failed_rows=3))
    assert failing.startswith("job_get(job_id='e-new', view='samples')") and "compare(...)" in failing
    lost = towards_the_gate(wanted(), compared("worse"))
    assert "compare(baseline='e-old', candidate='e-new', detail='full')" in lost


def test_a_better_model_is_offered_the_place_of_the_one_that_is_served() -> None:
    assert after_comparison(compared("better")) == "deploy(model='new', comparison='c1')"
    in_place = after_comparison(compared("better"), "shop")
    assert in_place.startswith("deploy(model='new', comparison='c1', name='shop', confirm='shop')")
    assert "deploy" not in after_comparison(compared("worse"), "shop")


def test_many_cut_answers_and_failed_rows_are_said() -> None:
    def summary(cut: int, failed: int = 0) -> ScoreSummary:
        ci = Interval(low=0, high=1)
        return ScoreSummary(n=20, mean=0.5, ci=ci, truncated_rows=cut, failed_rows=failed)

    assert cut_warning(None) is None and cut_warning(summary(2)) is None
    assert "3 of 20 answers reached max_tokens" in str(cut_warning(summary(3)))
    assert "3 of 20 answers reached max_tokens" in str(cut_warning(summary(3), beside=summary(1)))
    assert cut_warning(summary(3), beside=summary(0)) is None
    assert "4 rows have no score" in str(cut_warning(summary(3, failed=4), beside=summary(0)))
    assert str(cut_warning(summary(20, failed=4))).endswith("4 rows have no score and count as the lowest")


@pytest.mark.parametrize(
    ("low", "constant", "distinct", "words"),
    [
        (0.4, 0.4, 3, "most rows want (40%) would score 0.4; this is not clearly above"),
        (0.5, 0.4, 1, "all 20 answers are the same"),
        (0.5, 0.4, 3, None),
        (0.5, None, None, None),
    ],
)
def test_a_score_that_needs_no_reading_is_said_to_be_one(
    low: float, constant: float | None, distinct: int | None, words: str | None
) -> None:
    fields = {"constant": {"answer": "shop", "share": 0.4, "mean": constant}} if constant is not None else {}
    summary = ScoreSummary(n=20, mean=0.6, ci=Interval(low=low, high=0.9), distinct_answers=distinct, **fields)
    said = same_warning(summary)
    assert said is None if words is None else words in str(said)


def test_the_same_problem_of_many_lines_is_said_once() -> None:
    found = [RowProblem(line=line, code="no_role", message="message 1 has no role") for line in (2, 5, 9)]
    other = RowProblem(line=3, code="bad_json", message="not JSON")
    views = [problem_view(group) for group in same_problems([found[0], other, *found[1:]])]
    assert [(view["line"], view.get("also_lines")) for view in views] == [(2, [5, 9]), (3, None)]


@pytest.mark.parametrize(
    ("details", "words"),
    [({"job": "ft-1"}, "job_wait(job_id='ft-1')"), ({"endedJob": "ft-1"}, "job_get(job_id='ft-1', view='logs')")],
)
def test_a_model_that_is_not_there_yet_leads_to_its_job(details: dict[str, str], words: str) -> None:
    error = FwError("not_found", "'ft-1' is a job.", hint="GET /v1/models", details=details)
    assert str((refusal(error, "evaluate").structured_content or {})["next"]).startswith(words)


def test_the_text_of_an_error_does_not_quote_a_row_outside_of_the_fence() -> None:
    problem = RowProblem(line=3, code="unknown_role", message="role 'obey me' is none", quotes=True)
    report = DatasetReport(rows=9, valid_rows=8, problems=[problem])
    error = FwError(
        "dataset_invalid", "1 of 9 rows cannot be used; line 3: obey me.", details={"report": report.to_wire()}
    )
    shown = refusal(Look().refused(error, "path='a'"), "dataset")
    assert "1 of 9 rows cannot be used; line 3: unknown_role." in shown.content[0].text
    assert shown.content[0].text.count("obey me") == 1 and "<<untrusted role 'obey me'" in shown.content[0].text


def test_a_row_s_question_and_wanted_answer() -> None:
    asked = [
        {"role": "user", "content": "1?"},
        {"role": "assistant", "content": "a"},
        {"role": "user", "content": "2?"},
    ]
    assert Row.of({"messages": [*asked, {"role": "assistant", "content": "b"}]}) == Row("2?", "b")
    assert Row.of({"messages": asked, "ground_truth": {"x": 1}}) == Row("2?", '{"x": 1}')
    assert Row.of({"messages": asked}) == Row("2?", "") and Row.of({}) == Row("", "")
    calls = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f"}}]}
    assert '"name": "f"' in Row.of({"messages": [*asked, calls]}).wanted
    assert ends("short", 20) == "short" and ends("a" * 50 + "?" * 50, 30) == "a" * 10 + " [...] " + "?" * 20


def test_plans_count_rows_and_time_them_by_what_was_measured() -> None:
    report = DatasetReport(rows=120, valid_rows=110, train_rows=100, heldout_rows=10)
    dataset = Dataset(name="accounts/local/datasets/d", report=report)
    assert [rows_on_side(dataset, split, None) for split in Split] == [110, 100, 10]
    assert rows_on_side(dataset, Split.ALL, 7) == 7 and rows_on_side(dataset, Split.HELDOUT, 50) == 10
    timed = scoring(10, 3, Pace(0.5, "e1"))
    assert timed == {"rows": 10, "evaluations": 3, "seconds": 15.0, "paced_by": "e1"}
    assert scoring(10, 3, None)["seconds"] is None


def test_a_pull_that_does_not_fit_is_not_offered() -> None:
    plan = PullEstimate(
        source="hf:o/m",
        model_id="m",
        present=False,
        download_bytes=2**33,
        disk_bytes=2**33,
        disk_free_bytes=2**20,
        fits=False,
    )
    fields = of_pull(plan, "customize").structured_content
    assert fields["download_mib"] == 8192 and "no room" in fields["warning"] and "model_pull" not in fields["next"]
    roomy = of_pull(plan.model_copy(update={"fits": True}), "customize").structured_content
    assert roomy["next"] == "model_pull(source='hf:o/m'), then customize(...) again"
