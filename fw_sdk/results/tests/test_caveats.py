"""What makes a score mean less than it says."""

from __future__ import annotations

import pytest

from fw_sdk.results.caveats import all_zero, comparison_caveats, cut_warning, outcome_caveats, same_warning
from fw_sdk.results.tests.made import compared, ended, scored
from fw_sdk.types import Interval, ScoreSummary


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


def test_each_caveat_of_an_outcome_names_what_was_scored() -> None:
    pipeline = ended(compared("better", trained_on=3), tuned=scored(0.5, failed_rows=2))
    assert pipeline.outcome is not None
    said = outcome_caveats(pipeline.outcome)
    assert said[0].startswith("tuned: 2 rows have no score") and "trained on 3 of these 10 rows" in said[1]
    assert comparison_caveats(compared("better")) == []


def test_evidence_that_no_gate_takes_is_named_as_such() -> None:
    weak = compared("better", verified=False, trained_on=None, superseded=["accounts/local/models/new"])
    said = " ".join(comparison_caveats(weak))
    assert "not known" in said and "no digests" in said and "changed or deleted since: new" in said


def test_nothing_right_on_either_side_is_no_question_of_rows() -> None:
    nothing = dict.fromkeys(("baseline_mean", "candidate_mean", "wins", "losses"), 0)
    assert all_zero(compared("inconclusive", **nothing)) and not all_zero(compared("inconclusive"))
