"""``fw comparison`` and ``fw compare``: two evaluations paired row by row, with a verdict."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fw_sdk.cli.app import command, group
from fw_sdk.cli.commands.deletion import add_delete
from fw_sdk.cli.connect import connect, show_some
from fw_sdk.cli.output import emit_report, hint, short_id

if TYPE_CHECKING:
    from fw_sdk.client import Client
    from fw_sdk.types import Comparison

COLUMNS = {
    "id": lambda found: found.id,
    "verdict": lambda found: found.verdict.value,
    "delta": lambda found: found.delta,
    "low": lambda found: found.ci.low,
    "high": lambda found: found.ci.high,
    "n": lambda found: found.n,
    "baseline": lambda found: short_id(found.baseline_model),
    "candidate": lambda found: short_id(found.candidate_model),
    "created": lambda found: found.create_time,
}

Plot = Annotated[Path | None, typer.Option(help="Draw it into this PNG file too.")]


def register(app: typer.Typer) -> None:
    """Add the group, and ``compare``, which is its ``create``."""
    noun = group("Comparisons: two evaluations of the same rows, paired, with a verdict.")
    app.add_typer(noun, name="comparison")
    command(noun, "create")(compare)
    command(noun, "list")(list_comparisons)
    command(noun, "show")(show)
    add_delete(noun, "comparison")
    command(app, "compare")(compare)


def compare(
    baseline: Annotated[str, typer.Argument(help="An evaluation's id.")],
    candidate: Annotated[str, typer.Argument(help="An evaluation of the same rows.")],
    id: Annotated[str | None, typer.Option(help="The comparison's id.")] = None,
    plot: Plot = None,
) -> None:
    """Compare two evaluations row by row: better, worse, inconclusive or invalid, with an interval."""
    client = connect()
    _show(client, client.comparisons.create(baseline, candidate, id=id), plot)


def list_comparisons(limit: Annotated[int, typer.Option(min=1, help="Show at most N.")] = 50) -> None:
    """Comparisons, newest first."""
    show_some(connect().comparisons.list(), COLUMNS, limit)


def show(comparison: Annotated[str, typer.Argument(help="The comparison's id.")], plot: Plot = None) -> None:
    """One comparison: verdict, difference with its interval, wins and losses."""
    client = connect()
    _show(client, client.comparisons.get(comparison), plot)


def _show(client: Client, comparison: Comparison, plot: Path | None) -> None:
    from fw_sdk.results.next_steps import setting_among
    from fw_sdk.results.report import report_on_comparison

    setting = setting_among(comparison, client.deployments.list())
    emit_report(comparison, report_on_comparison(comparison, setting), comparison.id)
    if plot is not None:
        _draw(client, comparison, plot.resolve())
        hint(f"picture: {plot}")


def _draw(client: Client, comparison: Comparison, path: Path) -> None:
    from fw_sdk.pictures.comparison import Side, draw_comparison

    def side(name: str) -> Side:
        evaluation = client.evaluations.get(name)
        scores = list(client.evaluations.scores(evaluation.id))
        return Side(short_id(evaluation.model) or evaluation.id, scores, evaluation.summary)

    draw_comparison(comparison, side(comparison.baseline), side(comparison.candidate), path)
