"""No surface trains by default on rows that it scores by default."""

from __future__ import annotations

import asyncio
import inspect
from pathlib import Path

import pytest

from fw_mcp.app import build_server
from fw_mcp.workspace import Workspace
from fw_sdk.cli.commands import evaluations as cli_evaluations
from fw_sdk.cli.commands import loop as cli_loop
from fw_sdk.operations import evaluations, finetunes
from fw_sdk.types import EvaluationFields, FewShot, Split, SupervisedFineTuning


def default(function: object) -> str:
    return str(inspect.signature(function).parameters["split"].default)  # type: ignore[arg-type]


def tool_defaults(tmp_path: Path) -> dict[str, str]:
    async def never() -> None:
        raise AssertionError("no tool is called")

    server = build_server(never, Workspace(tmp_path))  # type: ignore[arg-type]
    tools = asyncio.run(server.list_tools())
    schemas = {tool.name: tool.input_schema["properties"] for tool in tools}
    return {name: schemas[name]["split"]["default"] for name in ("finetune", "evaluate")}


def test_training_takes_the_train_rows_and_scoring_the_held_out_ones(tmp_path: Path) -> None:
    tools = tool_defaults(tmp_path)
    trained = {
        "http": str(SupervisedFineTuning(dataset="d", base_model="b").dataset_split),
        "examples": str(FewShot(dataset="d").split),
        "sdk": default(finetunes.create),
        "sdk estimate": default(finetunes.estimate),
        "cli": default(cli_loop.start_finetune),
        "cli estimate": default(cli_loop.estimate),
        "mcp": tools["finetune"],
    }
    scored = {
        "http": str(EvaluationFields(evaluator="e", input_dataset="d", model="m").input_split),
        "sdk": default(evaluations.create),
        "cli": default(cli_evaluations.start),
        "mcp": tools["evaluate"],
    }
    assert trained == dict.fromkeys(trained, "train") and scored == dict.fromkeys(scored, "heldout")


@pytest.mark.parametrize(
    ("scored", "split"),
    [("rows", Split.HELDOUT), ("accounts/local/datasets/rows", Split.HELDOUT), ("other", Split.ALL)],
)
def test_the_evaluation_loss_is_not_that_of_trained_rows(scored: str, split: Split) -> None:
    request = SupervisedFineTuning(dataset="rows", base_model="b", evaluation_dataset=scored)
    assert request.validation_split is split
    chosen = request.model_copy(update={"evaluation_split": Split.TRAIN})
    assert chosen.validation_split is Split.TRAIN
