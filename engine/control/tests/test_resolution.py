"""What a name stands for, by one rule; one that is no usable model says what it is."""

import pytest

from engine.control.inventory.resolution import DEPLOYMENTS, MODELS, named_model, ready_model, resolve
from engine.control.kinds.pull.creation import requested_source
from engine.control.store import Store
from fw_sdk.types import (
    Deployment,
    FineTuningJob,
    FwError,
    JobKind,
    JobState,
    Model,
    ModelKind,
    ModelState,
    Pipeline,
)


@pytest.fixture
def store(tmp_path):
    found = Store(tmp_path / "fw.db")
    yield found
    found.close()


def served(store, name):
    return resolve(store, name, DEPLOYMENTS)


def model(identifier, state=ModelState.READY, job=None):
    name = f"accounts/local/models/{identifier}"
    return Model(name=name, kind=ModelKind.ADAPTER, state=state, job=job and f"accounts/local/jobs/{job}")


def refusal(lookup, *arguments) -> FwError:
    with pytest.raises(FwError) as found:
        lookup(*arguments)
    return found.value


@pytest.mark.parametrize("lookup", [named_model, ready_model, served, requested_source])
@pytest.mark.parametrize(
    ("state", "words"),
    [(JobState.RUNNING, "still runs, and makes 'train-1-tuned'"), (JobState.CANCELLED, "cancelled.")],
)
def test_the_name_of_a_job_is_told_from_a_wrong_name(store, lookup, state, words):
    store.jobs.create(
        Pipeline(
            name="accounts/local/pipelines/train-1",
            kind=JobKind.PIPELINE,
            state=state,
            makes="accounts/local/models/train-1-tuned",
        )
    )
    error = refusal(lookup, store, "train-1")
    assert error.code == "not_found" and error.details == {"endedJob" if state.ended else "job": "train-1"}
    assert error.message.startswith("'train-1' is a job, not a model") and words in error.message


@pytest.mark.parametrize("lookup", [named_model, served, requested_source])
def test_a_job_that_ended_well_names_its_model(store, lookup):
    job = FineTuningJob(
        name="accounts/local/supervisedFineTuningJobs/ft-1",
        kind=JobKind.FINETUNE,
        state=JobState.COMPLETED,
        makes="accounts/local/models/days-lora",
    )
    made = model("days-lora").model_copy(update={"job": job.name})
    store.models.create(made)
    store.jobs.create(job)
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


@pytest.mark.parametrize("full", ["accounts/local/{}/x", "{}/x"])
@pytest.mark.parametrize("first", [MODELS, DEPLOYMENTS])
def test_a_full_name_means_exactly_that_and_a_bare_id_the_collection_that_is_spoken_of(store, full, first):
    store.models.create(model("x"))
    store.deployments.create(Deployment(name="accounts/local/deployments/x", base_model="accounts/local/models/y"))
    for collection in (MODELS, DEPLOYMENTS):
        named = resolve(store, full.format(collection), first)
        assert named.found.name == f"accounts/local/{collection}/x" and named.shadowed is None
    named = resolve(store, "x", first)
    assert named.found.name == f"accounts/local/{first}/x" and named.shadowed.id == "x"
    store.models.delete("x")
    assert resolve(store, "x", first).found.name == "accounts/local/deployments/x"
    assert refusal(resolve, store, full.format("models"), first).code == "not_found"
