"""Pipelines: the whole loop as one object that the server holds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fw_sdk.calls import Call, Listing, Steps
from fw_sdk.operations import jobs, paths
from fw_sdk.types import CreatePipeline, JobEvent, JobPlan, Pipeline, parse_request

COLLECTION = "pipelines"


def create(
    base_model: str, dataset: str, evaluator: str, *, id: str | None = None, reuse: bool = False, **fields: Any
) -> Call[Pipeline]:
    """Start check → baselines → fine-tune → evaluation → comparison → gated deployment.

    Args:
        base_model: the base model's id.
        dataset: the dataset to train on.
        evaluator: what scores the answers.
        id: the pipeline's id; the same id with an equal request returns the pipeline that exists.
        reuse: return the pipeline that did the same work with the same digests, if there is one.
        fields: more fields of ``CreatePipeline`` (evaluation_dataset, training, gate, …); an unknown one is an error.
    """
    body = _body(id, base_model, dataset, evaluator, fields)
    return paths.start(Pipeline, COLLECTION, body, reuse=reuse)


def plan(base_model: str, dataset: str, evaluator: str, *, id: str | None = None, **fields: Any) -> Call[JobPlan]:
    """The id that ``create`` with ``reuse`` and the same arguments would give. Starts nothing."""
    return paths.plan(COLLECTION, _body(id, base_model, dataset, evaluator, fields))


def _body(id: str | None, base_model: str, dataset: str, evaluator: str, fields: dict[str, Any]) -> dict[str, Any]:
    request = paths.present(pipeline_id=id, base_model=base_model, dataset=dataset, evaluator=evaluator, **fields)
    return parse_request(CreatePipeline, request, not_done="nothing was started").to_wire()


def get(pipeline: str) -> Call[Pipeline]:
    """One pipeline by id or full name."""
    return paths.get(Pipeline, COLLECTION, pipeline)


def list_all(*, page_size: int = 50) -> Listing[Pipeline]:
    """Every pipeline, newest first."""
    return paths.listing(Pipeline, COLLECTION, page_size)


def cancel(pipeline: str) -> Call[Pipeline]:
    """Stop a pipeline and the job of its current step; finished steps stay."""
    return paths.act(Pipeline, COLLECTION, pipeline, "cancel")


def resume(pipeline: str) -> Call[Pipeline]:
    """Go on with the first step that is not done."""
    return paths.act(Pipeline, COLLECTION, pipeline, "resume")


def wait(
    pipeline: str, *, timeout_s: float | None = None, on_event: Callable[[JobEvent], object] | None = None
) -> Steps[Pipeline]:
    """Wait until a pipeline has ended, however; see ``jobs.wait``."""
    ended = yield from jobs.wait(pipeline.rsplit("/", 1)[-1], timeout_s=timeout_s, on_event=on_event)
    return ended if isinstance(ended, Pipeline) else (yield from get(pipeline))
