"""Fine-tuning jobs."""

from __future__ import annotations

from typing import Any

from fw_sdk.calls import Call, Listing
from fw_sdk.operations import paths
from fw_sdk.operations.paths import collection_path, item_path
from fw_sdk.types import Estimate, FineTuningJob, JobPlan, Split, SupervisedFineTuning, TrainedToken, parse_request

COLLECTION = "supervisedFineTuningJobs"


def create(
    base_model: str,
    dataset: str,
    *,
    id: str | None = None,
    split: Split | str = Split.TRAIN,
    evaluation_dataset: str | None = None,
    evaluation_split: Split | str | None = None,
    output_model: str | None = None,
    reuse: bool = False,
    **training: Any,
) -> Call[FineTuningJob]:
    """Start to train a LoRA adapter on a dataset's assistant turns.

    Args:
        base_model: the base model.
        dataset: the dataset to train on.
        id: the job's id.
        split: which rows to train on; an evaluation scores the held-out rows by default.
        evaluation_dataset: rows for the evaluation loss.
        evaluation_split: which of those; by default the held-out rows of ``dataset``, all rows of another one.
        output_model: id of the tuned model.
        reuse: return the fine-tune that did the same work with the same digests, if there is one.
        training: fields of ``TrainingConfig`` (epochs, learning_rate, lora_rank, …); an unknown one is an error.
    """
    body = _body(base_model, dataset, split, evaluation_dataset, evaluation_split, output_model, training)
    return paths.start(FineTuningJob, COLLECTION, body, reuse=reuse, supervisedFineTuningJobId=id)


def plan(
    base_model: str,
    dataset: str,
    *,
    split: Split | str = Split.TRAIN,
    evaluation_dataset: str | None = None,
    evaluation_split: Split | str | None = None,
    output_model: str | None = None,
    **training: Any,
) -> Call[JobPlan]:
    """The id that ``create`` with ``reuse`` and the same arguments would give. Starts nothing."""
    body = _body(base_model, dataset, split, evaluation_dataset, evaluation_split, output_model, training)
    return paths.plan(COLLECTION, body)


def estimate(base_model: str, dataset: str, *, split: Split | str = Split.TRAIN, **training: Any) -> Call[Estimate]:
    """What ``create`` with the same arguments would cost: steps, seconds, memory. Starts nothing."""
    body = _body(base_model, dataset, split, None, None, None, training)
    return Call("POST", f"{collection_path(COLLECTION)}:estimate", Estimate.model_validate, body=body)


def preview(dataset: str, model: str, *, limit: int = 3) -> Call[list[list[TrainedToken]]]:
    """The first rows as tokens of ``model``, each with whether the loss counts it."""
    query = {"model": model, "limit": limit}
    return Call("GET", item_path("datasets", dataset, "preview"), _token_rows, query=query)


def get(finetune: str) -> Call[FineTuningJob]:
    """One fine-tuning job by id or full name."""
    return paths.get(FineTuningJob, COLLECTION, finetune)


def list_all(*, page_size: int = 50) -> Listing[FineTuningJob]:
    """Every fine-tuning job, newest first."""
    return paths.listing(FineTuningJob, COLLECTION, page_size)


def cancel(finetune: str) -> Call[FineTuningJob]:
    """Stop training; its checkpoints stay."""
    return paths.act(FineTuningJob, COLLECTION, finetune, "cancel")


def resume(finetune: str) -> Call[FineTuningJob]:
    """Go on from the last checkpoint."""
    return paths.act(FineTuningJob, COLLECTION, finetune, "resume")


def delete(finetune: str) -> Call[None]:
    """Delete an ended job's record."""
    return paths.delete(COLLECTION, finetune)


def _body(
    base_model: str,
    dataset: str,
    split: Split | str,
    evaluation_dataset: str | None,
    evaluation_split: Split | str | None,
    output_model: str | None,
    training: dict[str, Any],
) -> dict[str, Any]:
    fields = paths.present(
        base_model=base_model,
        dataset=dataset,
        dataset_split=split,
        evaluation_dataset=evaluation_dataset,
        evaluation_split=evaluation_split,
        output_model=output_model,
    )
    return parse_request(SupervisedFineTuning, {**fields, **training}, not_done="nothing was trained").to_wire()


def _token_rows(body: Any) -> list[list[TrainedToken]]:
    return [[TrainedToken.model_validate(token) for token in row] for row in body["rows"]]
