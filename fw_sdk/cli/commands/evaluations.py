"""``fw eval``: scores with intervals."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from fw_sdk.cli.app import command, group
from fw_sdk.cli.connect import connect, settle, show_job, show_some
from fw_sdk.cli.output import short_id

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

Limit = Annotated[int, typer.Option(min=1, help="Show at most N.")]
EvaluationId = Annotated[str, typer.Argument(help="The evaluation's id.")]


def register(app: typer.Typer) -> None:
    """Add the group."""
    noun = group("Evaluations: one stored score per row.")
    app.add_typer(noun, name="eval")
    command(noun, "start")(start)
    command(noun, "list")(list_evaluations)
    command(noun, "show")(show)
    command(noun, "scores")(scores)


def start(
    model: Annotated[str, typer.Argument(help="A model or deployment.")],
    dataset: Annotated[str, typer.Argument(help="The dataset whose prompts are asked.")],
    evaluator: Annotated[str, typer.Argument(help="The evaluator that scores the answers.")],
    id: Annotated[str | None, typer.Option(help="The job's id.")] = None,
    split: Annotated[str, typer.Option(help="Which rows: heldout, train or all.")] = "heldout",
    limit: Annotated[int | None, typer.Option(min=1, help="Score only the first N rows.")] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Stop each answer after N tokens.")] = 256,
    temperature: Annotated[float, typer.Option(min=0, max=2, help="0 is greedy.")] = 0.0,
    few_shot: Annotated[
        str | None, typer.Option(help="Dataset whose train rows give the examples before each prompt.")
    ] = None,
    few_shot_count: Annotated[int, typer.Option(min=1, max=32, help="How many examples.")] = 4,
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
    settle(client, job.id, wait=wait)


def list_evaluations(limit: Limit = 50) -> None:
    """Evaluations, newest first, each mean with its interval."""
    show_some(connect().evaluations.list(), COLUMNS, limit)


def show(evaluation: EvaluationId) -> None:
    """One evaluation with its summary."""
    client = connect()
    show_job(client, client.evaluations.get(evaluation).id)


def scores(evaluation: EvaluationId, limit: Limit = 200) -> None:
    """The score, answer and error of every row."""
    show_some(connect().evaluations.scores(evaluation), SCORE_COLUMNS, limit)
