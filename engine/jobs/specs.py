"""What control hands to each job program, and what the program hands back. Paths are absolute."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from fw_sdk.types import (
    InferenceParameters,
    RequestBody,
    ScoreSummary,
    ServedConfiguration,
    Split,
    TrainingConfig,
    Wire,
)


class PullSpec(RequestBody):
    """Bring a base model's files into ``models_dir``. ``source``: starter name, folder or GGUF file."""

    source: str
    models_dir: str


class PullResult(Wire):
    """Where the model is and what it is."""

    path: str
    digest: str
    bytes: int
    parameters: int
    context_length: int
    source: str
    licence: str | None = None


class RowsRef(RequestBody):
    """Rows of a stored dataset: its file and the side of its split."""

    path: str
    split: Split = Split.ALL
    heldout_fraction: float = 0.1
    split_seed: int = 0
    digest: str
    name: str


class TrainSpec(RequestBody):
    """Fine-tune ``base_path`` on ``rows``; the adapter is written below ``adapters_dir`` by its digest."""

    base_model: str
    base_path: str
    base_digest: str
    rows: RowsRef
    heldout: RowsRef | None = None
    adapters_dir: str
    config: TrainingConfig
    device: str = "auto"


class TrainResult(Wire):
    """The adapter and how training went. ``loss`` is (step, mean loss of the trained tokens of that step)."""

    adapter_path: str
    adapter_digest: str
    bytes: int
    rank: int
    alpha: float
    target_modules: list[str]
    steps: int
    rows: int
    tokens: int
    trained_tokens: int
    seconds: float
    tokens_per_second: float
    first_loss: float
    final_loss: float
    heldout_loss: float | None = None
    loss: list[tuple[int, float]] = Field(default_factory=list)


class EvaluateSpec(RequestBody):
    """Ask ``model`` at ``base_url`` for an answer to every row and score it.

    ``model`` is the full name of a model or deployment; answers of other weights than ``model_digest`` fail the
    evaluation. The program reads the token from the environment variable ``FW_API_KEY``.
    """

    model: str
    model_digest: str | None = None
    base_url: str
    rows: RowsRef
    evaluator_path: str
    evaluator_digest: str
    entry_function: str = "evaluate"
    inference: InferenceParameters = Field(default_factory=InferenceParameters)
    few_shot: FewShotRows | None = None
    limit: int | None = None
    concurrency: int = 64
    row_timeout_s: float = 10.0


class FewShotRows(RequestBody):
    """``count`` example rows drawn by ``seed`` and put before every prompt."""

    rows: RowsRef
    count: int
    seed: int = 0


class EvaluateResult(Wire):
    """The summary; the row scores stand in ``scores.jsonl`` of the job's directory as ``RowScore`` lines."""

    summary: ScoreSummary
    configuration: ServedConfiguration
    tokens_generated: int
    tokens_prompt: int
    seconds: float
    failures: dict[str, Any] = Field(default_factory=dict, description="count and first example per kind of row error")


EvaluateSpec.model_rebuild()
