"""``/v1/accounts/local/datasets``."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.responses import JSONResponse

from engine.control.http.bodies import (
    Empty,
    PageSize,
    PageToken,
    body_of,
    form_of,
    page_of,
    reply,
    reply_page,
    uploaded_file,
    uploaded_files,
)
from engine.control.http.services import Provided, Services
from engine.control.inventory import datasets
from engine.control.inventory.dataset_rows import SplitRule
from engine.control.inventory.references import ready_dataset, rows_of
from fw_sdk.types import (
    CreateDataset,
    Dataset,
    DatasetFields,
    DatasetReport,
    FwError,
    Overlap,
    Split,
    TrainedToken,
    Wire,
    parse_request,
    resource_id,
)

ROOT = "/v1/accounts/local/datasets"
MAX_ROWS = 1000

router = APIRouter()


class Rows(Wire):
    """Rows as they stand in the file, their line numbers, and how many there are."""

    rows: list[dict[str, Any]]
    lines: list[int]
    total_size: int


class Preview(Wire):
    """Rows as tokens."""

    rows: list[list[TrainedToken]]


@router.post(ROOT, response_model=Dataset)
def create(
    services: Provided, request: Annotated[CreateDataset, body_of(CreateDataset, "no dataset was created")]
) -> JSONResponse:
    """A new dataset that waits for its rows."""
    return reply(datasets.create(services, request))


@router.get(ROOT, response_model=page_of("datasets", Dataset))
def list_all(services: Provided, size: PageSize = 0, token: PageToken = None) -> JSONResponse:
    """Datasets, newest first."""
    return reply_page("datasets", services.store.datasets.list(size, token))


@router.post(ROOT + ":check", response_model=DatasetReport, openapi_extra=form_of("file"))
async def check(request: Request, services: Provided, model: str | None = None) -> JSONResponse:
    """Validate rows, also for a model that is named, and store nothing."""
    defaults = DatasetFields()
    rule = SplitRule(defaults.heldout_fraction, defaults.split_seed)
    async with uploaded_file(request, services.home.datasets) as file:
        found = await services.lanes.rows.run(datasets.check, services, file, rule, model)
    return reply(found.report)


@router.post(ROOT + ":upload", response_model=Dataset, openapi_extra=form_of("file"))
async def create_with_rows(
    request: Request,
    services: Provided,
    dataset_id: Annotated[str, Query(alias="datasetId")],
    display_name: Annotated[str | None, Query(alias="displayName")] = None,
    heldout_fraction: Annotated[float, Query(alias="heldoutFraction")] = 0.1,
    split_seed: Annotated[int, Query(alias="splitSeed")] = 0,
) -> JSONResponse:
    """A READY dataset with the rows of the form field ``file``; rows that cannot be used leave nothing behind."""
    fields = {"displayName": display_name, "heldoutFraction": heldout_fraction, "splitSeed": split_seed}
    body = {"datasetId": dataset_id, "dataset": fields}
    wanted = parse_request(CreateDataset, body, not_done="no dataset was created")
    resource_id(wanted.dataset_id, "datasets")
    async with uploaded_file(request, services.home.datasets) as file:
        return reply(await services.lanes.rows.run(datasets.create_with_rows, services, wanted, file))


@router.post(ROOT + ":overlap", response_model=Overlap, openapi_extra=form_of("file", "other"))
async def overlap_of_files(
    request: Request, services: Provided, dataset: str | None = None, other: str | None = None
) -> JSONResponse:
    """Rows that stand on both sides: form fields ``file`` and ``other``, or a dataset's id instead. Stores nothing."""
    async with uploaded_files(request, services.home.datasets, "file", "other") as files:
        one, two = files.get("file", dataset), files.get("other", other)
        if one is None or two is None:
            missing = "'file' and no query 'dataset'" if one is None else "'other' and no query 'other'"
            raise FwError(
                "invalid_argument", f"The form has no field {missing}.", param="file" if one is None else "other"
            )
        return reply(await services.lanes.rows.run(datasets.find_overlap_of_files, services, one, two))


@router.post(ROOT + "/{dataset:id}:upload", response_model=Dataset, openapi_extra=form_of("file"))
async def upload(dataset: str, request: Request, services: Provided) -> JSONResponse:
    """Give a dataset its rows; it is READY when this returns."""
    identifier = resource_id(dataset, "datasets")
    await services.store.run(services.store.datasets.get, identifier)
    async with uploaded_file(request, services.home.datasets) as file:
        return reply(await services.lanes.rows.run(datasets.upload, services, identifier, file))


@router.get(ROOT + "/{dataset:id}:rows", response_model=Rows)
async def rows(
    dataset: str,
    services: Provided,
    split: Split = Split.ALL,
    limit: Annotated[int, Query(ge=1, le=MAX_ROWS)] = 20,
) -> JSONResponse:
    """The first rows of one side of the split, with their line numbers beside them."""
    return await services.lanes.rows.run(_rows, services, dataset, split, limit)


def _rows(services: Services, dataset: str, split: Split, limit: int) -> JSONResponse:
    found = rows_of(services.home, ready_dataset(services, dataset), split)
    shown = found[:limit]
    return JSONResponse(
        {"rows": [row.data for row in shown], "lines": [row.line for row in shown], "totalSize": len(found)}
    )


@router.get(ROOT + "/{dataset:id}:overlap", response_model=Overlap)
async def overlap(dataset: str, other: str, services: Provided) -> JSONResponse:
    """Rows that stand in both datasets."""
    return reply(await services.lanes.rows.run(datasets.find_overlap, services, dataset, other))


@router.get(ROOT + "/{dataset:id}:preview", response_model=Preview)
async def preview(
    dataset: str, model: str, services: Provided, limit: Annotated[int, Query(ge=1, le=50)] = 3
) -> JSONResponse:
    """The first rows as tokens, each with whether the loss counts it."""
    found = await services.lanes.rows.run(datasets.preview_rows, services, dataset, model, limit)
    return JSONResponse({"rows": [[token.to_wire() for token in row] for row in found]})


@router.get(ROOT + "/{dataset:id}", response_model=Dataset)
def get(dataset: str, services: Provided) -> JSONResponse:
    """One dataset."""
    return reply(services.store.datasets.get(resource_id(dataset, "datasets")))


@router.delete(ROOT + "/{dataset:id}", response_model=Empty)
def delete(dataset: str, services: Provided) -> JSONResponse:
    """Remove a dataset that no unfinished job uses."""
    datasets.delete(services, resource_id(dataset, "datasets"))
    return JSONResponse({})
