"""Models as clients see them: base weights, adapters, and where they came from."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from pydantic import Field

from fw_sdk.types.base import RequestBody, Resource, Wire
from fw_sdk.types.datasets import Split
from fw_sdk.types.jobs import Job, JobKind
from fw_sdk.types.kinds import JobType, register_job_type


class ModelState(StrEnum):
    """UPLOADING while a pull or a training writes it; READY when its digest is known; else how its job ended."""

    UPLOADING = "UPLOADING"
    READY = "READY"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"

    @property
    def unmade(self) -> bool:
        """Whether the job that was to make it ended without it; it may be made again under the same name."""
        return self in (ModelState.FAILED, ModelState.CANCELLED)


class ModelKind(StrEnum):
    """Base weights or a LoRA adapter, as the hosted API names them."""

    BASE = "HF_BASE_MODEL"
    ADAPTER = "HF_PEFT_ADDON"


class PeftDetails(Wire):
    """What an adapter changes."""

    base_model: str
    r: int
    alpha: float
    target_modules: list[str]


class Lineage(Wire):
    """What a tuned model was made from: base weights and the rows of one side of a split, each with its digest."""

    base_model: str
    base_digest: str
    dataset: str | None = None
    dataset_digest: str | None = None
    split: Split | None = None
    heldout_fraction: float | None = None
    split_seed: int | None = None
    job: str | None = None
    training: dict[str, Any] = Field(default_factory=dict)


class Model(Resource):
    """Base weights or an adapter, by name."""

    kind: ModelKind
    state: ModelState = ModelState.UPLOADING
    digest: str | None = None
    path: str | None = None
    bytes: int = 0
    parameters: int | None = None
    context_length: int | None = None
    source: str | None = None
    licence: str | None = None
    peft_details: PeftDetails | None = None
    lineage: Lineage | None = None
    job: str | None = None


class PullModel(RequestBody):
    """Body of ``POST /models:pull``.

    ``source`` is a starter's name, ``hf:org/name[@revision][:variant]``, or a folder or GGUF file on this machine.
    """

    source: str
    model_id: str | None = None


class PullEstimate(Wire):
    """What a pull would take, before it runs; 0 bytes and ``present`` if the model is here already.

    ``disk_bytes`` is needed at the most while it runs; for a hub's sharded model both sizes are upper bounds.
    """

    source: str
    model_id: str
    present: bool
    download_bytes: int
    disk_bytes: int
    disk_free_bytes: int
    fits: bool
    licence: str | None = None


PULL = register_job_type(JobType(JobKind.PULL, Job, collection="jobs", noun="pull", shown=("displayName", "makes")))
