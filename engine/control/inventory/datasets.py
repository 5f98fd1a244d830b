"""Datasets: rows are checked, stored by the digest of their bytes, and immutable from then on."""

from __future__ import annotations

from pathlib import Path

from engine.control.context import Context
from engine.control.inventory.dataset_rows import SplitRule, Validation, readable_rows, validate_file
from engine.control.inventory.files import drop_rows, place
from engine.control.inventory.references import dataset_path, ready_base, ready_dataset, rows_of
from engine.control.inventory.token_lengths import any_counter, counter_for, load_renderer
from engine.evals.overlap import overlap
from engine.jobs.rows import Row
from engine.training.preview import preview
from fw_sdk.types import (
    CreateDataset,
    Dataset,
    DatasetReport,
    DatasetState,
    FwError,
    Overlap,
    Split,
    TrainedToken,
    resource_id,
    resource_name,
)


def create(context: Context, request: CreateDataset) -> Dataset:
    """A new dataset that waits for its rows; the same request again returns the same one."""
    identifier = resource_id(request.dataset_id, "datasets")
    fields = request.dataset
    if fields.format != "CHAT":
        raise FwError(
            "unimplemented",
            f"Format '{fields.format}' is not supported, only CHAT.",
            not_done="no dataset was created",
            hint="write each row as {'messages': [...]}",
            param="dataset.format",
        )
    dataset = Dataset(
        name=resource_name("datasets", identifier),
        display_name=fields.display_name,
        heldout_fraction=fields.heldout_fraction,
        split_seed=fields.split_seed,
    )
    return context.store.datasets.create(dataset, request=request)


def check(context: Context, file: Path, rule: SplitRule, model: str | None = None) -> Validation:
    """Validate a file of rows; stores nothing. Rows that ``model`` cannot take are errors; of another, warnings."""
    counter = counter_for(ready_base(context, model)) if model else any_counter(context.store)
    return validate_file(file, rule, counter)


def upload(context: Context, identifier: str, file: Path) -> Dataset:
    """Give a dataset its rows.

    Raises:
        FwError: ``dataset_invalid`` with the report if a row cannot be used (the dataset goes on waiting);
            ``failed_precondition`` if it has other rows already.
    """
    dataset = context.store.datasets.get(identifier)
    found = check(context, file, SplitRule(dataset.heldout_fraction, dataset.split_seed))
    if dataset.state is DatasetState.READY and dataset.digest != found.digest:
        raise _immutable(identifier)
    if not found.report.ok:
        raise invalid(found.report, f"'{identifier}' still waits for its rows; nothing was stored")
    return _store(context, dataset, found, file)


def create_with_rows(context: Context, request: CreateDataset, file: Path) -> Dataset:
    """A READY dataset in one step: its name is taken only once its rows are known to be usable.

    Raises:
        FwError: ``dataset_invalid`` with the report if a row cannot be used (nothing was created);
            ``already_exists`` if the id has other rows or another split.
    """
    rule = SplitRule(request.dataset.heldout_fraction, request.dataset.split_seed)
    found = check(context, file, rule)
    if not found.report.ok:
        raise invalid(found.report, "nothing was stored")
    dataset = create(context, request)
    if dataset.state is DatasetState.READY and dataset.digest != found.digest:
        raise FwError(
            "already_exists",
            f"Dataset '{dataset.id}' exists with other rows.",
            not_done="nothing was stored",
            hint="choose another id, or delete that dataset",
            param="datasetId",
        )
    return _store(context, dataset, found, file)


def _store(context: Context, dataset: Dataset, found: Validation, file: Path) -> Dataset:
    """Put usable rows below their digest and make ``dataset`` READY with them; a READY one has them already."""
    if dataset.state is DatasetState.READY:
        return dataset

    def ready(current: Dataset) -> Dataset:
        if current.generation != dataset.generation:
            raise _replaced(dataset.id)
        changed = _ready(current, found)
        place(file, dataset_path(context.home, found.digest))
        return changed

    return context.store.datasets.update(dataset.id, ready)


def _ready(dataset: Dataset, found: Validation) -> Dataset:
    if dataset.state is DatasetState.READY and dataset.digest != found.digest:
        raise _immutable(dataset.id)
    tokens = found.report.tokens
    fields = {
        "state": DatasetState.READY,
        "digest": found.digest,
        "example_count": str(found.report.valid_rows),
        "estimated_token_count": str(tokens.total) if tokens else None,
        "report": found.report,
        "bytes": found.bytes,
    }
    return dataset.model_copy(update=fields)


def delete(context: Context, identifier: str) -> None:
    """Remove a dataset that no unfinished job uses, and its rows unless another dataset has the same."""
    context.store.datasets.delete(identifier)
    drop_rows(context)


def with_tokens(context: Context, dataset: Dataset, model_name: str | None = None) -> Dataset:
    """The dataset with token statistics, counted now if no model was present when its rows came."""
    if dataset.report is None or dataset.report.tokens is not None:
        return dataset
    counter = counter_for(ready_base(context, model_name)) if model_name else any_counter(context.store)
    if counter is None:
        return dataset
    for row in rows_of(context.home, dataset, Split.ALL):
        counter.count(row)
    stats = counter.stats()

    def change(current: Dataset) -> Dataset:
        if current.generation != dataset.generation:
            raise _replaced(dataset.id)
        assert current.report is not None
        report = current.report.model_copy(update={"tokens": stats})
        count = str(stats.total) if stats else None
        return current.model_copy(update={"report": report, "estimated_token_count": count})

    return context.store.datasets.update(dataset.id, change)


def find_overlap(context: Context, identifier: str, other: str) -> Overlap:
    """Rows that stand in both datasets; for a dataset with itself, held-out rows that stand among its train rows."""
    one, two = ready_dataset(context, identifier), ready_dataset(context, other)
    if one.id == two.id:
        return overlap(rows_of(context.home, one, Split.HELDOUT), rows_of(context.home, one, Split.TRAIN))
    return overlap(rows_of(context.home, one, Split.ALL), rows_of(context.home, two, Split.ALL))


def find_overlap_of_files(context: Context, one: Path | str, other: Path | str) -> Overlap:
    """Rows of ``one`` that also stand in ``other``: the rows of a file that can be read, or a dataset's, by its id."""
    return overlap(_rows_on_a_side(context, one), _rows_on_a_side(context, other))


def _rows_on_a_side(context: Context, side: Path | str) -> list[Row]:
    if isinstance(side, Path):
        return readable_rows(side)
    return rows_of(context.home, ready_dataset(context, side), Split.ALL)


def preview_rows(context: Context, identifier: str, model: str, limit: int) -> list[list[TrainedToken]]:
    """The first rows as tokens of a model, each with whether the loss counts it."""
    dataset, base = ready_dataset(context, identifier), ready_base(context, model)
    with_tokens(context, dataset, base.id)
    assert base.path is not None
    return preview(rows_of(context.home, dataset, Split.ALL), load_renderer(base.path), limit)


def invalid(report: DatasetReport, not_done: str) -> FwError:
    """The ``dataset_invalid`` error of a report: its first problem in words, all of it in ``details.report``."""
    errors = [problem for problem in report.problems if problem.severity == "error"]
    bad = report.rows - report.valid_rows
    first = f"line {errors[0].line}: {errors[0].message}" if errors else "no row can be used"
    return FwError(
        "dataset_invalid",
        f"{bad} of {report.rows} rows cannot be used; {first}.",
        not_done=not_done,
        hint="fix the lines in details.report.problems and upload the file again",
        param="file",
        details={"report": report.to_wire()},
    )


def _replaced(identifier: str) -> FwError:
    return FwError(
        "failed_precondition",
        f"Dataset '{identifier}' was deleted and created again while its rows were read.",
        not_done="the new dataset was not changed",
        hint="try again",
    )


def _immutable(identifier: str) -> FwError:
    return FwError(
        "failed_precondition",
        f"Dataset '{identifier}' is READY with other rows; datasets do not change.",
        not_done="its rows stay as they are",
        hint="create a dataset with another id",
    )
