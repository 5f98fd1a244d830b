"""Pipelines as jobs: what is asked for, and the plan that follows; ``workflows`` carries them forward."""

from engine.control.jobs.kind import Creation, Kind
from engine.control.kinds.pipeline.creation import draft, name_output
from engine.control.kinds.pipeline.plan import LONGEST_ID
from fw_sdk.types import CreatePipeline
from fw_sdk.types.pipeline import PIPELINE as TYPE

PIPELINE = Kind(
    TYPE,
    creation=Creation(
        CreatePipeline,
        draft,
        identifier=lambda request: request.pipeline_id,
        reserve=name_output,
        longest_id=LONGEST_ID,
    ),
)
