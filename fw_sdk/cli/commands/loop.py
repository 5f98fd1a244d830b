"""``fw finetune``, ``fw pipeline`` and ``fw deploy``: making a model and serving it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from fw_sdk.cli.app import command, group
from fw_sdk.cli.connect import connect, settle, show_job, show_some
from fw_sdk.cli.output import emit_one, hint, short_id

if TYPE_CHECKING:
    from fw_sdk.client import Client
    from fw_sdk.types import FwError, Gate

JOB_COLUMNS = {
    "id": lambda job: job.id,
    "state": lambda job: job.state.value.removeprefix("JOB_STATE_"),
    "percent": lambda job: job.progress.percent,
    "base": lambda job: short_id(job.base_model),
    "dataset": lambda job: short_id(job.dataset),
    "output": lambda job: short_id(job.output_model),
    "created": lambda job: job.create_time,
}
PIPELINE_COLUMNS = {
    "id": lambda job: job.id,
    "state": lambda job: job.state.value.removeprefix("JOB_STATE_"),
    "step": lambda job: next((step.name.value for step in job.steps if step.state.value == "running"), ""),
    "verdict": lambda job: job.outcome.comparison.verdict.value if job.outcome and job.outcome.comparison else "",
    "delta": lambda job: job.outcome.comparison.delta if job.outcome and job.outcome.comparison else None,
    "deployment": lambda job: short_id(job.outcome.deployment) if job.outcome else "",
    "created": lambda job: job.create_time,
}
DEPLOYMENT_COLUMNS = {
    "id": lambda deployment: deployment.id,
    "state": lambda deployment: deployment.state.value,
    "model": lambda deployment: short_id(deployment.base_model),
    "forced": lambda deployment: deployment.forced,
    "created": lambda deployment: deployment.create_time,
}

TRAINING_HELP = (
    "KEY=VALUE, repeatable: epochs, learning_rate, lora_rank, lora_alpha, batch_size, learning_rate_warmup_steps, "
    "optimizer_weight_decay, max_gradient_norm, max_context_length, checkpoint_interval_steps, seed."
)
Training = Annotated[list[str] | None, typer.Option("--train", "-t", help=TRAINING_HELP)]
Limit = Annotated[int, typer.Option(min=1, help="Show at most N.")]
Wait = Annotated[bool, typer.Option(help="Wait for the result.")]
GateOption = Annotated[str, typer.Option(help="better or not_worse.")]
MarginOption = Annotated[float, typer.Option(min=0, help="How much lower the score may be with not_worse.")]
MinScoreOption = Annotated[float | None, typer.Option(help="Mean score that the model must reach as well.")]
SplitOption = Annotated[str, typer.Option(help="Which rows to train on: train, all or heldout.")]
Id = Annotated[str | None, typer.Option(help="Id of what is started.")]
Base = Annotated[str, typer.Argument(help="The base model.")]
DatasetId = Annotated[str, typer.Argument(help="The dataset to train on.")]
Name = Annotated[str, typer.Argument(help="The id.")]
Timeout = Annotated[float | None, typer.Option(min=0, help="Stop waiting after N seconds; the pipeline goes on.")]


def register(app: typer.Typer) -> None:
    """Add the three groups."""
    noun = group("Fine-tunes: LoRA adapters trained on a dataset's answers.")
    app.add_typer(noun, name="finetune")
    command(noun, "start")(start_finetune)
    command(noun, "estimate")(estimate)
    command(noun, "list")(list_finetunes)
    command(noun, "show")(show_finetune)
    noun = group("Pipelines: check, baselines, fine-tune, evaluation, comparison, gated deployment as one object.")
    app.add_typer(noun, name="pipeline")
    command(noun, "start")(start_pipeline)
    command(noun, "list")(list_pipelines)
    command(noun, "show")(show_pipeline)
    command(noun, "wait")(wait_pipeline)
    command(noun, "cancel")(cancel_pipeline)
    command(noun, "resume")(resume_pipeline)
    noun = group("Deployments: models served behind a gate.")
    app.add_typer(noun, name="deploy")
    command(noun, "start")(start_deployment)
    command(noun, "list")(list_deployments)
    command(noun, "show")(show_deployment)
    command(noun, "stop")(stop_deployment)


def key_values(pairs: list[str] | None) -> dict[str, Any]:
    """``KEY=VALUE`` options as a mapping; the values are read by the wire types."""
    fields = {}
    for pair in pairs or []:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise typer.BadParameter(f"'{pair}' is not KEY=VALUE", param_hint="--train")
        fields[key.replace("-", "_")] = value
    return fields


def start_finetune(
    base: Base,
    dataset: DatasetId,
    id: Id = None,
    output_model: Annotated[str | None, typer.Option(help="Id of the tuned model.")] = None,
    split: SplitOption = "train",
    train: Training = None,
    wait: Wait = False,
) -> None:
    """Train an adapter. Example: fw finetune start smollm2-135m support -t epochs=3 --wait"""
    training = key_values(train)
    client = connect()
    job = client.finetunes.create(base, dataset, id=id, output_model=output_model, split=split, **training)
    settle(client, job.id, wait=wait)


def estimate(
    base: Base,
    dataset: DatasetId,
    split: SplitOption = "train",
    train: Training = None,
) -> None:
    """What a fine-tune would cost here: steps, seconds, memory. Starts nothing."""
    training = key_values(train)
    emit_one(connect().finetunes.estimate(base, dataset, split=split, **training))


def list_finetunes(limit: Limit = 50) -> None:
    """Fine-tunes, newest first."""
    show_some(connect().finetunes.list(), JOB_COLUMNS, limit)


def show_finetune(finetune: Name) -> None:
    """One fine-tune."""
    emit_one(connect().finetunes.get(finetune))


def start_pipeline(
    base: Annotated[str, typer.Argument(help="A model's id, a starter's name, or a path.")],
    data: Annotated[str, typer.Argument(help="A JSONL file or a dataset's id.")],
    evaluator: Annotated[str, typer.Argument(help="A Python file or an evaluator's id.")],
    heldout: Annotated[str | None, typer.Option(help="Rows to score on: a file or an id.")] = None,
    train: Training = None,
    few_shot_count: Annotated[int, typer.Option(min=0, max=32, help="Examples of the few-shot baseline; 0: none.")] = 4,
    evaluation_limit: Annotated[int | None, typer.Option(min=1, help="Score only the first N rows.")] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Stop each scored answer after N tokens.")] = 256,
    deployment_id: Annotated[str | None, typer.Option(help="Name to serve the tuned model under.")] = None,
    deploy: Annotated[bool, typer.Option(help="Deploy if the gate holds.")] = True,
    gate: GateOption = "better",
    margin: MarginOption = 0.0,
    min_score: MinScoreOption = None,
    rerun: Annotated[bool, typer.Option(help="Start afresh even if the same inputs ran before.")] = False,
    wait: Wait = False,
) -> None:
    """The whole loop. Example: fw pipeline start smollm2-135m train.jsonl exact.py --heldout heldout.jsonl --wait"""
    from fw_sdk.loop import start_pipeline as start

    condition = _gate(gate, margin, min_score, "nothing was started")
    wanted = {
        "evaluation_limit": evaluation_limit,
        "deployment_id": deployment_id,
        "gate": condition and condition.to_wire(),
    }
    fields: dict[str, Any] = {
        "training": key_values(train),
        "few_shot_count": few_shot_count,
        "inference_parameters": {"max_tokens": max_tokens},
        "deploy": deploy,
        **{key: value for key, value in wanted.items() if value is not None},
    }
    client = connect()
    pipeline = start(client, base, data, evaluator, heldout=heldout, rerun=rerun, fields=fields)
    settle(client, pipeline.id, wait=wait)


def _gate(kind: str, margin: float, min_score: float | None, not_done: str) -> Gate | None:
    """The gate that the options describe; None for the default one, which then is the server's."""
    from fw_sdk.types import Gate, parse_request

    wanted = parse_request(Gate, {"kind": kind, "margin": margin, "minScore": min_score}, not_done=not_done)
    return None if wanted == Gate() else wanted


def list_pipelines(limit: Limit = 50) -> None:
    """Pipelines, newest first."""
    show_some(connect().pipelines.list(), PIPELINE_COLUMNS, limit)


def show_pipeline(pipeline: Name) -> None:
    """One pipeline: verdict, scores, caveats, what to do next."""
    client = connect()
    show_job(client, client.pipelines.get(pipeline).id)


def wait_pipeline(
    pipeline: Name,
    timeout: Timeout = None,
) -> None:
    """Show progress until a pipeline has ended. Exit code 0 completed, 7 the wait timed out, 8 failed."""
    client = connect()
    settle(client, client.pipelines.get(pipeline).id, wait=True, timeout_s=timeout)


def cancel_pipeline(pipeline: Name) -> None:
    """Stop a pipeline; its finished steps stay."""
    emit_one(connect().pipelines.cancel(pipeline))


def resume_pipeline(pipeline: Name) -> None:
    """Go on with the first step that is not done."""
    emit_one(connect().pipelines.resume(pipeline))


def start_deployment(
    model: Annotated[str, typer.Argument(help="The model to serve.")],
    id: Id = None,
    comparison: Annotated[str | None, typer.Option(help="The comparison that the gate looks at.")] = None,
    gate: GateOption = "better",
    margin: MarginOption = 0.0,
    min_score: MinScoreOption = None,
    force: Annotated[
        bool, typer.Option("--force", help="Deploy even if the gate does not hold; it is recorded.")
    ] = False,
    wait: Annotated[bool, typer.Option(help="Wait until the model answers.")] = True,
) -> None:
    """Serve a model. Example: fw deploy start support-tuned --comparison cmp-1 --id support"""
    from fw_sdk.types import FwError

    client = connect()
    condition = _gate(gate, margin, min_score, "nothing was deployed")
    try:
        deployment = client.deployments.create(model, id=id, comparison=comparison, gate=condition, force=force)
    except FwError as error:
        raise _explained(client, error, model, id, comparison, condition) from None
    if wait:
        deployment = client.deployments.wait(deployment.id)
    emit_one(deployment)
    hint(f"fw chat {deployment.id} 'Hello'")


def _explained(
    client: Client, error: FwError, model: str, id: str | None, comparison: str | None, gate: Gate | None
) -> FwError:
    """``error``; if the gate does not hold, with the commands that would make it hold, and the one that forces it."""
    if error.code != "gate_not_met":
        return error
    from fw_sdk.results.actions import sentence, short
    from fw_sdk.results.gating import Wanted, after_refusal
    from fw_sdk.results.spelling import quoted_command
    from fw_sdk.types import Gate

    tuned = short(model) or model
    wanted = Wanted(tuned, id or tuned, short(comparison), gate or Gate(), force=False)
    evidence = client.comparisons.get(comparison) if comparison else None
    error.hint = sentence(after_refusal(wanted, evidence, replaces=False), quoted_command)
    return error


def list_deployments(limit: Limit = 50) -> None:
    """Deployments, newest first."""
    show_some(connect().deployments.list(), DEPLOYMENT_COLUMNS, limit)


def show_deployment(deployment: Name) -> None:
    """One deployment."""
    emit_one(connect().deployments.get(deployment))


def stop_deployment(deployment: Name) -> None:
    """Stop serving and free everything that the deployment holds."""
    connect().deployments.delete(deployment)
    hint(f"deployment '{deployment}' is stopped")
