"""``fw eval`` and ``fw compare``: scores with intervals, and verdicts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fw_sdk.cli.app import command, group
from fw_sdk.cli.connect import connect, settle, show_some
from fw_sdk.cli.output import emit_one, hint, short_id

if TYPE_CHECKING:
    from fw_sdk.client import Client
    from fw_sdk.types import Comparison

COLUMNS = {
    "id": lambda job: job.id,
    "state": lambda job: job.state.value.removeprefix("JOB_STATE_"),
    "model": lambda job: short_id(job.model),
    "dataset": lambda job: short_id(job.input_dataset),
    "n": lambda job: job.summary.n if job.summary else None,
    "mean": lambda job: job.summary.mean if job.summary else None,
    "low": lambda job: job.summary.ci.low if job.summary else None,
    "high": lambda job: job.summary.ci.high if job.summary else None,
    "created": lambda job: job.create_time,
}
SCORE_COLUMNS = {
    "line": lambda row: row.line,
    "score": lambda row: row.score,
    "finish": lambda row: row.finish_reason,
    "error": lambda row: row.error,
    "output": lambda row: row.output,
}

Limit = Annotated[int, typer.Option(min=1, help="Show at most so many.")]
EvaluationId = Annotated[str, typer.Argument(help="The evaluation's id.")]


def register(app: typer.Typer) -> None:
    """Add the group and ``compare``."""
    noun = group("Evaluations: one stored score per row.")
    app.add_typer(noun, name="eval")
    command(noun, "start")(start)
    command(noun, "list")(list_evaluations)
    command(noun, "show")(show)
    command(noun, "scores")(scores)
    command(app, "compare")(compare)


def start(
    model: Annotated[str, typer.Argument(help="A model or deployment.")],
    dataset: Annotated[str, typer.Argument(help="Whose prompts are asked.")],
    evaluator: Annotated[str, typer.Argument(help="What scores the answers.")],
    id: Annotated[str | None, typer.Option(help="The job's id.")] = None,
    split: Annotated[str, typer.Option(help="heldout, train or all.")] = "heldout",
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many rows.")] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="The longest answer.")] = 256,
    temperature: Annotated[float, typer.Option(min=0, max=2, help="0 is greedy.")] = 0.0,
    few_shot: Annotated[str | None, typer.Option(help="Dataset whose examples stand before each prompt.")] = None,
    few_shot_count: Annotated[int, typer.Option(min=1, max=32, help="How many of them.")] = 4,
    wait: Annotated[bool, typer.Option(help="Wait for the result.")] = False,
) -> None:
    """Score a model. Example: fw eval start smollm2-135m days exact --wait"""
    from fw_sdk.types import FewShot

    client = connect()
    examples = FewShot(dataset=few_shot, count=few_shot_count) if few_shot else None
    sampling: dict[str, Any] = {"max_tokens": max_tokens, "temperature": temperature}
    job = client.evaluations.create(
        model, dataset, evaluator, id=id, split=split, limit=limit, few_shot=examples, **sampling
    )
    settle(client, job.id, lambda: client.evaluations.get(job.id), wait=wait)


def list_evaluations(limit: Limit = 50) -> None:
    """Evaluations, newest first, each mean with its interval."""
    show_some(connect().evaluations.list(), COLUMNS, limit)


def show(evaluation: EvaluationId) -> None:
    """One evaluation with its summary."""
    emit_one(connect().evaluations.get(evaluation))
    hint(f"fw eval scores {evaluation}")


def scores(evaluation: EvaluationId, limit: Limit = 200) -> None:
    """The score, answer and error of every row."""
    show_some(connect().evaluations.scores(evaluation), SCORE_COLUMNS, limit)


def compare(
    baseline: Annotated[str, typer.Argument(help="An evaluation's id.")],
    candidate: Annotated[str, typer.Argument(help="An evaluation of the same rows.")],
    id: Annotated[str | None, typer.Option(help="The comparison's id.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw it into this PNG file too.")] = None,
) -> None:
    """Compare two evaluations row by row: better, worse, inconclusive or invalid, with an interval."""
    client = connect()
    comparison = client.comparisons.create(baseline, candidate, id=id)
    emit_one(comparison)
    if plot is not None:
        _draw(client, comparison, plot.resolve())
        hint(f"picture: {plot}")
    if comparison.verdict.value == "invalid":
        for side in (comparison.baseline, comparison.candidate):
            hint(f"fw eval scores {short_id(side)}  # which rows have no score, and why")
    if comparison.verdict.value == "better":
        hint(f"fw deploy start {short_id(comparison.candidate_model)} --comparison {comparison.id}")


def _draw(client: Client, comparison: Comparison, path: Path) -> None:
    from fw_sdk.pictures.comparison import Side, draw_comparison

    def side(name: str) -> Side:
        evaluation = client.evaluations.get(name)
        scores = list(client.evaluations.scores(evaluation.id))
        return Side(short_id(evaluation.model) or evaluation.id, scores, evaluation.summary)

    draw_comparison(comparison, side(comparison.baseline), side(comparison.candidate), path)
