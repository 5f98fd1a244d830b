"""What results say: when a served model may be replaced, rows and plans."""

from __future__ import annotations

from typing import Any

import pytest

from fw_mcp.dataset_report import Look
from fw_mcp.plans import Pace, of_pull, rows_on_side, scoring
from fw_mcp.replacement import check_replacing
from fw_mcp.results import refusal
from fw_mcp.scored_rows import Row, ends
from fw_mcp.views import problem_view, same_problems
from fw_sdk.results.gating import Wanted
from fw_sdk.types import (
    Comparison,
    Dataset,
    DatasetReport,
    FwError,
    Gate,
    GateKind,
    Interval,
    PullEstimate,
    RowProblem,
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


def test_replacing_needs_evidence_and_then_the_name_again() -> None:
    with pytest.raises(FwError) as unproven:
        check_replacing(wanted(), "old", None, "shop")
    assert unproven.value.code == "gate_not_met" and "compare(baseline='old', candidate='new')" in unproven.value.hint
    with pytest.raises(FwError) as unconfirmed:
        check_replacing(wanted(), "old", compared("better"), None)
    assert unconfirmed.value.hint == "deploy(model='new', comparison='c1', name='shop', confirm='shop')"
    with pytest.raises(FwError) as with_its_gate:
        gate = Gate(kind=GateKind.NOT_WORSE, margin=0.05, min_score=0.4)
        check_replacing(wanted(gate), "old", compared("inconclusive"), None)
    assert "gate='not_worse', margin=0.05, min_score=0.4, confirm='shop')" in with_its_gate.value.hint
    check_replacing(wanted(), "old", compared("better"), "accounts/local/deployments/shop")
    check_replacing(wanted(force=True), "old", None, "shop")


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
