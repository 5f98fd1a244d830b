"""``/v1/accounts/local/evaluationJobs``: what only evaluations have."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import JSONResponse

from engine.control.evidence.scores import page_of_scores
from engine.control.http.bodies import PageSize, PageToken, page_of, reply_page
from engine.control.http.routes.jobs import job_id
from engine.control.http.services import Provided
from fw_sdk.types import RowScore

router = APIRouter()


@router.get("/v1/accounts/local/evaluationJobs/{job:id}:scores", response_model=page_of("scores", RowScore))
def scores(job: str, services: Provided, size: PageSize = 0, token: PageToken = None) -> JSONResponse:
    """Every row's score, answer and error."""
    return reply_page("scores", page_of_scores(services, job_id(job), size, token))
