"""Fine-tuning requests and results."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from fw_sdk.types.base import RequestBody, Wire
from fw_sdk.types.datasets import Split
from fw_sdk.types.jobs import Job, JobKind
from fw_sdk.types.kinds import JobType, register_job_type


class TrainingConfig(RequestBody):
    """What the trainer does. Every default is stated here and echoed back in the job.

    ``batch_size`` counts packed tokens of one optimiser step; ``learning_rate`` falls linearly to zero after
    ``learning_rate_warmup_steps``.
    """

    epochs: int = Field(default=2, ge=1, le=100)
    learning_rate: float = Field(default=1e-3, gt=0, le=1)
    lora_rank: int = Field(default=16, ge=1, le=256)
    lora_alpha: float = Field(default=32.0, gt=0)
    batch_size: int = Field(default=2048, ge=16, description="packed tokens per optimiser step")
    learning_rate_warmup_steps: int = Field(default=0, ge=0)
    optimizer_weight_decay: float = Field(default=0.0, ge=0)
    max_gradient_norm: float = Field(default=1.0, gt=0)
    max_context_length: int | None = Field(default=None, ge=16)
    checkpoint_interval_steps: int = Field(default=20, ge=1)
    seed: int = 0


class SupervisedFineTuning(TrainingConfig):
    """Body of ``POST /supervisedFineTuningJobs`` (flat, as the hosted API has it).

    What is trained on by default is never what is evaluated by default: the train rows here, the held-out rows there.
    """

    dataset: str
    base_model: str
    dataset_split: Split = Split.TRAIN
    evaluation_dataset: str | None = None
    evaluation_split: Split | None = Field(
        default=None, description="by default the held-out rows of the dataset itself, all rows of another one"
    )
    output_model: str | None = None
    display_name: str | None = None

    @property
    def validation_split(self) -> Split:
        """The rows of ``evaluation_dataset`` that the evaluation loss is computed on."""
        own = (self.evaluation_dataset or "").rsplit("/", 1)[-1] == self.dataset.rsplit("/", 1)[-1]
        return self.evaluation_split or (Split.HELDOUT if own else Split.ALL)

    def config(self) -> TrainingConfig:
        """The training part alone."""
        return TrainingConfig.model_validate(self.model_dump(include=set(TrainingConfig.model_fields)))


class Estimate(Wire):
    """What a fine-tune will cost here, before it runs. Tokens are exact, the rest is estimated."""

    rows: int
    tokens_per_epoch: int
    trained_tokens_per_epoch: int
    steps: int
    seconds: float | None = None
    peak_memory_bytes: int
    warnings: list[str] = Field(default_factory=list)


class TrainedToken(Wire):
    """One token of a preview and whether the loss counts it."""

    text: str
    trained: bool


class FineTuningJob(Job):
    """A fine-tune in the hosted API's shape: a job with its request's fields beside it."""

    base_model: str | None = None
    dataset: str | None = None
    output_model: str | None = None
    training: dict[str, Any] = Field(default_factory=dict)


FINETUNE = register_job_type(
    JobType(
        JobKind.FINETUNE,
        FineTuningJob,
        collection="supervisedFineTuningJobs",
        noun="fine-tune",
        shown=("baseModel", "dataset", "outputModel", "training"),
    )
)
