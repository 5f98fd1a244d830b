"""``evaluate``: score a model on rows with an evaluator."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from mcp.types import CallToolResult
from pydantic import Field

from fw_mcp.plans import kept, measured_pace, of_pull, rows_on_side, scoring
from fw_mcp.platform import Platform, ToolContext
from fw_mcp.results import reply
from fw_mcp.server import AgentServer, hints
from fw_mcp.tools.arguments import (
    dataset_for,
    evaluator_for,
    model_for,
    pull_before,
    resumed,
    still_coming,
    stored,
)
from fw_mcp.tools.job_wait import describe
from fw_mcp.views import short
from fw_sdk.client import AsyncClient
from fw_sdk.types import Dataset, Evaluator, FewShot, Job, PullEstimate, Split


def register(server: AgentServer, platform: Platform) -> None:
    """Add ``evaluate``."""

    @server.tool(annotations=hints("Evaluate"))
    async def evaluate(
        ctx: ToolContext,
        model: Annotated[str, Field(description="model or deployment id, or starter")],
        data: Annotated[str, Field(description="JSONL path or dataset id")],
        evaluator: Annotated[str, Field(description="path, source, or id")],
        split: Literal["train", "heldout", "all"] = "heldout",
        limit: Annotated[int | None, Field(ge=1, description="at most so many rows")] = None,
        few_shot: Annotated[int, Field(ge=0, le=32, description="training rows shown as examples")] = 0,
        max_tokens: Annotated[int, Field(ge=1)] = 256,
        dry_run: Annotated[bool, Field(description="starts no job")] = False,
    ) -> CallToolResult:
        """Score a model's greedy answers: one score a row, mean with 95 % interval. Evaluate two models on the same
        rows, then compare. Returns a job_id at once. The same arguments return the same job; a failed or cancelled one
        goes on."""
        async with platform.session() as client:
            scorer = await evaluator_for(client, platform, evaluator)
            rows = await dataset_for(client, platform, data, "data")
            served = await _served(client, platform, model, ctx, dry_run)
            if isinstance(served, PullEstimate):
                return of_pull(served, "evaluate")
            if isinstance(served, Job):
                return still_coming(served, "evaluate")
            shots = FewShot(dataset=rows.id, split=Split.TRAIN, count=few_shot) if few_shot else None
            asked: dict[str, Any] = {"split": split, "limit": limit, "few_shot": shots, "max_tokens": max_tokens}
            if dry_run:
                return await _plan(client, served, rows, scorer, asked)
            job = await client.evaluations.create(served, rows.id, scorer.id, reuse=True, **asked)
            return describe(await resumed(client, job))


async def _plan(
    client: AsyncClient, served: str, rows: Dataset, scorer: Evaluator, asked: dict[str, Any]
) -> CallToolResult:
    would = await client.evaluations.plan(served, rows.id, scorer.id, **asked)
    model = await client.models.get(next(ref for ref in would.uses if "/models/" in ref.name).id)
    count = rows_on_side(rows, Split(asked["split"]), asked["limit"])
    fields = {
        "would_start": would.id,
        "model": model.id,
        "data": {"id": rows.id, "split": asked["split"]},
        "evaluator": scorer.id,
        "scoring": scoring(count, 1, await measured_pace(client, model)),
        "started": False,
        "stored": kept(rows.id, evaluator=scorer.id),
    }
    return reply(fields, "evaluate(...) with the same arguments and without dry_run starts it")


async def _served(
    client: AsyncClient, platform: Platform, name: str, ctx: ToolContext, dry_run: bool
) -> str | Job | PullEstimate:
    """The name of a READY model or of a deployment; the job that pulls it where it is coming, or would have to."""
    known = short(name) or name
    if not name.startswith("deployments/") and await stored(client.models.get, known) is None:
        deployment = await stored(client.deployments.get, known)
        if deployment is not None:
            return deployment.name
    elif name.startswith("deployments/"):
        return name
    if dry_run and (needed := await pull_before(client, platform, name)):
        return needed
    model = await model_for(client, platform, name, ctx)
    return model if isinstance(model, Job) else model.name
