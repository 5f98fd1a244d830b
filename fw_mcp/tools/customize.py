"""``customize``: the whole loop as one idempotent start, with a plan that can be seen before anything is spent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from mcp.types import CallToolResult
from pydantic import Field

from fw_mcp.plans import kept, measured_pace, of_pull, rows_on_side, scoring, training_plan
from fw_mcp.platform import Platform, ToolContext
from fw_mcp.results import reply
from fw_mcp.server import AgentServer, hints
from fw_mcp.tools.arguments import (
    MIN_SCORE,
    STARTER,
    dataset_for,
    evaluator_for,
    model_for,
    pull_before,
    still_coming,
)
from fw_mcp.tools.job_wait import describe
from fw_mcp.views import pair_view, report_view
from fw_sdk.client import AsyncClient
from fw_sdk.types import Dataset, Evaluator, FwError, Job, JobState, Model, Pipeline, Split

MAX_PAIRS = 10


@dataclass(frozen=True)
class Settings:
    """What a caller may choose, in the words of ``CreatePipeline``."""

    training: dict[str, Any]
    inference_parameters: dict[str, Any]
    few_shot_count: int
    evaluation_limit: int | None
    gate: dict[str, Any]
    deploy: bool

    def fields(self) -> dict[str, Any]:
        """The fields of the request; absent ones keep the server's default."""
        return {key: value for key, value in vars(self).items() if value is not None}


@dataclass(frozen=True)
class Inputs:
    """What a pipeline works on, stored and READY."""

    model: Model
    data: Dataset
    heldout: Dataset | None
    evaluator: Evaluator

    def fields(self, settings: Settings) -> dict[str, Any]:
        """The fields of the request beside the three names."""
        held = {"evaluation_dataset": self.heldout.id} if self.heldout else {}
        return {**settings.fields(), **held}


def register(server: AgentServer, platform: Platform) -> None:
    """Add ``customize``."""

    @server.tool(annotations=hints("Customize a model"))
    async def customize(
        ctx: ToolContext,
        data: Annotated[str, Field(description="training rows: JSONL path or dataset id")],
        evaluator: Annotated[str, Field(description="path, source, or id")],
        base_model: Annotated[str, Field(description="starter, model id, or path to weights")] = STARTER,
        heldout: Annotated[str | None, Field(description="rows to score: path or id; default: 10 % of data")] = None,
        name: Annotated[str | None, Field(description="job id to use")] = None,
        epochs: Annotated[int, Field(ge=1, le=100)] = 2,
        learning_rate: Annotated[float, Field(gt=0, le=1)] = 1e-3,
        lora_rank: Annotated[int, Field(ge=1, le=256)] = 16,
        batch_size: Annotated[int, Field(ge=16, description="tokens, not rows")] = 2048,
        max_tokens: Annotated[int, Field(ge=1, description="of each scored answer")] = 256,
        few_shot: Annotated[int, Field(ge=0, le=32, description="examples in the prompted baseline")] = 4,
        evaluation_limit: Annotated[int | None, Field(ge=1, description="rows scored at most")] = None,
        gate: Literal["better", "not_worse"] = "better",
        min_score: Annotated[float | None, Field(description=MIN_SCORE)] = None,
        deploy: bool = True,
        seed: int = 0,
        dry_run: Annotated[bool, Field(description="starts no job")] = False,
    ) -> CallToolResult:
        """The whole loop: check data, score the base model (plain and few-shot), LoRA fine-tune, score again, compare
        on the same rows, deploy if the gate holds. Returns a job_id; then job_wait. The same arguments return the same
        job; a failed or cancelled one goes on. Evaluator: def evaluate(messages, ground_truth=None, **row) -> float or
        dict with score, messages ending with the model's answer."""
        training: dict[str, Any] = {"epochs": epochs, "learning_rate": learning_rate, "lora_rank": lora_rank}
        settings = Settings(
            training={**training, "batch_size": batch_size, "seed": seed},
            inference_parameters={"max_tokens": max_tokens},
            few_shot_count=few_shot,
            evaluation_limit=evaluation_limit,
            gate={"kind": gate} | ({} if min_score is None else {"min_score": min_score}),
            deploy=deploy,
        )
        async with platform.session() as client:
            if dry_run and (needed := await pull_before(client, platform, base_model)):
                return of_pull(needed, "customize")
            found = await _inputs(client, platform, ctx, base_model, data, heldout, evaluator)
            if isinstance(found, Job):
                return still_coming(found, "customize")
            if dry_run:
                return await _plan(client, found, settings, name)
            return describe(await _start(client, found, settings, name))


async def _inputs(
    client: AsyncClient,
    platform: Platform,
    ctx: ToolContext,
    base_model: str,
    data: str,
    heldout: str | None,
    evaluator: str,
) -> Inputs | Job:
    """Everything stored, cheapest first, so that a mistake shows before a model is pulled; or the pull's job."""
    scorer = await evaluator_for(client, platform, evaluator)
    rows = await dataset_for(client, platform, data, "data")
    other = await dataset_for(client, platform, heldout, "heldout") if heldout else None
    if other is None and rows.report is not None and not rows.report.heldout_rows:
        raise FwError(
            "failed_precondition",
            f"Dataset '{rows.id}' has no held-out rows, so nothing could be scored.",
            not_done="Nothing was started.",
            hint="give heldout=<a JSONL file of rows that are not in data>, or more rows",
            param="heldout",
        )
    model = await model_for(client, platform, base_model, ctx)
    return model if isinstance(model, Job) else Inputs(model, rows, other, scorer)


async def _start(client: AsyncClient, found: Inputs, settings: Settings, name: str | None) -> Pipeline:
    """Create the pipeline, or return the one that did the same work; one that failed or was cancelled goes on."""
    try:
        pipeline = await client.pipelines.create(
            found.model.id, found.data.id, found.evaluator.id, id=name, reuse=True, **found.fields(settings)
        )
    except FwError as error:
        if error.code == "already_exists":
            error.hint = f"customize(...) without name, or with another; job_get(job_id='{name}') shows that one"
            error.param = "name"
        raise
    if pipeline.state in (JobState.FAILED, JobState.CANCELLED):
        return await client.pipelines.resume(pipeline.id)
    return pipeline


async def _plan(client: AsyncClient, found: Inputs, settings: Settings, name: str | None) -> CallToolResult:
    would = await client.pipelines.plan(
        found.model.id, found.data.id, found.evaluator.id, id=name, **found.fields(settings)
    )
    identifier = would.id
    split = Split.ALL if found.heldout else Split.TRAIN
    estimate = await client.finetunes.estimate(found.model.id, found.data.id, split=split, **settings.training)
    scored, side = (found.heldout, Split.ALL) if found.heldout else (found.data, Split.HELDOUT)
    rows = rows_on_side(scored, side, settings.evaluation_limit)
    fields: dict[str, Any] = {
        "would_start": identifier,
        "base_model": found.model.id,
        "data": {"id": found.data.id, "report": _report(found)},
        "scored_rows": rows,
        "evaluator": found.evaluator.id,
        "training": await training_plan(client, settings.training, estimate),
        "scoring": scoring(rows, 3 if settings.few_shot_count else 2, await measured_pace(client, found.model)),
        "few_shot": settings.few_shot_count,
        "gate": settings.gate["kind"],
        "min_score": settings.gate.get("min_score"),
        "deploy": settings.deploy,
        "deploys_as": identifier if settings.deploy else None,
        "started": False,
        "stored": kept(found.data.id, found.heldout.id if found.heldout else None, evaluator=found.evaluator.id),
    }
    overlap = await client.datasets.overlap(scored.id, found.data.id)
    every = f"dataset(id='{scored.id}', overlap_with='{found.data.id}')"
    fields["overlap"] = {
        "shared_prompts": overlap.shared,
        "sides": f"line: of '{scored.id}', other_line: of '{found.data.id}'" if overlap.shared else None,
        "line_pairs": [pair_view(pair) for pair in overlap.pairs[:MAX_PAIRS]],
        "more": f"{every} lists every pair" if overlap.shared > MAX_PAIRS else None,
    }
    if overlap.shared:
        again = "customize(..., dry_run=true) again"
        return reply(fields, f"remove the rows whose prompts stand on both sides (line_pairs), then {again}")
    return reply(fields, "customize(...) with the same arguments and without dry_run starts it")


def _report(found: Inputs) -> dict[str, Any] | None:
    """What is known of the rows; their own split counts only where it is used."""
    if found.data.report is None:
        return None
    view = report_view(found.data.report)
    if found.heldout is None:
        return view
    return {name: value for name, value in view.items() if name not in ("train_rows", "heldout_rows")}
