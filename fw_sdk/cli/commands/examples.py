"""``fw example``: list the examples that ship with fw, or write one's files where they can be used."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fw_sdk.cli.app import command
from fw_sdk.cli.output import emit_list, emit_one, hint

if TYPE_CHECKING:
    from fw_sdk.shipped import Example

COLUMNS = {
    "name": lambda example: example["name"],
    "rows": lambda example: example["rows"],
    "heldout": lambda example: example["heldout"],
    "purpose": lambda example: example["purpose"],
}
STARTER = "smollm2-135m"


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "example")(example)


def example(
    name: Annotated[str | None, typer.Argument(help="Which; without it they are listed.")] = None,
    into: Annotated[Path | None, typer.Option(help="The folder to write to; one of its name by default.")] = None,
) -> None:
    """Rows and evaluator of a task to try: train.jsonl, heldout.jsonl, evaluator.py. Example: fw example tickets"""
    from fw_sdk.shipped import examples, load_example

    if name is None:
        emit_list([_line(found) for found in examples()], COLUMNS)
        hint("fw example NAME writes its files")
        return
    copied = load_example(name).copy(into or Path(name))
    files = {"train": copied.train, "heldout": copied.heldout, "evaluator": copied.evaluator}
    emit_one({key: str(path) for key, path in files.items()}, str(copied.train.parent))
    hint(f"fw pipeline start {STARTER} {copied.train} {copied.evaluator} --heldout {copied.heldout} --wait")


def _line(found: Example) -> dict[str, Any]:
    rows = {"rows": _rows(found.train), "heldout": _rows(found.heldout)}
    return {"name": found.name, **rows, "purpose": found.purpose}


def _rows(path: Path) -> int:
    with path.open(encoding="utf-8") as file:
        return sum(1 for line in file if line.strip())
