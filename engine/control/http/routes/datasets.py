"""``/v1/accounts/local/datasets``."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse

from engine.control.http.bodies import (
    JsonBody,
    PageSize,
    PageToken,
    reply,
    reply_page,
    uploaded_file,
    uploaded_files,
)
from engine.control.http.services import Provided
from engine.control.inventory import datasets
from engine.control.inventory.dataset_rows import SplitRule
from engine.control.inventory.references import ready_dataset, rows_of
from fw_sdk.types import CreateDataset, DatasetFields, FwError, Split, parse_request, resource_id

ROOT = "/v1/accounts/local/datasets"
MAX_ROWS = 1000

router = APIRouter()


@router.post(ROOT)
def create(services: Provided, body: JsonBody) -> JSONResponse:
    """A new dataset that waits for its rows."""
    request = parse_request(CreateDataset, body, not_done="no dataset was created")
    return reply(datasets.create(services, request))


@router.get(ROOT)
def list_all(services: Provided, size: PageSize = 0, token: PageToken = None) -> JSONResponse:
    """Datasets, newest first."""
    return reply_page("datasets", services.store.datasets.list(size, token))


@router.post(ROOT + ":check")
async def check(request: Request, services: Provided) -> JSONResponse:
    """Validate rows and store nothing."""
    defaults = DatasetFields()
    rule = SplitRule(defaults.heldout_fraction, defaults.split_seed)
    async with uploaded_file(request, services.home.datasets) as file:
        found = await run_in_threadpool(datasets.check, services, file, rule)
    return reply(found.report)


@router.post(ROOT + ":overlap")
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
        return reply(await run_in_threadpool(datasets.find_overlap_of_files, services, one, two))


@router.post(ROOT + "/{dataset}:upload")
async def upload(dataset: str, request: Request, services: Provided) -> JSONResponse:
    """Give a dataset its rows; it is READY when this returns."""
    identifier = resource_id(dataset, "datasets")
    await services.store.run(services.store.datasets.get, identifier)
    async with uploaded_file(request, services.home.datasets) as file:
        return reply(await run_in_threadpool(datasets.upload, services, identifier, file))


@router.get(ROOT + "/{dataset}:rows")
def rows(
    dataset: str,
    services: Provided,
    split: Split = Split.ALL,
    limit: Annotated[int, Query(ge=1, le=MAX_ROWS)] = 20,
) -> JSONResponse:
    """The first rows of one side of the split, with their line numbers beside them."""
    found = rows_of(services.home, ready_dataset(services, dataset), split)
    shown = found[:limit]
    body = {"rows": [row.data for row in shown], "lines": [row.line for row in shown], "totalSize": len(found)}
    return JSONResponse(body)


@router.get(ROOT + "/{dataset}:overlap")
def overlap(dataset: str, other: str, services: Provided) -> JSONResponse:
    """Rows that stand in both datasets."""
    return reply(datasets.find_overlap(services, dataset, other))


@router.get(ROOT + "/{dataset}:preview")
def preview(
    dataset: str, model: str, services: Provided, limit: Annotated[int, Query(ge=1, le=50)] = 3
) -> JSONResponse:
    """The first rows as tokens, each with whether the loss counts it."""
    found = datasets.preview_rows(services, dataset, model, limit)
    return JSONResponse({"rows": [[token.to_wire() for token in row] for row in found]})


@router.get(ROOT + "/{dataset}")
def get(dataset: str, services: Provided) -> JSONResponse:
    """One dataset."""
    return reply(services.store.datasets.get(resource_id(dataset, "datasets")))


@router.delete(ROOT + "/{dataset}")
def delete(dataset: str, services: Provided) -> JSONResponse:
    """Remove a dataset that no unfinished job uses."""
    datasets.delete(services, resource_id(dataset, "datasets"))
    return JSONResponse({})
