"""What a pipeline's steps ask for: every name and request follows from the pipeline's id and its own request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fw_sdk.types import (
    CreateComparison,
    CreateDeployment,
    CreateEvaluation,
    CreatePipeline,
    EvaluationFields,
    FewShot,
    Pipeline,
    Split,
    Step,
    StepName,
    StepState,
    SupervisedFineTuning,
    resource_id,
)

BASE, FEW_SHOT, TUNED = "base", "few_shot", "tuned"
LABELS = {StepName.BASELINE: BASE, StepName.FEW_SHOT: FEW_SHOT, StepName.EVALUATE: TUNED}
LONGEST_ID = 63 - len("-vs-few-shot-99")
"""How long a pipeline's id may be: those of its jobs, and of a later generation's, are derived from it."""


@dataclass(frozen=True)
class Plan:
    """The requests of one pipeline's steps.

    Attributes:
        id: the pipeline's id.
        request: what the client asked for.
        generation: of the pipeline's name: nothing that an earlier pipeline of that name made is taken for its own.
    """

    id: str
    request: CreatePipeline
    generation: int = 1

    @classmethod
    def of(cls, pipeline: Pipeline) -> Plan:
        """The plan of a stored pipeline; fields that this version does not know any more are left out."""
        request = CreatePipeline.model_validate(pipeline.request, extra="ignore")
        return cls(pipeline.id, request, pipeline.generation)

    def _own(self, suffix: str) -> str:
        """The id of something that this very pipeline makes."""
        return f"{self.id}-{suffix}" + (f"-{self.generation}" if self.generation > 1 else "")

    @property
    def output_model(self) -> str:
        """The id of the tuned model."""
        return resource_id(self.request.output_model, "models") if self.request.output_model else self._own("tuned")

    @property
    def deployment_id(self) -> str:
        """The id of the deployment."""
        wanted = self.request.deployment_id
        return resource_id(wanted, "deployments") if wanted else self.id

    @property
    def training_split(self) -> Split:
        """The rows to train on, and to draw examples from."""
        return Split.ALL if self.request.evaluation_dataset else Split.TRAIN

    @property
    def scored_dataset(self) -> str:
        """The dataset that is scored."""
        return self.request.evaluation_dataset or self.request.dataset

    @property
    def scored_split(self) -> Split:
        """The rows of it that are scored."""
        return Split.ALL if self.request.evaluation_dataset else Split.HELDOUT

    @property
    def baselines(self) -> tuple[str, ...]:
        """Labels of the baselines, in order."""
        return (BASE, FEW_SHOT) if self.request.few_shot_count else (BASE,)

    def evaluation_id(self, label: str) -> str:
        """The evaluation job of a label."""
        return self._own("scored" if label == TUNED else label.replace("_", "-"))

    def comparison_id(self, baseline: str) -> str:
        """The comparison of the tuned model with a baseline."""
        return self._own(f"vs-{baseline.replace('_', '-')}")

    @property
    def finetune_id(self) -> str:
        """The fine-tuning job."""
        return self._own("finetune")

    def evaluation(self, label: str) -> CreateEvaluation:
        """Score the base, the base with examples in its prompt, or the tuned model: same rows, same sampling."""
        request = self.request
        examples = FewShot(dataset=request.dataset, split=self.training_split, count=max(1, request.few_shot_count))
        return CreateEvaluation(
            evaluation_job_id=self.evaluation_id(label),
            evaluation_job=EvaluationFields(
                evaluator=request.evaluator,
                input_dataset=self.scored_dataset,
                model=self.output_model if label == TUNED else request.base_model,
                input_split=self.scored_split,
                inference_parameters=request.inference_parameters,
                few_shot=examples if label == FEW_SHOT else None,
                limit=request.evaluation_limit,
            ),
        )

    def finetune(self) -> SupervisedFineTuning:
        """Train on the rows that are not scored."""
        return SupervisedFineTuning(
            **self.request.training.model_dump(),
            dataset=self.request.dataset,
            base_model=self.request.base_model,
            dataset_split=self.training_split,
            output_model=self.output_model,
        )

    def comparison(self, baseline: str) -> CreateComparison:
        """The tuned model against one baseline."""
        return CreateComparison(
            baseline=self.evaluation_id(baseline),
            candidate=self.evaluation_id(TUNED),
            comparison_id=self.comparison_id(baseline),
        )

    def deployment(self, comparison: str) -> CreateDeployment:
        """Deploy the tuned model behind the pipeline's gate."""
        request = self.request
        return CreateDeployment(
            base_model=self.output_model, comparison=comparison, gate=request.gate, force=request.force_deploy
        )

    @staticmethod
    def first_steps(request: CreatePipeline) -> list[Step]:
        """Every step at its beginning; those that are not wanted are SKIPPED already."""
        steps = [Step(name=name) for name in StepName]
        if not request.few_shot_count:
            steps = with_step(steps, Step(name=StepName.FEW_SHOT, state=StepState.SKIPPED, message="not wanted"))
        return steps


def with_step(steps: Sequence[Step], changed: Step) -> list[Step]:
    """The steps with one replaced by name."""
    return [changed if step.name is changed.name else step for step in steps]


def current_step(steps: Sequence[Step]) -> Step | None:
    """The step that a pipeline is at; None when all are behind it."""
    return next((step for step in steps if step.state not in (StepState.DONE, StepState.SKIPPED)), None)
