"""Names in requests turned into things that are ready for use, with errors that say how to get there."""

from __future__ import annotations

from pathlib import Path

from engine.control.http.services import Services
from engine.control.inventory.model_names import ready_model
from engine.jobs.rows import Row, read_rows
from engine.jobs.specs import RowsRef
from fw_sdk.types import (
    Dataset,
    DatasetState,
    Evaluator,
    FwError,
    Job,
    Model,
    ModelKind,
    Split,
    resource_id,
)
from fw_sdk.types.home import Home


def ready_dataset(services: Services, name: str) -> Dataset:
    """A dataset by id or full name; ``failed_precondition`` until its rows are uploaded."""
    dataset = services.store.datasets.get(resource_id(name, "datasets"))
    if dataset.state is not DatasetState.READY:
        raise FwError(
            "failed_precondition",
            f"Dataset '{dataset.id}' has no rows yet.",
            hint=f"upload them: POST /v1/accounts/local/datasets/{dataset.id}:upload",
            param="dataset",
        )
    return dataset


def ready_base(services: Services, name: str) -> Model:
    """Base weights by id or full name; an adapter is ``model_unsupported``."""
    model = ready_model(services.store, name)
    if model.kind is not ModelKind.BASE:
        base = model.peft_details.base_model.rsplit("/", 1)[-1] if model.peft_details else "its base"
        raise FwError(
            "model_unsupported",
            f"'{model.id}' is an adapter; this version trains from base weights.",
            not_done="nothing was trained",
            hint=f"use baseModel '{base}'",
            param="baseModel",
        )
    return model


def evaluator_of(services: Services, name: str) -> Evaluator:
    """An evaluator by id or full name."""
    return services.store.evaluators.get(resource_id(name, "evaluators"))


def dataset_path(home: Home, digest: str) -> Path:
    """Where rows with this digest are kept."""
    return home.datasets / f"{digest.removeprefix('sha256:')}.jsonl"


def evaluator_path(home: Home, digest: str) -> Path:
    """Where an evaluator's source with this digest is kept."""
    return home.evaluators / f"{digest.removeprefix('sha256:')}.py"


def rows_ref(home: Home, dataset: Dataset, split: Split) -> RowsRef:
    """A READY dataset's rows as job programs find them."""
    assert dataset.digest is not None
    return RowsRef(
        path=str(dataset_path(home, dataset.digest)),
        split=split,
        heldout_fraction=dataset.heldout_fraction,
        split_seed=dataset.split_seed,
        digest=dataset.digest,
        name=dataset.id,
    )


def rows_of(home: Home, dataset: Dataset, split: Split) -> list[Row]:
    """The rows of one side of a READY dataset."""
    ref = rows_ref(home, dataset, split)
    return read_rows(Path(ref.path), ref.split, heldout_fraction=ref.heldout_fraction, split_seed=ref.split_seed)


NAMES = {Split.ALL: "usable", Split.TRAIN: "train", Split.HELDOUT: "held-out"}


def require_rows(dataset: Dataset, split: Split, purpose: str) -> None:
    """Raise ``failed_precondition`` if that side of the split is empty."""
    report = dataset.report
    counts = {
        Split.ALL: report.valid_rows if report else 0,
        Split.TRAIN: report.train_rows if report else 0,
        Split.HELDOUT: report.heldout_rows if report else 0,
    }
    if counts[split] == 0:
        raise FwError(
            "failed_precondition",
            f"Dataset '{dataset.id}' has no {NAMES[split]} rows.",
            not_done=purpose,
            hint="use split 'all', or create the dataset with a larger heldoutFraction",
            param="split",
        )


def active_users(services: Services, name: str) -> list[Job]:
    """Jobs that have not ended and name this resource in their documents."""
    return [job for job in services.store.jobs.unended() if _mentions(job.to_wire(), name)]


def _mentions(value: object, name: str) -> bool:
    if isinstance(value, dict):
        return any(_mentions(item, name) for item in value.values())
    return any(_mentions(item, name) for item in value) if isinstance(value, list) else value == name
