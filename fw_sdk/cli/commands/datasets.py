"""``fw dataset`` and ``fw evaluator``: what goes into the loop."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fw_sdk.cli.app import command, group
from fw_sdk.cli.commands.deletion import add_delete
from fw_sdk.cli.connect import connect, show_some
from fw_sdk.cli.output import Bytes, Format, emit_list, emit_one, hint, settings

COLUMNS = {
    "id": lambda dataset: dataset.id,
    "state": lambda dataset: dataset.state.value,
    "rows": lambda dataset: int(dataset.example_count),
    "heldout": lambda dataset: dataset.report.heldout_rows if dataset.report else None,
    "bytes": lambda dataset: Bytes(dataset.bytes),
    "digest": lambda dataset: dataset.digest,
    "created": lambda dataset: dataset.create_time,
}
EVALUATOR_COLUMNS = {
    "id": lambda evaluator: evaluator.id,
    "entry": lambda evaluator: evaluator.entry_function,
    "digest": lambda evaluator: evaluator.digest,
    "created": lambda evaluator: evaluator.create_time,
}
SCORE_COLUMNS = {
    "line": lambda row: row.line,
    "score": lambda row: row.score,
    "error": lambda row: row.error,
    "output": lambda row: row.output,
}

DatasetId = Annotated[str, typer.Argument(help="The dataset's id.")]
Limit = Annotated[int, typer.Option(min=1, help="Show at most N.")]


def register(app: typer.Typer) -> None:
    """Add both groups."""
    noun = group("Datasets: validated rows, one conversation a line.")
    app.add_typer(noun, name="dataset")
    command(noun, "check")(check)
    command(noun, "create")(create)
    command(noun, "list")(list_datasets)
    command(noun, "show")(show)
    command(noun, "preview")(preview)
    command(noun, "overlap")(overlap)
    add_delete(noun, "dataset")
    noun = group("Evaluators: Python files that score one row.")
    app.add_typer(noun, name="evaluator")
    command(noun, "create")(create_evaluator)
    command(noun, "check")(check_evaluator)
    command(noun, "list")(list_evaluators)
    add_delete(noun, "evaluator")


def check(
    path: Annotated[Path, typer.Argument(help="A JSONL file.")],
    model: Annotated[str | None, typer.Option(help="A base model that the rows are to fit.")] = None,
) -> None:
    """Validate rows without storing them; every problem with its line. Exit code 1 if a row cannot be used."""
    report = connect().datasets.check(path, model=model)
    emit_one(report, "ok" if report.ok else "invalid")
    if not report.ok:
        for problem in report.problems[:20]:
            hint(f"line {problem.line}: {problem.message}")
        raise typer.Exit(1)


def create(
    path: Annotated[Path, typer.Argument(help="A JSONL file.")],
    id: Annotated[str | None, typer.Option(help="The id; by default the file's name without its ending.")] = None,
    heldout_fraction: Annotated[float, typer.Option(min=0, max=0.5, help="Share of the rows to hold out.")] = 0.1,
    split_seed: Annotated[int, typer.Option(help="Seed of the split.")] = 0,
) -> None:
    """Register a dataset. Example: fw dataset create train.jsonl --id support-train"""
    dataset = connect().datasets.create(path, id=id, heldout_fraction=heldout_fraction, split_seed=split_seed)
    emit_one(dataset)
    hint(f"fw dataset preview {dataset.id} --model MODEL")


def list_datasets(limit: Limit = 50) -> None:
    """Datasets, newest first."""
    show_some(connect().datasets.list(), COLUMNS, limit)


def show(dataset: DatasetId) -> None:
    """One dataset with its validation report."""
    emit_one(connect().datasets.get(dataset))


def preview(
    dataset: DatasetId,
    model: Annotated[str, typer.Option(help="The model whose tokenizer and chat template are used.")],
    limit: Annotated[int, typer.Option(min=1, help="How many rows.")] = 3,
) -> None:
    """Which tokens a fine-tune learns from: trained text stands in 【】."""
    rows = connect().finetunes.preview(dataset, model, limit=limit)
    if settings.format is Format.JSON:
        emit_list([[token.to_wire() for token in row] for row in rows], {})
        return
    marked = ["".join(f"【{token.text}】" if token.trained else token.text for token in row) for row in rows]
    emit_list(
        [(index + 1, text.replace("】【", "")) for index, text in enumerate(marked)],
        {"row": lambda item: item[0], "text": lambda item: item[1]},
    )


def overlap(
    dataset: Annotated[str, typer.Argument(help="A dataset's id, or a JSONL file.")],
    other: Annotated[str, typer.Argument(help="The other side: a dataset's id, or a JSONL file.")],
) -> None:
    """Rows that stand on both sides. Exit code 5 if there are any."""
    one, two = (Path(side) if Path(side).is_file() else side for side in (dataset, other))
    found = connect().datasets.overlap(one, two)
    emit_one(found, str(found.shared))
    if found.shared:
        raise typer.Exit(5)


def create_evaluator(
    path: Annotated[Path, typer.Argument(help="A Python file with evaluate(messages, ground_truth=None, **row).")],
    id: Annotated[str | None, typer.Option(help="The id; by default the file's name without its ending.")] = None,
    entry_function: Annotated[str, typer.Option(help="The function that scores a row.")] = "evaluate",
) -> None:
    """Register an evaluator. Example: fw evaluator create exact.py"""
    evaluator = connect().evaluators.create(path, id=id, entry_function=entry_function)
    emit_one(evaluator)
    hint(f"fw evaluator check {evaluator.id} --dataset DATASET")


def check_evaluator(
    evaluator: Annotated[str, typer.Argument(help="The evaluator's id.")],
    dataset: Annotated[str, typer.Option(help="The dataset whose own answers are scored.")],
    limit: Annotated[int, typer.Option(min=1, max=500, help="How many rows.")] = 5,
) -> None:
    """Score some rows' own last answers: a good evaluator gives them full marks."""
    scores = connect().evaluators.check(evaluator, dataset=dataset, limit=limit)
    emit_list(scores, SCORE_COLUMNS)
    if any(score.error for score in scores):
        raise typer.Exit(8)


def list_evaluators(limit: Limit = 50) -> None:
    """Evaluators, newest first."""
    show_some(connect().evaluators.list(), EVALUATOR_COLUMNS, limit)
