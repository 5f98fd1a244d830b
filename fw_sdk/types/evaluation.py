"""Evaluators, evaluations and comparisons: every score has an n and an interval."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from pydantic import Field

from fw_sdk.types.base import Ref, RequestBody, Resource, Wire
from fw_sdk.types.datasets import Split
from fw_sdk.types.jobs import Job, JobKind
from fw_sdk.types.kinds import JobType, register_job_type


class Evaluator(Resource):
    """Code that scores one row, versioned by the digest of its source.

    ``score_range`` is the lowest and the highest score, if the source declares it: ``SCORE_RANGE = (low, high)``.
    """

    state: str = "ACTIVE"
    digest: str
    entry_file: str = "evaluator.py"
    entry_function: str = "evaluate"
    description: str | None = None
    score_range: tuple[float, float] | None = None


class CreateEvaluator(RequestBody):
    """Body of ``POST /evaluatorsV2``: one Python file."""

    evaluator_id: str
    source: str
    entry_function: str = "evaluate"
    display_name: str | None = None
    description: str | None = None


class RowScore(Wire):
    """The score of one row. ``error`` says why there is none; ``details`` holds what the evaluator returned."""

    index: int
    line: int
    score: float | None = None
    output: str = ""
    error: str | None = None
    finish_reason: str | None = None
    details: dict[str, Any] = Field(default_factory=dict)


class CheckEvaluator(RequestBody):
    """Body of ``POST /evaluators/{id}:check``: score given answers, or the rows' own.

    A row's own answer is its last assistant message, or else its ground truth if that is a text.
    """

    dataset: str | None = None
    rows: list[dict[str, Any]] | None = None
    answers: list[str] | None = None
    limit: int = Field(default=5, ge=1, le=500)


class InferenceParameters(RequestBody):
    """How a model is sampled in an evaluation. Temperature 0 is greedy."""

    max_tokens: int = Field(default=256, ge=1)
    temperature: float = Field(default=0.0, ge=0, le=2)
    top_p: float = Field(default=1.0, gt=0, le=1)
    seed: int = 0


class FewShot(RequestBody):
    """Examples put before each prompt, drawn from a dataset's train rows by seed."""

    dataset: str
    split: Split = Split.TRAIN
    count: int = Field(default=4, ge=1, le=32)
    seed: int = 0


class EvaluationFields(RequestBody):
    """The ``evaluationJob`` part of a create request."""

    evaluator: str
    input_dataset: str
    model: str
    input_split: Split = Split.HELDOUT
    inference_parameters: InferenceParameters = Field(default_factory=InferenceParameters)
    few_shot: FewShot | None = None
    limit: int | None = Field(default=None, ge=1)
    display_name: str | None = None


class CreateEvaluation(RequestBody):
    """Body of ``POST /evaluationJobs``."""

    evaluation_job_id: str | None = None
    evaluation_job: EvaluationFields


class Interval(Wire):
    """A two-sided interval with its level, e.g. 0.95."""

    low: float
    high: float
    level: float = 0.95


class ExtraMean(Wire):
    """The mean of another number that the evaluator returned, over the n rows that have it, with its interval."""

    n: int
    mean: float
    ci: Interval


class ExtraDifference(Wire):
    """Such a number of two evaluations, candidate minus baseline, over the n rows that have it on both sides."""

    n: int
    delta: float
    ci: Interval


class ConstantAnswer(Wire):
    """What always giving the answer that most rows want would have scored on these rows.

    ``share`` is the part of the rows that wants it. It is known where wanted answers are texts, few and repeated.
    """

    answer: str
    share: float
    mean: float


class ScoreSummary(Wire):
    """The mean score over n rows with its interval.

    ``failed_rows`` have no score: the mean takes them at the minimum, the one of ``score_range`` if the evaluator
    declares it, else the lowest score seen, or 0 if that is lower.
    ``distinct_answers`` counts the different answers that the model gave. A mean whose interval is not above
    ``constant.mean`` is no sign that the model reads the question.
    """

    n: int
    mean: float
    ci: Interval
    failed_rows: int = 0
    truncated_rows: int = 0
    binary: bool = False
    score_range: tuple[float, float] | None = None
    distinct_answers: int | None = None
    constant: ConstantAnswer | None = None
    extra: dict[str, ExtraMean] = Field(default_factory=dict, description="the evaluator's other numbers")


class ServedConfiguration(Wire):
    """What exactly was scored; two evaluations with equal keys measured the same thing.

    ``serving_digest`` is that of the answers' ``fw-digest`` header: weights, adapter, quantisation, numerics, template,
    and what a deployment adds to a request.
    """

    model: str
    model_digest: str
    base_digest: str
    dtype: str
    numerics: str = "fast"
    template_digest: str
    serving_digest: str | None = None
    sampling: dict[str, Any] = Field(default_factory=dict)
    few_shot: dict[str, Any] | None = None


class Evaluation(Job):
    """(model, dataset split, evaluator) with one stored score per row.

    ``seconds`` is how long asking and scoring the rows took, from a model that is ready: neither the start of its
    worker nor the time in which its server could not be reached is counted.
    """

    evaluator: str | None = None
    evaluator_digest: str | None = None
    input_dataset: str | None = None
    dataset_digest: str | None = None
    input_split: Split = Split.ALL
    model: str | None = None
    model_digest: str | None = Field(default=None, description="of the weights that were asked for")
    deployment: str | None = Field(default=None, description="through which the model was asked, if it was")
    notes: list[str] = Field(default_factory=list, description="what a reader of the scores should know")
    configuration: ServedConfiguration | None = None
    summary: ScoreSummary | None = None
    tokens_generated: int = 0
    tokens_prompt: int = 0
    seconds: float = 0.0


class Verdict(StrEnum):
    """What a comparison says; *invalid* if more than 2 % of a side's rows have no score, so that it says nothing."""

    BETTER = "better"
    WORSE = "worse"
    INCONCLUSIVE = "inconclusive"
    INVALID = "invalid"


class Evidence(Wire):
    """One side of a comparison, as it was when it was compared: nothing of it is looked up by name again.

    ``evaluation.digest`` is that of its scores.
    """

    evaluation: Ref
    model: Ref
    deployment: Ref | None = None
    configuration: ServedConfiguration | None = None


class Comparison(Resource):
    """Two evaluations, paired by row.

    A comparison holds the digests of all that shaped it; one of the first wave without them is *unverified* and passes
    no gate. ``superseded`` names what bears another digest today, or is gone.

    ``delta`` is candidate minus baseline. ``p_value`` is McNemar's exact test for binary scores, else absent.
    ``rows_needed`` estimates how many rows in all would decide an inconclusive result. ``trained_on`` counts the rows
    whose question the candidate's training had seen: they measure memory, and no gate takes them for evidence.

    The failed rows of either side have no score. They never help: all numbers take them at the minimum of
    ``score_range`` for the candidate and at its maximum for the baseline, and each end of ``ci`` at its lowest.
    ``score_range`` is what the evaluator declares, or else 0 to 1, in both cases widened by every score seen.
    """

    baseline: str
    candidate: str
    baseline_model: str | None = None
    candidate_model: str | None = None
    baseline_evidence: Evidence | None = None
    candidate_evidence: Evidence | None = None
    dataset: Ref | None = None
    split: Split | None = None
    evaluator: Ref | None = None
    verified: bool = False
    superseded: list[str] = Field(default_factory=list)
    baseline_mean: float
    candidate_mean: float
    delta: float
    ci: Interval
    n: int
    wins: int
    losses: int
    ties: int
    baseline_failed_rows: int = 0
    candidate_failed_rows: int = 0
    score_range: tuple[float, float] | None = None
    p_value: float | None = None
    verdict: Verdict
    rows_needed: int | None = None
    trained_on: int | None = Field(default=0, description="null: what the candidate was trained on is not known")
    cost: dict[str, float] = Field(default_factory=dict, description="tokens and seconds of work of both sides")
    extra: dict[str, ExtraDifference] = Field(default_factory=dict, description="the evaluator's other numbers")

    def row_difference(self, baseline: RowScore, candidate: RowScore) -> float | None:
        """What the candidate scored more on one row, failed rows as in ``delta``; None where nothing is known of it."""
        low, high = self.score_range or (None, None)
        before = high if baseline.score is None else baseline.score
        after = low if candidate.score is None else candidate.score
        return None if before is None or after is None else after - before


class CreateComparison(RequestBody):
    """Body of ``POST /comparisons``: two evaluation jobs."""

    baseline: str
    candidate: str
    comparison_id: str | None = None


EVALUATE = register_job_type(
    JobType(
        JobKind.EVALUATE,
        Evaluation,
        collection="evaluationJobs",
        noun="evaluation",
        shown=("model", "inputDataset", "inputSplit", "evaluator", "summary"),
    )
)
