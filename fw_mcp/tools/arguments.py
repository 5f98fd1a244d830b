"""Things an agent names by path, by source text or by id, brought to the daemon under ids that follow from content.

The same content always gets the same id, so a call that is repeated after a lost reply creates nothing twice.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from mcp.types import CallToolResult
from pydantic import Field

from fw_mcp.dataset_report import Look
from fw_mcp.platform import Begun, Platform, ToolContext, reporter_of
from fw_mcp.results import reply
from fw_mcp.tools.job_wait import watch
from fw_mcp.views import job_view, short
from fw_mcp.workspace import DATA_SUFFIXES
from fw_sdk.client import AsyncClient
from fw_sdk.patterns import Pattern
from fw_sdk.types import (
    Dataset,
    DatasetState,
    Evaluator,
    FwError,
    Job,
    JobKind,
    JobState,
    Model,
    ModelKind,
    ModelState,
    PullEstimate,
)

STARTER = "smollm2-135m"
HELDOUT_FRACTION = 0.1
MODEL_SUFFIXES = (".gguf",)

MIN_SCORE = "mean it must reach too"
Detail = Literal["concise", "full"]
Cursor = Annotated[int, Field(ge=0)]
"""How many entries to skip, as ``next`` says it."""
Grep = Annotated[str | None, Field(max_length=200)]
"""A regular expression."""

R = TypeVar("R")
AnyJob = TypeVar("AnyJob", bound=Job)
Rows = list[dict[str, Any]]


def pattern_of(grep: str | None) -> Pattern | None:
    """The compiled expression; ``FwError`` if it is none."""
    return Pattern(grep) if grep else None


def fingerprint(*parts: Any) -> str:
    """Eight hex digits that follow from ``parts`` (JSON values or bytes)."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part if isinstance(part, bytes) else json.dumps(part, sort_keys=True, default=str).encode())
        digest.update(b"\0")
    return digest.hexdigest()[:8]


def slug(text: str, otherwise: str) -> str:
    """A readable beginning of an id, at most 40 characters."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:40].strip("-") or otherwise


async def dataset_for(client: AsyncClient, platform: Platform, data: str, param: str) -> Dataset:
    """The stored dataset that ``data`` names: an id as it is, a path under an id made of its name and content."""
    if not platform.workspace.looks_like_path(data, *DATA_SUFFIXES):
        found = await stored_dataset(client, platform, data, param)
        if found is not None:
            return found
    path = platform.workspace.file(data, param)
    try:
        return await keep_dataset(client, path, slug(path.stem, "data"), HELDOUT_FRACTION)
    except FwError as error:
        raise Look().refused(error, f"path='{data}'") from error


async def keep_dataset(client: AsyncClient, data: Path | Rows, name: str, heldout: float) -> Dataset:
    """The READY dataset with exactly these rows: ``name``, or when that has others, ``name`` and a content hash."""
    content = await asyncio.to_thread(data.read_bytes) if isinstance(data, Path) else _as_jsonl(data)
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    for identifier in (name, f"{name[:40]}-{fingerprint(content, heldout)}"):
        found = await stored(client.datasets.get, identifier)
        if found is None or found.state is DatasetState.UPLOADING:
            return await client.datasets.create(data, id=identifier, heldout_fraction=heldout)
        if found.digest == digest and found.heldout_fraction == heldout:
            return found
    raise FwError("already_exists", f"Dataset '{name}' has other rows.", not_done="Nothing was stored.", param="id")


def _as_jsonl(rows: Rows) -> bytes:
    return "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows).encode()


async def stored_dataset(client: AsyncClient, platform: Platform, name: str, param: str) -> Dataset | None:
    """The dataset of that id; None if there is none, and a file is meant: one is called so, or the name has an ending.

    A stored dataset with a similar id is no help to somebody who means a file.
    """
    try:
        return await client.datasets.get(short(name) or name)
    except FwError as error:
        if error.code not in ("not_found", "invalid_argument") or platform.workspace.root is None:
            raise
        if platform.workspace.has(name) or Path(name).suffix[1:].isalpha():
            return None
        error.hint = f"give a stored dataset's id, or a path with its ending (for example '{name}.jsonl')"
        error.param = param
        raise


async def evaluator_for(client: AsyncClient, platform: Platform, evaluator: str) -> Evaluator:
    """The stored evaluator that ``evaluator`` names: an id, a path to a Python file, or the source itself."""
    if "def " in evaluator:
        source, stem = evaluator.rstrip() + "\n", "evaluator"
    elif platform.workspace.looks_like_path(evaluator, ".py"):
        path = platform.workspace.file(evaluator, "evaluator")
        source, stem = path.read_text(encoding="utf-8", errors="replace"), path.stem
    else:
        return await _stored_evaluator(client, evaluator)
    return await _keep_evaluator(client, source, slug(stem, "evaluator"))


async def _stored_evaluator(client: AsyncClient, name: str) -> Evaluator:
    try:
        return await client.evaluators.get(short(name) or name)
    except FwError as error:
        if error.code in ("not_found", "invalid_argument"):
            error.param = "evaluator"
        raise


async def _keep_evaluator(client: AsyncClient, source: str, name: str) -> Evaluator:
    digest = f"sha256:{hashlib.sha256(source.encode()).hexdigest()}"
    for identifier in (name, f"{name[:40]}-{digest[7:15]}"):
        found = await stored(client.evaluators.get, identifier)
        if found is None:
            return await client.evaluators.create(source, id=identifier)
        if found.digest == digest:
            return found
    raise FwError("already_exists", f"Evaluator '{name}' has other code.", not_done="Nothing was stored.")


@dataclass(frozen=True)
class Source:
    """Where a base model comes from and the id it has; ``by_id`` if it was named by its id alone."""

    source: str
    identifier: str
    by_id: bool


async def model_for(client: AsyncClient, platform: Platform, name: str, ctx: ToolContext) -> Model | Job:
    """The READY model called ``name``; a starter, a hub's model or one of the workspace is pulled first.

    Returns the pull's job when it needs longer than one call may last, and the training's of a model not yet trained.
    A call that is cancelled meanwhile takes the pull that it began with it.
    """
    async with platform.following(client, begin_pull(client, platform, name)) as begun:
        model = begun.model
        if begun.job_id is None:
            return model
        if model.kind is ModelKind.ADAPTER:
            return await client.jobs.get(begun.job_id)
        reporter = reporter_of(ctx)
        job = await watch(client, begun.job_id, min(120.0, max(0.0, reporter.left_s() - 5)), reporter)
    if not job.state.ended:
        platform.hold(job.id)
    if job.state is JobState.FAILED and job.failure is not None:
        raise FwError.from_dict(job.failure.to_wire())
    return await client.models.get(model.id) if job.state is JobState.COMPLETED else job


async def begin_pull(client: AsyncClient, platform: Platform, name: str) -> Begun:
    """The model called ``name``, with its pull begun if it needs one."""
    wanted, model = await _located(client, platform, name)
    if model is not None and model.state.unmade and model.kind is ModelKind.ADAPTER:
        raise _untrained(model)
    started = model is None or model.state.unmade
    if model is None or started:
        model = await client.models.pull(wanted.source, id=wanted.identifier)
    if model.state is ModelState.READY:
        return Begun(model)
    if model.job is None:
        raise FwError("failed_precondition", f"Model '{model.id}' is not ready.", not_done="Nothing was run.")
    return Begun(model, short(model.job) or model.job, started)


def _untrained(model: Model) -> FwError:
    ended = "failed" if model.state is ModelState.FAILED else "was cancelled"
    return FwError(
        "failed_precondition",
        f"Model '{model.id}' was not made: its training {ended}.",
        not_done="Nothing was run.",
        hint="the call that started the training goes on with it, given the same arguments",
        param="model",
        details={"endedJob": short(model.job)} if model.job else None,
    )


async def pull_before(
    client: AsyncClient, platform: Platform, name: str, *, starters: bool = False
) -> PullEstimate | None:
    """What bringing the model in would take; None if it is here or on its way.

    A starter is small and its plan needs it, so without ``starters`` it is not told.
    """
    wanted, model = await _located(client, platform, name)
    if model is not None and not model.state.unmade:
        return None
    if wanted.by_id and not starters:
        return None
    return await client.models.estimate(wanted.source, id=wanted.identifier)


async def _located(client: AsyncClient, platform: Platform, name: str) -> tuple[Source, Model | None]:
    """What a name means, and the model if there is one."""
    if name.startswith("hf:"):
        wanted = Source(name, slug(name.rsplit("/", 1)[-1], "model"), by_id=False)
    elif platform.workspace.looks_like_path(name, *MODEL_SUFFIXES) and not name.startswith("accounts/"):
        path = platform.workspace.existing(name, "base_model")
        wanted = Source(str(path), slug(path.stem, "model"), by_id=False)
    else:
        wanted = Source(name, short(name) or name, by_id=True)
    model = await stored(client.models.get, wanted.identifier)
    if model is None and wanted.by_id and name != STARTER and platform.workspace.has(name):
        return await _located(client, platform, f"./{name}")
    if model is not None and not wanted.by_id and model.source != wanted.source:
        wanted = replace(wanted, identifier=f"{wanted.identifier[:40]}-{fingerprint(wanted.source)}")
        model = await stored(client.models.get, wanted.identifier)
    return wanted, model


async def resumed(client: AsyncClient, job: AnyJob) -> AnyJob | Job:
    """``job``, started again if it had failed or been cancelled."""
    if job.state in (JobState.FAILED, JobState.CANCELLED):
        return await client.jobs.resume(job.id)
    return job


def still_coming(making: Job, tool: str) -> CallToolResult:
    """What a tool says whose model is not there yet."""
    again = f"job_wait(job_id='{making.id}'), then {tool}(...) again with the same arguments"
    note = "the model is still trained" if making.kind is JobKind.FINETUNE else "the base model is still coming"
    return reply({**job_view(making), "note": note}, again)


async def stored(get: Callable[[str], Awaitable[R]], identifier: str) -> R | None:
    """What is stored under that id; None if nothing is, or could be."""
    try:
        return await get(identifier)
    except FwError as error:
        if error.code not in ("not_found", "invalid_argument"):
            raise
        return None
