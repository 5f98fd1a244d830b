"""The whole loop in one call: ``fw.customize(base, data, evaluator)``."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, overload

from fw_sdk.client import Client
from fw_sdk.daemon import ensure_daemon
from fw_sdk.ensure import ensure_dataset, ensure_evaluator, ensure_model
from fw_sdk.exceptions import raises_typed, typed
from fw_sdk.files import Rows
from fw_sdk.operations.inference import Messages
from fw_sdk.operations.jobs import raise_if_failed
from fw_sdk.types import (
    Comparison,
    CreatePipeline,
    FwError,
    InferenceParameters,
    JobEvent,
    JobState,
    Pipeline,
    PipelineResult,
    TrainingConfig,
    Wire,
    nearest,
    parse_request,
)
from fw_sdk.types.home import Home

OnEvent = Callable[[JobEvent], object]

TRAINING_FIELDS = frozenset(TrainingConfig.model_fields)
LOOP_FIELDS = frozenset(CreatePipeline.model_fields) - {
    *("pipeline_id", "base_model", "dataset", "evaluator", "evaluation_dataset", "deploy")
}
NESTED_FIELDS = {
    "training": TRAINING_FIELDS,
    "inference_parameters": frozenset(InferenceParameters.model_fields) - TRAINING_FIELDS,
    "gate": frozenset({"margin", "min_score"}),
}
"""Options that may stand by themselves, by the field of ``CreatePipeline`` that they belong to. A plain ``seed`` is the
training's."""


@dataclass(frozen=True)
class Result:
    """What the loop came to.

    Attributes:
        pipeline: the ended pipeline, with its steps.
        outcome: its result: models, evaluations, baselines, timings, loss.
    """

    pipeline: Pipeline
    outcome: PipelineResult
    _client: Client = field(repr=False)

    @property
    def comparison(self) -> Comparison | None:
        """The tuned model against the best baseline, row by row, with interval and verdict."""
        return self.outcome.comparison

    @property
    def deployment(self) -> str | None:
        """Id of the deployment; None where nothing was deployed."""
        return self.outcome.deployment and self.outcome.deployment.rsplit("/", 1)[-1]

    @property
    def deployed_because(self) -> str | None:
        """Why the model is served: the gate that held and its numbers; None where nothing was deployed."""
        return self.outcome.deployed_because or None

    @property
    def not_deployed_because(self) -> str | None:
        """Why nothing was deployed: the gate that did not hold, or that it was not wanted; else None."""
        return self.outcome.not_deployed_because or None

    @property
    def model(self) -> str:
        """Id of the base model."""
        return self.outcome.model.rsplit("/", 1)[-1]

    @property
    def adapter(self) -> str | None:
        """Id of the tuned model: an adapter on the base."""
        return self.outcome.adapter and self.outcome.adapter.rsplit("/", 1)[-1]

    @overload
    def chat(self, messages: Messages, *, stream: Literal[False] = False, **sampling: Any) -> str: ...
    @overload
    def chat(self, messages: Messages, *, stream: Literal[True], **sampling: Any) -> Iterator[str]: ...
    def chat(self, messages: Messages, *, stream: bool = False, **sampling: Any) -> str | Iterator[str]:
        """Ask the deployment; the tuned model itself where nothing was deployed. See ``Client.chat``.

        An answer is as long as scored ones may be, unless ``max_tokens`` says otherwise.
        """
        model = self.deployment or self.adapter or self.model
        scored = (self.pipeline.request.get("inferenceParameters") or {}).get("maxTokens")
        sampling.setdefault("max_tokens", scored or InferenceParameters().max_tokens)
        if stream:
            return self._client.chat(model, messages, stream=True, **sampling)
        return self._client.chat(model, messages, stream=False, **sampling)


@raises_typed
def customize(
    base: str | Path,
    data: str | Path | Rows,
    evaluator: str | Path,
    *,
    heldout: str | Path | Rows | None = None,
    deploy: bool = True,
    rerun: bool = False,
    on_event: OnEvent | None = None,
    timeout_s: float | None = None,
    client: Client | None = None,
    **options: Any,
) -> Result:
    """Check, evaluate, fine-tune, evaluate again, compare on the same rows, and deploy if the comparison allows it.

    Everything is keyed by content: the same rows and evaluator are stored once, and the same inputs give the pipeline
    that already ran (a failed or cancelled one goes on from its first step that is not done). ``rerun=True`` starts
    afresh.

    Args:
        base: a model's id, a starter's name (pulled if missing), or a folder or ``.gguf`` file.
        data: rows to train on: a JSONL file, a list of dicts, or the id of a READY dataset.
        evaluator: a Python file with ``evaluate(messages, ground_truth=None, **row)``, its source, or the id of one.
        heldout: rows to score on; without them a tenth of ``data`` is held out.
        deploy: serve the tuned model if the gate holds: its comparison is *better*, unless ``gate`` says otherwise.
        rerun: do not return an equal pipeline that ran before.
        on_event: called with each event of the pipeline.
        timeout_s: seconds to wait; the pipeline goes on when they are over.
        client: a client to use; by default the daemon of ``FW_HOME``, which is started if none runs.
        options: fields of ``TrainingConfig`` (epochs, learning_rate, lora_rank, seed, …) and of ``CreatePipeline``
            (few_shot_count, gate, evaluation_limit, inference_parameters, deployment_id, output_model, force_deploy).
            What these hold may stand by itself too: ``max_tokens``, ``temperature``, ``top_p``, ``margin``,
            ``min_score``.

    Raises:
        NotFoundError: no such file, model, dataset or evaluator.
        DatasetInvalidError, EvaluatorInvalidError: nothing was trained; ``details`` say where.
        JobFailedError: a step failed; ``details["failure"]`` has its typed reason.
    """
    fields = start_options(options)
    client = client or _connect()
    pipeline = start_pipeline(
        client, base, data, evaluator, heldout=heldout, rerun=rerun, fields={**fields, "deploy": deploy}
    )
    ended = client.pipelines.wait(pipeline.id, timeout_s=timeout_s, on_event=on_event)
    raise_if_failed(ended)
    return result_of(client, ended)


def result_of(client: Client, pipeline: Pipeline) -> Result:
    """The result of a completed pipeline."""
    if pipeline.outcome is None:
        raise typed(FwError("internal", f"Pipeline '{pipeline.id}' ended without an outcome", hint="fw logs"))
    return Result(pipeline, pipeline.outcome, client)


def start_pipeline(
    client: Client,
    base: str | Path,
    data: str | Path | Rows,
    evaluator: str | Path,
    *,
    heldout: str | Path | Rows | None = None,
    rerun: bool = False,
    fields: dict[str, Any] | None = None,
) -> Pipeline:
    """Register what is missing and start, find or resume the pipeline; ``fields`` are those of ``CreatePipeline``."""
    model = ensure_model(client, base)
    scored_by = ensure_evaluator(client, evaluator)
    rows = ensure_dataset(client, data)
    held = None if heldout is None else ensure_dataset(client, heldout)
    request = {
        **(fields or {}),
        "base_model": model.id,
        "dataset": rows.id,
        "evaluator": scored_by.id,
        "evaluation_dataset": held and held.id,
    }
    body = parse_request(CreatePipeline, request, not_done="nothing was started")
    named = body.model_dump(exclude_none=True, exclude={"base_model", "dataset", "evaluator", "pipeline_id"})
    pipeline = client.pipelines.create(model.id, rows.id, scored_by.id, reuse=not rerun, **named)
    if pipeline.state in (JobState.FAILED, JobState.CANCELLED):
        return client.pipelines.resume(pipeline.id)
    return pipeline


def _connect() -> Client:
    if not os.environ.get("FW_BASE_URL"):
        return Client(base_url=ensure_daemon(Home.from_environment()))
    return Client()


def start_options(options: dict[str, Any]) -> dict[str, Any]:
    """Fields of ``CreatePipeline`` from the options of ``customize``, of which those of its parts may stand alone."""
    known = LOOP_FIELDS.union(*NESTED_FIELDS.values())
    for name in sorted(set(options) - known):
        near = nearest(name, known)
        hint = f"did you mean '{near}'?" if near else f"known: {', '.join(sorted(known))}"
        message = f"unknown option '{name}'"
        raise typed(FwError("invalid_argument", message, not_done="nothing was started", hint=hint, param=name))
    fields = {name: value for name, value in options.items() if name in LOOP_FIELDS}
    for whole, parts in NESTED_FIELDS.items():
        alone = {name: value for name, value in options.items() if name in parts}
        if alone:
            fields[whole] = {**_as_fields(fields.get(whole), whole), **alone}
    return fields


def _as_fields(value: Any, name: str) -> dict[str, Any]:
    """The fields of a wire type that was given as what it is, as a dict, or not at all."""
    if isinstance(value, Wire):
        return value.model_dump(exclude_unset=True)
    if value is None or isinstance(value, Mapping):
        return dict(value or {})
    message = f"'{name}' must be a dict of its fields, got {value!r:.80}"
    raise typed(FwError("invalid_argument", message, not_done="nothing was started", param=name))
