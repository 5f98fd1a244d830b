"""``fw dataset|evaluator|job|model|comparison delete``: it cannot be undone, so it asks first."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from fw_sdk.cli.app import command
from fw_sdk.cli.connect import connect
from fw_sdk.cli.output import hint

WHAT_GOES = {
    "comparison": "its verdict; the evaluations stay",
    "dataset": "its rows, unless another dataset has the same",
    "evaluator": "its source; scores stay",
    "job": "its record, events, log and, of an evaluation, the answers; what it made stays",
    "model": "its weights, unless another model has the same",
}

Id = Annotated[str, typer.Argument(help="The id.")]
Yes = Annotated[bool, typer.Option("--yes", help="Delete without asking.")]


def add_delete(group: typer.Typer, noun: str) -> None:
    """Give the commands of ``noun``, a key of ``WHAT_GOES``, a ``delete``."""

    def delete(id: Id, yes: Yes = False) -> None:
        collection = getattr(connect(), f"{noun}s")
        collection.get(id)
        if not yes:
            _ask(noun, id)
        collection.delete(id)
        hint(f"{noun} '{id}' is deleted")

    delete.__doc__ = f"Delete a {noun} that nothing uses: {WHAT_GOES[noun]}. Example: fw {noun} delete ID --yes"
    command(group, "delete")(delete)


def _ask(noun: str, identifier: str) -> None:
    from fw_sdk.types import FwError

    if not sys.stdin.isatty():
        raise FwError(
            "failed_precondition",
            f"Deleting {noun} '{identifier}' cannot be undone: {WHAT_GOES[noun]}.",
            not_done="nothing was deleted",
            hint=f"fw {noun} delete {identifier} --yes",
        )
    typer.confirm(f"Delete {noun} '{identifier}' ({WHAT_GOES[noun]})?", abort=True, err=True)
