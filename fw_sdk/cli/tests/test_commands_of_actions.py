"""Every action that a result advises is a command that the command line has."""

from __future__ import annotations

import shlex

import pytest
import typer

from fw_sdk.cli.tree import build
from fw_sdk.results.actions import Action
from fw_sdk.results.spelling import COMMANDS, command
from fw_sdk.types import JobKind

FULL = {
    "model": "m",
    "name": "n",
    "comparison": "c",
    "gate": "not_worse",
    "margin": 0.05,
    "min_score": 0.9,
    "force": True,
    "confirm": "n",
    "data": "d",
    "evaluator": "e",
    "split": "all",
    "few_shot": 4,
    "limit": 5,
    "max_tokens": 8,
    "heldout": "h.jsonl",
    "base_model": "b",
    "job_id": "j",
    "kind": JobKind.FINETUNE,
    "baseline": "x",
    "candidate": "y",
    "path": "p.jsonl",
    "source": "s",
    "system": "Be brief.",
}


@pytest.mark.parametrize("verb", sorted(COMMANDS))
@pytest.mark.parametrize("arguments", [{}, FULL])
def test_every_command_is_one_that_the_shell_has(verb: str, arguments: dict[str, object]) -> None:
    words = shlex.split(command(Action(verb, arguments)))
    found = typer.main.get_command(build())
    assert words.pop(0) == "fw"
    while hasattr(found, "commands"):
        found = found.commands[words.pop(0)]
    options = {name for item in found.params for name in item.opts}
    assert {word for word in words if word.startswith("--")} <= options, words
    required = [item for item in found.params if item.required and not item.name.startswith("-")]
    assert len([word for word in words if not word.startswith("-")]) >= len(required)
