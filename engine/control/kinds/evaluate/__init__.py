"""Evaluations: a model's answers to a dataset's rows, scored by an evaluator."""

from engine.control.jobs.kind import Creation, Hooks, Kind
from engine.control.jobs.program import python
from engine.control.jobs.resources import WHOLE, Resources
from engine.control.kinds.evaluate.creation import draft, scored
from fw_sdk.types import CreateEvaluation
from fw_sdk.types.evaluation import EVALUATE as TYPE

EVALUATE = Kind(
    TYPE,
    python("engine.evals.job"),
    needs=lambda _job: Resources(cores=WHOLE, devices=1),
    hooks=Hooks(completed=scored),
    creation=Creation(CreateEvaluation, draft, identifier=lambda request: request.evaluation_job_id),
)
