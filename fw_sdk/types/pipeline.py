"""The pipeline: check, baseline evaluations, fine-tune, evaluation, comparison, gated deployment."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from pydantic import Field

from fw_sdk.types.base import RequestBody, Wire
from fw_sdk.types.datasets import Split
from fw_sdk.types.deployment import Gate
from fw_sdk.types.evaluation import Comparison, InferenceParameters, ScoreSummary
from fw_sdk.types.jobs import Job, JobKind
from fw_sdk.types.kinds import JobType, register_job_type
from fw_sdk.types.training import TrainingConfig


class StepName(StrEnum):
    """Steps of a pipeline in their order."""

    CHECK = "check"
    BASELINE = "baseline"
    FEW_SHOT = "few_shot"
    FINETUNE = "finetune"
    EVALUATE = "evaluate"
    COMPARE = "compare"
    DEPLOY = "deploy"


class StepState(StrEnum):
    """State of one step. SKIPPED: not wanted, or the gate was not met."""

    PENDING = "pending"
    RUNNING = "running"
    DONE = "done"
    SKIPPED = "skipped"
    FAILED = "failed"


class Step(Wire):
    """One step: its job if it has one, and what came of it."""

    name: StepName
    state: StepState = StepState.PENDING
    job: str | None = None
    seconds: float | None = None
    message: str = ""


class CreatePipeline(RequestBody):
    """Body of ``POST /pipelines``.

    Without ``evaluation_dataset`` the dataset's own held-out split is scored and its train split is trained on.
    """

    pipeline_id: str | None = None
    base_model: str
    dataset: str
    evaluator: str
    evaluation_dataset: str | None = None
    evaluation_limit: int | None = Field(default=None, ge=1)
    training: TrainingConfig = Field(default_factory=TrainingConfig)
    inference_parameters: InferenceParameters = Field(default_factory=InferenceParameters)
    few_shot_count: int = Field(default=4, ge=0, le=32, description="0 leaves the few-shot baseline out")
    gate: Gate = Field(default_factory=Gate)
    deploy: bool = True
    force_deploy: bool = False
    deployment_id: str | None = None
    output_model: str | None = None


class BaselineResult(Wire):
    """One way to use the base model without training, its score, and the tuned model's comparison with it."""

    label: str
    evaluation: str
    summary: ScoreSummary | None = None
    comparison: Comparison | None = None


class PipelineResult(Wire):
    """What the loop came to. ``comparison`` is against the best baseline; the gate looks at that one.

    Of ``deployed_because`` and ``not_deployed_because`` one has words once the deploy step is over.
    """

    model: str
    adapter: str | None = None
    deployment: str | None = None
    evaluations: dict[str, str] = Field(default_factory=dict, description="label to evaluation job")
    comparison: Comparison | None = None
    baselines: list[BaselineResult] = Field(default_factory=list)
    tuned: ScoreSummary | None = None
    timings: dict[str, float] = Field(default_factory=dict, description="seconds per step")
    loss: list[tuple[int, float]] = Field(default_factory=list, description="(step, training loss)")
    deployed_because: str = ""
    not_deployed_because: str = ""


class Pipeline(Job):
    """The whole loop as one object that the server holds and resumes."""

    request: dict[str, Any] = Field(default_factory=dict)
    steps: list[Step] = Field(default_factory=list)
    outcome: PipelineResult | None = None


PIPELINE = register_job_type(
    JobType(JobKind.PIPELINE, Pipeline, collection="pipelines", noun="pipeline", shown=("request", "steps", "outcome"))
)

__all__ = [
    "BaselineResult",
    "CreatePipeline",
    "Pipeline",
    "PipelineResult",
    "Split",
    "Step",
    "StepName",
    "StepState",
]
