"""What a start would take, seen before anything is spent: downloads, seconds of scoring, memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mcp.types import CallToolResult

from fw_mcp.results import reply
from fw_mcp.views import short
from fw_sdk.client import AsyncClient
from fw_sdk.types import Dataset, Estimate, FwError, JobState, Model, PullEstimate, Split

GIB = 2**30
MIB = 2**20


def rows_on_side(dataset: Dataset, split: Split, limit: int | None) -> int | None:
    """How many rows a job on that side of the split would take."""
    report = dataset.report
    if report is None:
        return None
    rows = {Split.ALL: report.valid_rows, Split.TRAIN: report.train_rows, Split.HELDOUT: report.heldout_rows}[split]
    return min(rows, limit) if limit else rows


@dataclass(frozen=True)
class Pace:
    """Seconds for one row, as one evaluation took them here."""

    seconds_per_row: float
    evaluation: str


async def measured_pace(client: AsyncClient, model: Model) -> Pace | None:
    """The newest finished evaluation of the model, else of one with the same base; None before there is one."""
    near: Pace | None = None
    base = _base(model)
    async for evaluation in client.evaluations.list():
        done = evaluation.state is JobState.COMPLETED and evaluation.summary is not None and evaluation.seconds > 0
        if not done or evaluation.summary is None or not evaluation.summary.n:
            continue
        pace = Pace(evaluation.seconds / evaluation.summary.n, evaluation.id)
        if short(evaluation.model) == model.id:
            return pace
        if near is None and await _has_base(client, evaluation.model, base):
            near = pace
    return near


def _base(model: Model) -> str:
    return short(model.lineage.base_model) or model.id if model.lineage else model.id


async def _has_base(client: AsyncClient, name: str | None, base: str) -> bool:
    if name is None:
        return False
    try:
        return _base(await client.models.get(short(name) or name)) == base
    except FwError:
        return False


def scoring(rows: int | None, evaluations: int, pace: Pace | None) -> dict[str, Any]:
    """The scoring part of a plan: ``evaluations`` times ``rows`` answers, and the time if it was ever measured."""
    if pace is None or rows is None:
        return {"rows": rows, "evaluations": evaluations, "seconds": None, "note": "no evaluation was timed here yet"}
    seconds = round(pace.seconds_per_row * rows * evaluations, 1)
    return {"rows": rows, "evaluations": evaluations, "seconds": seconds, "paced_by": pace.evaluation}


async def training_plan(client: AsyncClient, asked: dict[str, Any], estimate: Estimate) -> dict[str, Any]:
    """The training part of a plan; a warning more if its memory is not free."""
    free = (await client.overview()).device.memory_available_bytes
    warnings = list(estimate.warnings)
    if estimate.peak_memory_bytes > free:
        needs = f"it needs about {estimate.peak_memory_bytes / GIB:.1f} GiB of memory and {free / GIB:.1f} GiB are free"
        warnings.append(f"{needs}: stop a deployment, or take a smaller batch_size or base model")
    return {**asked, **estimate.model_dump(exclude_none=True), "warnings": warnings}


def kept(*datasets: str | None, evaluator: str | None = None) -> str:
    """What stays of a plan: the inputs it read, stored under ids."""
    names = [f"dataset '{name}'" for name in datasets if name] + ([f"evaluator '{evaluator}'"] if evaluator else [])
    return ", ".join(names)


def of_pull(found: PullEstimate, tool: str) -> CallToolResult:
    """The plan of a pull; ``tool`` is the one that was asked for its plan and would need the model first."""
    fields = {
        "source": found.source,
        "model": found.model_id,
        "here": found.present or None,
        "download_mib": round(found.download_bytes / MIB, 1),
        "disk_mib": round(found.disk_bytes / MIB, 1),
        "disk_free_mib": found.disk_free_bytes // MIB,
        "licence": found.licence,
        "started": False,
    }
    if found.present:
        return reply(fields, f"generate(model='{found.model_id}', prompts=['...'])")
    if not found.fits:
        return reply({**fields, "warning": "the disk has no room for it"}, "free disk space, or take a smaller model")
    start = f"model_pull(source='{found.source}')"
    if tool == "model_pull":
        return reply(fields, f"{start} fetches it")
    note = "the base model is not here, so the rest cannot be planned"
    return reply({**fields, "note": note}, f"{start}, then {tool}(...) again")
