"""What makes a score mean less than it says: answers that were cut, rows without a score, answers that read nothing."""

from __future__ import annotations

from fw_sdk.results.actions import short
from fw_sdk.types import Comparison, PipelineResult, ScoreSummary

CUT_SHARE = 0.1


def cut_warning(summary: ScoreSummary | None, *, beside: ScoreSummary | None = None) -> str | None:
    """Answers that were cut at the token limit, and rows that could not be scored.

    Where the model scored ``beside`` it, which was trained on wanted answers, was never cut, those fit: then what was
    cut here was no wanted answer, and a higher limit would change nothing.
    """
    if summary is None:
        return None
    parts = []
    fits = beside is not None and not beside.truncated_rows
    if summary.truncated_rows > CUT_SHARE * summary.n and not fits:
        parts.append(
            f"{summary.truncated_rows} of {summary.n} answers reached max_tokens; raise it if wanted ones are as long"
        )
    if summary.failed_rows:
        parts.append(f"{summary.failed_rows} rows have no score and count as the lowest")
    return "; ".join(parts) or None


def same_warning(summary: ScoreSummary | None) -> str | None:
    """What speaks against a score although every answer was scored: it takes no reading of the question to reach it."""
    if summary is None:
        return None
    constant = summary.constant
    if constant is not None and summary.ci.low <= constant.mean:
        return (
            f"always giving the answer that most rows want ({constant.share:.0%}) would score {constant.mean:.3g}; "
            "this is not clearly above that"
        )
    if summary.distinct_answers == 1 and summary.n > 1:
        return f"all {summary.n} answers are the same"
    return None


def score_warning(summary: ScoreSummary | None) -> str | None:
    """All that makes a score mean less than it says."""
    return "; ".join(filter(None, (cut_warning(summary), same_warning(summary)))) or None


def outcome_caveats(outcome: PipelineResult) -> list[str]:
    """Each score's warning, under the label of what was scored; of baselines little is expected."""
    said = {"tuned": score_warning(outcome.tuned)}
    said |= {item.label: cut_warning(item.summary, beside=outcome.tuned) for item in outcome.baselines}
    found = [f"{label}: {words}" for label, words in said.items() if words]
    return found + (comparison_caveats(outcome.comparison) if outcome.comparison else [])


def comparison_caveats(comparison: Comparison) -> list[str]:
    """What makes a comparison weaker than its verdict."""
    found = []
    if comparison.trained_on:
        found.append(
            f"the candidate was trained on {comparison.trained_on} of these {comparison.n} rows, which measures "
            "memory; no gate accepts this comparison"
        )
    if comparison.trained_on is None:
        found.append("what the candidate was trained on is not known, so some of these rows may be among it")
    if not comparison.verified:
        found.append("it has no digests of what was compared, so no gate accepts it")
    if comparison.superseded:
        changed = ", ".join(short(name) or name for name in comparison.superseded)
        found.append(f"changed or deleted since: {changed}")
    return found


def all_zero(comparison: Comparison) -> bool:
    """Whether neither side got any row right, so that more rows of the same kind would show nothing."""
    return comparison.baseline_mean == comparison.candidate_mean == 0 and comparison.wins == comparison.losses == 0
