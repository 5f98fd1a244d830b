"""``overview``: what exists and what runs, in one call; or one kind of thing in full length."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any, Literal

from mcp.types import CallToolResult
from pydantic import Field

from fw_mcp.platform import Platform
from fw_mcp.results import page, reply, untrusted
from fw_mcp.server import AgentServer, hints
from fw_mcp.tools.arguments import Cursor, Detail, Grep, pattern_of
from fw_mcp.views import short, state
from fw_sdk.client import AsyncClient
from fw_sdk.patterns import Pattern
from fw_sdk.types import (
    Comparison,
    Dataset,
    DatasetState,
    Deployment,
    Evaluator,
    Job,
    JobKind,
    JobState,
    Model,
    ModelKind,
    ModelState,
)

NEWEST = 8
PAGE = 30
GIB = 2**30
Kind = Literal["models", "datasets", "evaluators", "jobs", "comparisons", "deployments"]


def register(server: AgentServer, platform: Platform) -> None:
    """Add ``overview``."""

    @server.tool(
        annotations=hints("Overview", reads=True),
        meta={"anthropic/alwaysLoad": True},
    )
    async def overview(
        only: Annotated[Kind | None, Field(description="all of this kind, not just the newest")] = None,
        grep: Grep = None,
        detail: Detail = "concise",
        cursor: Cursor = 0,
    ) -> CallToolResult:
        """Machine, models, datasets, evaluators, jobs, comparisons and deployments with their ids, newest first. Call
        it first in a session, and whenever an id is not known."""
        pattern = pattern_of(grep)
        async with platform.session() as client:
            if only is not None:
                return await _listed(client, only, pattern, detail, cursor)
            state = await client.overview()
            kinds = list(KINDS)
            found = await asyncio.gather(*(_some(client, kind, pattern, detail, NEWEST + 1) for kind in kinds))
        lists = dict(zip(kinds, found, strict=True))
        longer = [kind for kind in kinds if len(lists[kind]) > NEWEST]
        root = platform.workspace.root
        fields = {
            "version": state.version,
            "daemon": client.base_url,
            "home": state.home or None,
            "device": _device(state.device.model_dump(), detail),
            "workspace": str(root) if root else "none: pass rows or ids",
            **{kind: items[:NEWEST] for kind, items in lists.items()},
            "there_are_more": {kind: f"overview(only='{kind}', cursor={NEWEST})" for kind in longer},
        }
        return reply(fields, _next(lists))


async def _listed(
    client: AsyncClient, kind: str, pattern: Pattern | None, detail: Detail, cursor: int
) -> CallToolResult:
    """One kind from ``cursor`` on."""
    shown = page(await _some(client, kind, pattern, detail, None), lambda item: item, cursor, PAGE)
    fields = {kind: shown.shown, "total": shown.total}
    if shown.following is None:
        return reply(fields, "overview() shows everything else")
    asked = f", grep={pattern.pattern!r}" if pattern else ""
    return reply(fields, f"overview(only='{kind}', cursor={shown.following}{asked}) shows more")


async def _some(
    client: AsyncClient, kind: str, pattern: Pattern | None, detail: Detail, most: int | None
) -> list[dict[str, Any]]:
    """Views of at most ``most`` things of a kind, newest first, whose view has the pattern in it."""
    listed, view = KINDS[kind]
    found: list[dict[str, Any]] = []
    async for item in listed(client):
        shown = {key: value for key, value in view(item, detail == "full").items() if value not in (None, "", [])}
        if pattern is None or await asyncio.to_thread(pattern.search, str(shown)):
            found.append(shown)
        if len(found) == most:
            break
    return found


def _device(device: dict[str, Any], detail: Detail) -> dict[str, Any]:
    if detail == "full":
        return device
    brief = {key: device[key] for key in ("kind", "name", "cores")}
    return {**brief, "memory_free_gib": round(device["memory_available_bytes"] / GIB, 1)}


def _model(model: Model, full: bool) -> dict[str, Any]:
    base = short(model.lineage.base_model) if model.lineage else None
    brief = {
        "id": model.id,
        "kind": "base" if model.kind is ModelKind.BASE else "adapter",
        "of": base,
        "state": model.state.value if model.state is not ModelState.READY else None,
    }
    more = {
        "digest": model.digest,
        "parameters": model.parameters,
        "context_length": model.context_length,
        "licence": model.licence,
        "source": model.source,
        "trained_on": short(model.lineage.dataset) if model.lineage else None,
        "created": model.create_time.isoformat(timespec="seconds"),
    }
    return {**brief, **more} if full else brief


def _dataset(dataset: Dataset, full: bool) -> dict[str, Any]:
    waiting = dataset.state.value if dataset.state is not DatasetState.READY else None
    tokens = int(dataset.estimated_token_count) if dataset.estimated_token_count else None
    brief = {"id": dataset.id, "rows": int(dataset.example_count), "tokens": tokens, "state": waiting}
    more = {"heldout_fraction": dataset.heldout_fraction, "digest": dataset.digest}
    return {**brief, **more} if full else brief


def _evaluator(evaluator: Evaluator, full: bool) -> dict[str, Any]:
    about = untrusted(evaluator.description, 200) if evaluator.description else None
    return {"id": evaluator.id, "about": about, "digest": evaluator.digest if full else None}


def _job(job: Job, full: bool) -> dict[str, Any]:
    brief = {
        "id": job.id,
        "kind": job.kind.value,
        "state": state(job),
        "percent": job.progress.percent if not job.state.ended else None,
        "message": job.progress.message or None if job.state is JobState.PENDING else None,
        "failure": untrusted(job.failure.message, 160) if job.failure else None,
    }
    more = {
        "created": job.create_time.isoformat(timespec="seconds"),
        "ended": job.completed_time.isoformat(timespec="seconds") if job.completed_time else None,
    }
    return {**brief, **more} if full else brief


def _comparison(comparison: Comparison, full: bool) -> dict[str, Any]:
    brief = {
        "id": comparison.id,
        "candidate": short(comparison.candidate_model),
        "verdict": comparison.verdict.value,
        "delta": round(comparison.delta, 4),
        "n": comparison.n,
    }
    more = {
        "baseline_evaluation": short(comparison.baseline),
        "candidate_evaluation": short(comparison.candidate),
        "ci95": [comparison.ci.low, comparison.ci.high],
    }
    return {**brief, **more} if full else brief


def _deployment(deployment: Deployment, full: bool) -> dict[str, Any]:
    brief = {"id": deployment.id, "model": short(deployment.base_model), "state": deployment.state.value}
    more = {
        "comparison": short(deployment.comparison),
        "forced": deployment.forced or None,
        "url": deployment.url,
    }
    return {**brief, **more} if full else brief


Listed = Callable[[AsyncClient], AsyncIterator[Any]]
View = Callable[[Any, bool], dict[str, Any]]
KINDS: dict[str, tuple[Listed, View]] = {
    "models": (lambda client: client.models.list(), _model),
    "datasets": (lambda client: client.datasets.list(), _dataset),
    "evaluators": (lambda client: client.evaluators.list(), _evaluator),
    "jobs": (lambda client: client.jobs.list(), _job),
    "comparisons": (lambda client: client.comparisons.list(), _comparison),
    "deployments": (lambda client: client.deployments.list(), _deployment),
}
"""How the things of a kind are listed, newest first, and how one is shown."""


def _next(lists: dict[str, list[dict[str, Any]]]) -> str:
    running = [job for job in lists["jobs"] if job["state"] in ("running", "pending")]
    if running:
        whole = [job for job in running if job["kind"] == JobKind.PIPELINE.value]
        return f"job_wait(job_id='{(whole or running)[0]['id']}')"
    if not lists["datasets"]:
        return "dataset(path='train.jsonl') to check training data"
    if not lists["jobs"]:
        return "customize(data='<dataset id or path>', evaluator='<path or id>', dry_run=true) for the plan"
    if lists["deployments"]:
        return f"generate(model='{lists['deployments'][0]['id']}', prompts=['...'])"
    return "customize(...) to go on, or docs_search(query='...')"
