"""Pulls: base models brought to this machine."""

from engine.catalog.hub import VARIABLES
from engine.control.jobs.kind import Hooks, Kind
from engine.control.jobs.program import python
from engine.control.jobs.resources import Resources
from engine.control.kinds.models_made import model_expected, model_unmade
from engine.control.kinds.pull.creation import pulled
from fw_sdk.types.models import PULL as TYPE

TIMEOUT_S = 24 * 3600.0

PULL = Kind(
    TYPE,
    python("engine.catalog.pull"),
    needs=lambda _job: Resources(downloads=1),
    hooks=Hooks(pulled, model_unmade, model_expected),
    timeout_s=TIMEOUT_S,
    variables=VARIABLES,
)
