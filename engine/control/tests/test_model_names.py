"""A name that is no usable model says what it is: a job that makes one, or a model whose job came to nothing."""

import pytest

from engine.control.inventory.resolution import named_model, ready_model
from engine.control.kinds.pull.creation import requested_source
from engine.control.serving.targets import find_served
from engine.control.store import Store
from fw_sdk.types import (
    CreatePipeline,
    FineTuningJob,
    FwError,
    JobKind,
    JobState,
    Model,
    ModelKind,
    ModelState,
    Pipeline,
)

PIPELINE = CreatePipeline(base_model="base", dataset="rows", evaluator="exact").to_wire()


@pytest.fixture
def store(tmp_path):
    found = Store(tmp_path / "fw.db")
    yield found
    found.close()


def model(identifier, state=ModelState.READY, job=None):
    name = f"accounts/local/models/{identifier}"
    return Model(name=name, kind=ModelKind.ADAPTER, state=state, job=job and f"accounts/local/jobs/{job}")


def refusal(lookup, *arguments) -> FwError:
    with pytest.raises(FwError) as found:
        lookup(*arguments)
    return found.value


@pytest.mark.parametrize("lookup", [named_model, ready_model, find_served, requested_source])
@pytest.mark.parametrize(
    ("state", "words"),
    [(JobState.RUNNING, "still runs, and makes 'train-1-tuned'"), (JobState.CANCELLED, "cancelled.")],
)
def test_the_name_of_a_job_is_told_from_a_wrong_name(store, lookup, state, words):
    store.jobs.create(
        Pipeline(name="accounts/local/pipelines/train-1", kind=JobKind.PIPELINE, state=state, request=PIPELINE)
    )
    error = refusal(lookup, store, "train-1")
    assert error.code == "not_found" and error.details == {"endedJob" if state.ended else "job": "train-1"}
    assert error.message.startswith("'train-1' is a job, not a model") and words in error.message


@pytest.mark.parametrize("lookup", [named_model, find_served, requested_source])
def test_a_job_that_ended_well_names_its_model(store, lookup):
    job = FineTuningJob(
        name="accounts/local/supervisedFineTuningJobs/ft-1",
        kind=JobKind.FINETUNE,
        state=JobState.COMPLETED,
        output_model="accounts/local/models/days-lora",
    )
    store.jobs.create(job)
    store.models.create(model("days-lora"))
    assert refusal(lookup, store, "ft-1").details == {"didYouMean": "days-lora"}
    store.models.create(model("ft-1"))
    assert requested_source(store, "smollm2-135m") == "smollm2-135m"
    assert named_model(store, "ft-1").id == "ft-1"


@pytest.mark.parametrize(
    ("job_state", "model_state", "words", "hint"),
    [
        (JobState.RUNNING, ModelState.UPLOADING, "still runs", "wait for job 'ft-2'"),
        (JobState.CANCELLED, ModelState.FAILED, "was cancelled", "goes on"),
        (JobState.FAILED, ModelState.FAILED, "failed", "says why"),
    ],
)
def test_a_model_that_is_not_there_says_how_its_job_stands(store, job_state, model_state, words, hint):
    store.models.create(model("tuned", model_state, "ft-2"))
    name = "accounts/local/supervisedFineTuningJobs/ft-2"
    store.jobs.create(FineTuningJob(name=name, kind=JobKind.FINETUNE, state=job_state))
    error = refusal(ready_model, store, "tuned")
    assert error.code == "failed_precondition"
    assert error.details == {"endedJob" if job_state.ended else "job": "ft-2"}
    assert f"its job 'ft-2' {words}" in error.message and hint in error.hint
