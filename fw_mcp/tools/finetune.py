"""``finetune``: train an adapter alone, for those who want the loop's steps one by one."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from mcp.types import CallToolResult
from pydantic import Field

from fw_mcp.plans import kept, of_pull, training_plan
from fw_mcp.platform import Platform, ToolContext
from fw_mcp.results import reply
from fw_mcp.server import AgentServer, hints
from fw_mcp.tools.arguments import STARTER, dataset_for, fingerprint, model_for, pull_before, resumed, still_coming
from fw_mcp.tools.job_wait import describe
from fw_mcp.views import report_view
from fw_sdk.types import Job


def register(server: AgentServer, platform: Platform) -> None:
    """Add ``finetune``."""

    @server.tool(annotations=hints("Fine-tune"))
    async def finetune(
        ctx: ToolContext,
        data: Annotated[str, Field(description="JSONL path or dataset id")],
        base_model: str = STARTER,
        split: Literal["train", "heldout", "all"] = "train",
        epochs: Annotated[int, Field(ge=1, le=100)] = 2,
        learning_rate: Annotated[float, Field(gt=0, le=1)] = 1e-3,
        lora_rank: Annotated[int, Field(ge=1, le=256)] = 16,
        batch_size: Annotated[int, Field(ge=16, description="tokens, not rows")] = 2048,
        seed: int = 0,
        dry_run: Annotated[bool, Field(description="starts no job")] = False,
    ) -> CallToolResult:
        """Train a LoRA adapter only; customize does the whole loop. dry_run shows steps, seconds and memory. Returns a
        job_id at once. The same arguments return the same job; a failed or cancelled one goes on from its last
        checkpoint."""
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
            output = f"{rows.id[:40].strip('-._')}-lora-{fingerprint(model.digest, rows.id, split, training)}"
            if dry_run:
                estimate = await client.finetunes.estimate(model.id, rows.id, split=split, **training)
                fields = {
                    "would_start": f"ft-{output}",
                    "base_model": model.id,
                    "data": {"id": rows.id, "report": report_view(rows.report) if rows.report else None},
                    "training": await training_plan(client, training, estimate),
                    "started": False,
                    "stored": kept(rows.id),
                }
                return reply(fields, "finetune(...) with the same arguments and without dry_run starts it")
            job = await client.finetunes.create(
                model.id, rows.id, id=f"ft-{output}", split=split, output_model=output, **training
            )
            return describe(await resumed(client, job), model=output)
