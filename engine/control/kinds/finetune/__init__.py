"""Supervised fine-tunes: from a base model and rows to an adapter."""

from pathlib import Path

from engine.control.jobs.kind import Creation, Hooks, Kind
from engine.control.jobs.program import python
from engine.control.jobs.resources import WHOLE, Resources
from engine.control.kinds.finetune.creation import draft, reserve_output, trained
from engine.control.kinds.models_made import model_expected, model_unmade
from engine.jobs.files import size_bytes
from fw_sdk.types import Job, SupervisedFineTuning
from fw_sdk.types.training import FINETUNE as TYPE

FLOATS_PER_WEIGHT = 4
"""Bytes in memory for each byte of 8-bit weights; an adapter's own tensors are small beside them."""


def _needs(job: Job) -> Resources:
    weights = size_bytes(Path(str(job.spec.get("basePath", ""))))
    return Resources(cores=WHOLE, memory_bytes=FLOATS_PER_WEIGHT * weights, devices=1)


FINETUNE = Kind(
    TYPE,
    python("engine.training.job"),
    needs=_needs,
    hooks=Hooks(trained, model_unmade, model_expected),
    creation=Creation(SupervisedFineTuning, draft, reserve=reserve_output),
)
