"""``finetune``: train an adapter alone, for those who want the loop's steps one by one."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from mcp.types import CallToolResult
from pydantic import Field

from fw_mcp.plans import kept, of_pull, rows_on_side, training_plan
from fw_mcp.platform import Platform, ToolContext
from fw_mcp.results import reply
from fw_mcp.server import AgentServer, hints
from fw_mcp.tools.arguments import STARTER, dataset_for, model_for, pull_before, resumed, still_coming
from fw_mcp.tools.job_wait import describe
from fw_mcp.views import report_view, short
from fw_sdk.client import AsyncClient
from fw_sdk.types import FineTuningJob, FwError, Job, Split


def register(server: AgentServer, platform: Platform) -> None:
    """Add ``finetune``."""

    @server.tool(annotations=hints("Fine-tune"))
    async def finetune(
        ctx: ToolContext,
        data: Annotated[str, Field(description="JSONL path or dataset id")],
        base_model: str = STARTER,
        name: Annotated[str | None, Field(description="its id")] = None,
        split: Literal["train", "heldout", "all"] = "train",
        epochs: Annotated[int, Field(ge=1, le=100)] = 2,
        learning_rate: Annotated[float, Field(gt=0, le=1)] = 1e-3,
        lora_rank: Annotated[int, Field(ge=1, le=256)] = 16,
        batch_size: Annotated[int, Field(ge=16, description="tokens, not rows")] = 2048,
        seed: int = 0,
        dry_run: Annotated[bool, Field(description="starts no job")] = False,
    ) -> CallToolResult:
        """Train a LoRA adapter only; customize does the whole loop. Returns a job_id. The same arguments return the
        same job; a failed or cancelled one goes on from its last checkpoint."""
        training: dict[str, Any] = {
            "epochs": epochs,
            "learning_rate": learning_rate,
            "lora_rank": lora_rank,
            "batch_size": batch_size,
            "seed": seed,
        }
        async with platform.session() as client:
            rows = await dataset_for(client, platform, data, "data")
            if dry_run and (needed := await pull_before(client, platform, base_model)):
                return of_pull(needed, "finetune")
            model = await model_for(client, platform, base_model, ctx)
            if isinstance(model, Job):
                return still_coming(model, "finetune")
            output = short(name)
            if dry_run:
                would = await client.finetunes.plan(model.id, rows.id, split=split, output_model=output, **training)
                estimate = await client.finetunes.estimate(model.id, rows.id, split=split, **training)
                fields = {
                    "would_start": f"ft-{output}" if output else would.id,
                    "base_model": model.id,
                    "data": {"id": rows.id, "report": report_view(rows.report) if rows.report else None},
                    "rows": rows_on_side(rows, Split(split), None),
                    "split": split,
                    "training": await training_plan(client, training, estimate),
                    "started": False,
                    "stored": kept(rows.id),
                }
                return reply(fields, "finetune(...) with the same arguments and without dry_run starts it")
            job = await _start(client, model.id, rows.id, output, {"split": split, **training})
            return describe(await resumed(client, job), model=short(job.output_model))


async def _start(
    client: AsyncClient, base: str, rows: str, output: str | None, settings: dict[str, Any]
) -> FineTuningJob:
    """Create the fine-tune that makes ``output``, or return the one that did the same work."""
    identifier = f"ft-{output}" if output else None
    try:
        return await client.finetunes.create(base, rows, id=identifier, output_model=output, reuse=True, **settings)
    except FwError as error:
        if error.code == "already_exists":
            error.hint = (
                "finetune(...) without name, or with another; overview(only='models') lists those that are taken"
            )
            error.param = "name"
        raise
