"""Datasets: upload, validation, rows, overlap."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fw_sdk.calls import Call, Listing
from fw_sdk.files import Rows, dataset_upload, id_from
from fw_sdk.operations import paths
from fw_sdk.operations.paths import collection_path, item_path
from fw_sdk.types import CreateDataset, Dataset, DatasetReport, Overlap, Split, parse_request

COLLECTION = "datasets"


def create(
    data: str | Path | Rows,
    *,
    id: str | None = None,
    display_name: str | None = None,
    heldout_fraction: float = 0.1,
    split_seed: int = 0,
) -> Call[Dataset]:
    """Store a dataset with its rows; rows that cannot be used leave nothing behind.

    Args:
        data: a JSONL file by path, or rows as dicts, each with ``messages``.
        id: its id; the file's stem by default (``rows`` for rows given as dicts).
        display_name: a name for people.
        heldout_fraction: the part of the rows that the split ``heldout`` gets.
        split_seed: seed of the split.

    Returns:
        The READY dataset.

    Raises:
        DatasetInvalidError: rows cannot be used; ``details["report"]`` is a ``DatasetReport``.
        AlreadyExistsError: the id is taken by other rows.
        NotFoundError: no such file.
    """
    not_done = "no dataset was created"
    upload = dataset_upload(data, not_done=not_done)
    identifier = id or id_from(Path(upload.filename).stem, "dataset")
    fields = paths.present(display_name=display_name, heldout_fraction=heldout_fraction, split_seed=split_seed)
    wanted = parse_request(CreateDataset, {"dataset_id": identifier, "dataset": fields}, not_done=not_done)
    query = {"datasetId": wanted.dataset_id, **wanted.dataset.model_dump(by_alias=True, include=set(fields))}
    path = f"{collection_path(COLLECTION)}:upload"
    return Call("POST", path, Dataset.model_validate, query=query, upload=upload)


def get(dataset: str) -> Call[Dataset]:
    """One dataset by id or full name."""
    return paths.get(Dataset, COLLECTION, dataset)


def list_all(*, page_size: int = 50) -> Listing[Dataset]:
    """Every dataset, newest first."""
    return paths.listing(Dataset, COLLECTION, page_size)


def delete(dataset: str) -> Call[None]:
    """Delete a dataset that nothing uses."""
    return paths.delete(COLLECTION, dataset)


def check(data: str | Path | Rows, *, model: str | None = None) -> Call[DatasetReport]:
    """Validate rows without storing anything; with ``model``, rows that it cannot take are errors."""
    upload = dataset_upload(data, not_done="nothing was checked")
    path, query = f"{collection_path(COLLECTION)}:check", paths.present(model=model)
    return Call("POST", path, DatasetReport.model_validate, query=query, upload=upload)


def rows(dataset: str, *, split: Split | str = Split.ALL, limit: int = 20) -> Call[list[dict[str, Any]]]:
    """The first rows of a dataset or of one side of its split."""
    query = {"split": str(split), "limit": limit}
    return Call("GET", item_path(COLLECTION, dataset, "rows"), lambda body: list(body["rows"]), query=query)


def overlap(dataset: str | Path | Rows, other: str | Path | Rows) -> Call[Overlap]:
    """Rows of ``dataset`` whose prompts also stand in ``other``.

    Args:
        dataset: a stored dataset's id; or a ``Path`` or rows, of which those are compared that can be read.
        other: the same.
    """
    if isinstance(dataset, str) and isinstance(other, str):
        return Call("GET", item_path(COLLECTION, dataset, "overlap"), Overlap.model_validate, query={"other": other})
    sides = {"file": dataset, "other": other}
    not_done = "nothing was compared"
    uploads = {
        name: dataset_upload(side, not_done=not_done) for name, side in sides.items() if not isinstance(side, str)
    }
    query = {{"file": "dataset"}.get(name, name): side for name, side in sides.items() if isinstance(side, str)}
    path = f"{collection_path(COLLECTION)}:overlap"
    return Call("POST", path, Overlap.model_validate, query=query, upload=uploads)
