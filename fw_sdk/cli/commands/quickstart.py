"""``fw quickstart``: the whole loop on the function-calling example, from nothing to a deployed model."""

from __future__ import annotations

import json
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fw_sdk.cli.app import command
from fw_sdk.cli.output import Format, emit_one, hint, settings

if TYPE_CHECKING:
    from fw_sdk.cli.progress import Reporter
    from fw_sdk.client import Client
    from fw_sdk.loop import Result
    from fw_sdk.types import Pipeline, PipelineResult

STARTER = "smollm2-135m"
EXAMPLE = "function-calling"
FAILED = 8


@dataclass(frozen=True)
class Size:
    """How much of the example is run. ``None`` rows: all."""

    train_rows: int | None
    heldout_rows: int | None
    epochs: int
    batch_size: int
    learning_rate: float
    few_shot: int
    max_tokens: int


FULL = Size(None, None, 1, 1024, 2e-3, 4, 96)
SMOKE = Size(16, 8, 1, 1024, 2e-3, 1, 48)


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "quickstart")(quickstart)


def quickstart(
    smoke: Annotated[
        bool, typer.Option("--smoke", help="Use a few rows: shows that the loop runs, proves nothing.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the training.")] = 0,
    out: Annotated[Path, typer.Option(help="File for the picture.")] = Path("fw-quickstart.png"),
) -> None:
    """Fine-tune a small model to call functions, prove it better, deploy it and ask it once.

    Exit code 0 if the tuned model is better and deployed, else 8; with --smoke 0 once the loop has run.
    """
    from fw_sdk.cli.progress import reporter
    from fw_sdk.client import Client
    from fw_sdk.daemon import ensure_daemon
    from fw_sdk.types.home import Home

    began = time.monotonic()
    with reporter() as show:
        show.update("start the daemon", 0, 0)
        client = Client(base_url=ensure_daemon(Home.from_environment()))
        show.finish("start the daemon", client.base_url)
        result = _run_loop(client, SMOKE if smoke else FULL, seed, show, force=smoke)
        show.update("ask the deployment", 0, 0)
        asked = _ask(client, result) if result.deployment else None
        show.finish("ask the deployment", asked["with"] if asked else "nothing is deployed")
        show.update("draw the picture", 0, 0)
        picture = _draw(result.outcome, out)
        show.finish("draw the picture", str(picture))
    _present(result, asked, picture, time.monotonic() - began, smoke)
    better = result.comparison is not None and result.comparison.verdict.value == "better"
    if not smoke and not (better and result.deployment):
        raise typer.Exit(FAILED)


def _run_loop(client: Client, size: Size, seed: int, show: Reporter, *, force: bool) -> Result:
    from fw_sdk import ensure, loop
    from fw_sdk.cli.progress import follow_pipeline
    from fw_sdk.operations.jobs import raise_if_failed
    from fw_sdk.shipped import load_example

    _pull(client, show)
    example = load_example(EXAMPLE)
    fields: dict[str, Any] = {
        "training": {
            "epochs": size.epochs,
            "batch_size": size.batch_size,
            "learning_rate": size.learning_rate,
            "seed": seed,
        },
        "few_shot_count": size.few_shot,
        "inference_parameters": {"max_tokens": size.max_tokens},
        "force_deploy": force,
        "deployment_id": f"{EXAMPLE}-smoke" if force else EXAMPLE,
    }
    show.update("register the example", 0, 0)
    train = ensure.ensure_dataset(client, _some(example.train, size.train_rows), id=_name("", force))
    heldout = ensure.ensure_dataset(client, _some(example.heldout, size.heldout_rows), id=_name("-heldout", force))
    evaluator = ensure.ensure_evaluator(client, example.evaluator, id=f"{EXAMPLE}-exact")
    show.finish("register the example", f"{train.example_count} rows to train, {heldout.example_count} held out")
    pipeline: Pipeline = loop.start_pipeline(
        client, STARTER, train.id, evaluator.id, heldout=heldout.id, rerun=True, fields=fields
    )
    show.finish("start the pipeline", f"{pipeline.id}; it goes on if you stop watching")
    ended = follow_pipeline(client, pipeline.id, show)
    raise_if_failed(ended)
    return loop.result_of(client, ended)


def _pull(client: Client, show: Reporter) -> None:
    from fw_sdk import ensure
    from fw_sdk.cli.progress import LABELS, follow_job
    from fw_sdk.operations.jobs import raise_if_failed

    model = ensure.find_or_pull(client, STARTER)
    if model.state.value == "READY" or not model.job:
        show.finish(LABELS["pull"], f"{model.id} is here")
    else:
        raise_if_failed(follow_job(client, model.job.rsplit("/", 1)[-1], show))


def _name(part: str, smoke: bool) -> str:
    return f"{EXAMPLE}{part}" + ("-smoke" if smoke else "")


def _some(path: Path, rows: int | None) -> Path | list[dict[str, Any]]:
    """The file itself, or its first rows."""
    if rows is None:
        return path
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line, _ in zip(file, range(rows), strict=False)]


def _ask(client: Client, result: Result) -> dict[str, Any]:
    """One request with a stock client: a held-out question, without its answer."""
    from fw_sdk.cli.stock import ask
    from fw_sdk.shipped import load_example

    with load_example(EXAMPLE).heldout.open(encoding="utf-8") as file:
        row = json.loads(file.readline())
    messages = [message for message in row["messages"] if message["role"] != "assistant"]
    began = time.monotonic()
    body = {"model": result.deployment, "messages": messages, "max_tokens": 128, "temperature": 0}
    client_name, answer = ask(client.base_url, client.api_key, body)
    question = str(messages[-1]["content"]).rsplit("Question: ", 1)[-1]
    return {"with": client_name, "question": question, "answer": answer, "seconds": time.monotonic() - began}


def _draw(outcome: PipelineResult, out: Path) -> Path:
    from fw_sdk.pictures.pipeline import draw_pipeline

    return draw_pipeline(outcome, out.resolve())


def _timed(result: Result, timings: dict[str, float]) -> Pipeline:
    """The pipeline with the time of the whole run beside its steps'."""
    return result.pipeline.model_copy(update={"outcome": result.outcome.model_copy(update={"timings": timings})})


def _present(result: Result, asked: dict[str, Any] | None, picture: Path, seconds: float, smoke: bool) -> None:
    from fw_sdk.results.report import report_on
    from fw_sdk.results.text import page

    wire = result.outcome.to_wire()
    timings = {**result.outcome.timings, "total": round(seconds, 2)}
    if settings.format in (Format.JSON, Format.QUIET):
        document = {**wire, "timings": timings, "pipeline": result.pipeline.id, "asked": asked}
        emit_one({**document, "picture": str(picture), "smoke": smoke}, result.deployment or result.model)
        return
    for line in page(report_on(_timed(result, timings)), aligned=settings.format is Format.HUMAN):
        typer.echo(line)
    if asked:
        typer.echo(f"\nasked with {asked['with']}: {asked['question']}\nanswered: {asked['answer']}")
    typer.echo(f"\npicture: {picture}")
    hint("\nnext:")
    for line in _next_lines(result):
        hint(f"  {line}")


def _next_lines(result: Result) -> list[str]:
    served, fw = result.deployment or result.adapter or result.model, _own_command()
    return [
        f"{fw} chat {served} 'Your question'",
        f"{fw} pipeline start {STARTER} your-rows.jsonl your-evaluator.py --wait",
        f"claude mcp add fw -- {fw} mcp    # the same loop for your coding agent",
    ]


def _own_command() -> str:
    """How to call this very installation: ``fw`` where the path leads to it, else its whole path."""
    installed = Path(sys.executable).with_name("fw")
    found = shutil.which("fw")
    return "fw" if (found and Path(found).samefile(installed)) or not installed.exists() else str(installed)
