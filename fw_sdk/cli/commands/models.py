"""``fw model``: pull, list, show, delete."""

from __future__ import annotations

from typing import Annotated

import typer

from fw_sdk.cli.app import command, group
from fw_sdk.cli.commands.deletion import add_delete
from fw_sdk.cli.connect import connect, settle, show_some
from fw_sdk.cli.output import Bytes, emit_one, short_id

COLUMNS = {
    "id": lambda model: model.id,
    "kind": lambda model: "base" if model.kind == "HF_BASE_MODEL" else "adapter",
    "state": lambda model: model.state.value,
    "bytes": lambda model: Bytes(model.bytes),
    "base": lambda model: short_id(model.peft_details.base_model) if model.peft_details else "",
    "digest": lambda model: model.digest,
    "created": lambda model: model.create_time,
}

Limit = Annotated[int, typer.Option(min=1, help="Show at most N.")]


def register(app: typer.Typer) -> None:
    """Add the group."""
    noun = group("Models: base weights and adapters.")
    app.add_typer(noun, name="model")
    command(noun, "pull")(pull)
    command(noun, "list")(list_models)
    command(noun, "show")(show)
    add_delete(noun, "model")


def pull(
    source: Annotated[
        str, typer.Argument(help="A starter (smollm2-135m), hf:org/name, or a folder or .gguf file on this machine.")
    ],
    id: Annotated[str | None, typer.Option(help="The model's id; the source's name by default.")] = None,
    wait: Annotated[bool, typer.Option(help="Wait until the model is here.")] = True,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what it would take; fetch no weights.")] = False,
) -> None:
    """Bring base weights here. Example: fw model pull smollm2-135m"""
    client = connect()
    if dry_run:
        emit_one(client.models.estimate(source, id=id))
        return
    model = client.models.pull(source, id=id)
    if not model.job or model.state.value == "READY":
        emit_one(model)
        return
    settle(client, model.job.rsplit("/", 1)[-1], lambda: client.models.get(model.id), wait=wait)


def list_models(limit: Limit = 50) -> None:
    """Models, newest first."""
    show_some(connect().models.list(), COLUMNS, limit)


def show(model: Annotated[str, typer.Argument(help="The model's id.")]) -> None:
    """One model with its digest and lineage."""
    emit_one(connect().models.get(model))
