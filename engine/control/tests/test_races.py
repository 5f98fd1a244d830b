"""Races on purpose: what two clients do at the same moment, each against each, and what must be true afterwards."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from engine.catalog.digests import digest_model
from engine.control.inventory import datasets
from engine.control.jobs.creation import create
from engine.control.jobs.program import python
from engine.control.kinds import KINDS
from engine.control.kinds.finetune import FINETUNE
from engine.control.tests.support import (
    LITTLE,
    ROOT,
    error_of,
    running_app,
    submit_little,
    upload,
    wait_ended,
    wait_for,
    write_rows,
)
from fw_sdk.types import DatasetState, FwError, JobKind, JobState, Model, ModelKind, ModelState, SupervisedFineTuning

SCORES = "def evaluate(messages, ground_truth=None, **row):\n    return 1.0\n"


def together(*works: Callable[[], Any]) -> list[Any]:
    """Run all at the same moment, in threads; what each returned, or the ``FwError`` that it raised."""
    gate = threading.Barrier(len(works))

    def run(work: Callable[[], Any]) -> Any:
        gate.wait()
        try:
            return work()
        except FwError as error:
            return error

    with ThreadPoolExecutor(len(works)) as pool:
        return list(pool.map(run, works))


def statuses(replies: list[httpx.Response]) -> list[int]:
    for reply in replies:
        assert reply.status_code < 500, reply.text
    return sorted(reply.status_code for reply in replies)


def ready_base(services: Any, folder: Path, name: str = "tiny") -> None:
    """A READY base model whose files are ``folder``, as a finished pull leaves it."""
    fields = {"path": str(folder), "digest": digest_model(folder), "state": ModelState.READY, "context_length": 256}
    services.store.models.create(Model(name=f"accounts/local/models/{name}", kind=ModelKind.BASE, **fields))


@pytest.fixture
def served(home: Any, little: None, monkeypatch: pytest.MonkeyPatch, tiny_llama_dir: Path) -> Iterator[Any]:
    """(client, services) of an app with a base model; its evaluations run the little program too."""
    monkeypatch.setitem(KINDS, JobKind.EVALUATE, replace(KINDS[JobKind.EVALUATE], program=python(LITTLE)))
    with running_app(home) as (client, app):
        ready_base(app.state.services, tiny_llama_dir)
        client.post(f"{ROOT}/evaluatorsV2", json={"evaluatorId": "ev", "source": SCORES}).raise_for_status()
        yield client, app.state.services


def evaluation(identifier: str, **fields: Any) -> dict[str, Any]:
    body = {"model": "tiny", "inputDataset": "rows", "evaluator": "ev", "inputSplit": "all"}
    return {"evaluationJobId": identifier, "evaluationJob": {**body, **fields}}


def test_of_many_resumes_one_is_an_attempt(server: Any) -> None:
    client, services = server
    submit_little(services, "j", end="typed", steps=2)
    for turn in range(1, 5):
        assert wait_ended(services.store, "j").attempt == turn
        resumes = [lambda: client.post(f"{ROOT}/jobs/j:resume", json={})] * 5
        assert statuses(together(*resumes)) == [200, 409, 409, 409, 409]
    ended = wait_ended(services.store, "j")
    assert (ended.state, ended.attempt) == (JobState.FAILED, 5)
    assert (services.jobs.directory("j") / "work.txt").read_text() == "1\n2\n", "no two programs ran at once"
    told = [event.data for event in services.store.jobs.events("j") if event.type == "state"]
    assert [data["attempt"] for data in told] == [turn for turn in range(1, 6) for _ in range(3)]


def test_a_resumed_job_that_fails_at_once_leaves_no_model_that_waits(server: Any) -> None:
    _, services = server
    name = "accounts/local/models/m"
    services.store.models.create(Model(name=name, kind=ModelKind.BASE, job="accounts/local/jobs/j"))
    submit_little(services, "j", end="typed", steps=0)
    for _ in range(4):
        wait_ended(services.store, "j")
        cancel, resume = (lambda: services.jobs.cancel("j")), (lambda: services.jobs.resume("j"))
        together(resume, cancel, resume, cancel)
    job = wait_ended(services.store, "j")
    wanted = ModelState.CANCELLED if job.state is JobState.CANCELLED else ModelState.FAILED
    assert services.store.models.get("m").state is wanted


def made_once_free(services: Any) -> Any:
    """The job ``j``; None as long as its name is taken."""
    made = together(lambda: submit_little(services, "j", steps=4, step_s=0.05))[0]
    return None if isinstance(made, FwError) else made


def test_a_job_made_while_one_of_its_name_is_deleted_keeps_its_folder(server: Any) -> None:
    _, services = server
    for turn in range(3):
        submit_little(services, "j", steps=1)
        assert wait_ended(services.store, "j").state is JobState.COMPLETED, turn
        for number in range(1500):
            (services.jobs.directory("j") / f"checkpoint-{number}").touch()

        together(lambda: services.jobs.delete("j"), lambda: wait_for(lambda: made_once_free(services)))
        job = wait_ended(services.store, "j")
        assert (job.state, job.attempt, job.generation) == (JobState.COMPLETED, 1, 2 * turn + 2), job.failure
        assert sorted(path.name for path in services.jobs.directory("j").iterdir() if "check" in path.name) == []
        assert (services.jobs.directory("j") / "work.txt").read_text() == "1\n2\n3\n4\n"
        services.jobs.delete("j")
    assert list(services.home.jobs.iterdir()) == []


@pytest.mark.parametrize("again", [False, True], ids=["deleted", "replaced"])
@pytest.mark.parametrize("gone", ["datasets/rows", "evaluators/ev"])
def test_a_job_is_not_resumed_without_what_it_uses(served: Any, tmp_path: Path, gone: str, again: bool) -> None:
    client, services = served
    upload(client, "rows", write_rows(tmp_path / "rows", 4)).raise_for_status()
    client.post(f"{ROOT}/evaluationJobs", json=evaluation("e")).raise_for_status()
    assert wait_ended(services.store, "e").state is JobState.FAILED
    client.delete(f"{ROOT}/{gone}").raise_for_status()
    if again:
        upload(client, "rows", write_rows(tmp_path / "rows", 4, "other")) if "rows" in gone else None
        client.post(f"{ROOT}/evaluatorsV2", json={"evaluatorId": "ev", "source": SCORES + "# new\n"})
    refused = client.post(f"{ROOT}/jobs/e:resume", json={})
    error = error_of(refused)
    assert refused.status_code == 409 and error["code"] == "failed_precondition"
    assert ("replaced" if again else "deleted") in refused.json()["message"] and "not resumed" in error["notDone"]
    assert services.store.jobs.get("e").attempt == 1


def test_what_a_resume_needs_and_a_delete_takes_are_not_both_given(served: Any, tmp_path: Path) -> None:
    client, services = served
    for turn in range(4):
        upload(client, "rows", write_rows(tmp_path / "rows", 4, f"{turn}")).raise_for_status()
        client.post(f"{ROOT}/evaluationJobs", json=evaluation(f"e{turn}")).raise_for_status()
        wait_ended(services.store, f"e{turn}")
        resumed, deleted = together(
            lambda turn=turn: client.post(f"{ROOT}/jobs/e{turn}:resume", json={}),
            lambda: client.delete(f"{ROOT}/datasets/rows"),
        )
        assert statuses([resumed, deleted]) == [200, 409]
        wait_ended(services.store, f"e{turn}")
        client.delete(f"{ROOT}/datasets/rows")


def test_a_model_and_the_job_that_makes_it_come_and_go_together(server: Any, tiny_llama_dir: Path) -> None:
    client, services = server
    body = {"source": str(tiny_llama_dir), "modelId": "m"}
    for _ in range(40):
        replies = together(
            lambda: client.post(f"{ROOT}/models:pull", json=body),
            lambda: client.delete(f"{ROOT}/models/m"),
            lambda: client.post(f"{ROOT}/models:pull", json=body),
            lambda: [client.post(f"{ROOT}/jobs/{job.id}:cancel", json={}) for job in services.store.jobs.unended()],
            lambda: client.post(f"{ROOT}/models:pull", json=body),
        )
        statuses([reply for reply in replies if isinstance(reply, httpx.Response)])
        unended = services.store.jobs.unended()
        assert len(unended) <= 1, "one model, one job"
        for job in unended:
            model = services.store.models.find("m")
            assert model is None or model.job == job.name or services.store.jobs.get(job.id).state.ended
            assert model is not None or services.store.jobs.get(job.id).state.ended
    for job in services.store.jobs.unended():
        wait_ended(services.store, job.id)
    model = services.store.models.find("m")
    assert model is None or model.state is not ModelState.UPLOADING


def test_a_model_that_was_reserved_for_a_job_that_was_not_made_is_free(served: Any, tmp_path: Path) -> None:
    client, services = served
    upload(client, "rows", write_rows(tmp_path / "rows", 4)).raise_for_status()
    asked = FINETUNE.creation
    assert asked is not None

    def draft_and_lose(context: Any, request: Any) -> Any:
        found = asked.draft(context, request)
        services.store.datasets.delete("rows")
        return found

    slow = replace(FINETUNE, creation=replace(asked, draft=draft_and_lose))
    request = SupervisedFineTuning(base_model="tiny", dataset="rows", output_model="m")
    with pytest.raises(FwError, match="'rows' was deleted"):
        create(services, slow, request, "ft")
    assert services.store.models.find("m") is None and services.store.jobs.find("ft") is None


def test_reading_rows_while_their_dataset_comes_and_goes_is_never_a_bug_of_ours(served: Any, tmp_path: Path) -> None:
    client, _ = served
    rows = {"file": write_rows(tmp_path / "rows", 40).read_bytes()}
    ended = threading.Event()

    def come_and_go() -> list[httpx.Response]:
        replies = []
        for _ in range(60):
            replies.append(client.post(f"{ROOT}/datasets:upload?datasetId=rows", files=rows))
            replies.append(client.delete(f"{ROOT}/datasets/rows"))
        ended.set()
        return replies

    def read(path: str, body: dict[str, Any] | None = None) -> list[httpx.Response]:
        replies = []
        while not ended.is_set():
            url = f"{ROOT}/{path}"
            replies.append(client.get(url) if body is None else client.post(url, json=body))
        return replies

    check = {"dataset": "rows", "limit": 1}
    found = together(
        come_and_go,
        lambda: read("datasets/rows:rows"),
        lambda: read("datasets/rows:preview?model=tiny"),
        lambda: read("datasets/rows:overlap?other=rows"),
        lambda: read("evaluators/ev:check", check),
        lambda: read("supervisedFineTuningJobs:estimate", {"baseModel": "tiny", "dataset": "rows"}),
    )
    assert set(statuses(found[0])) == {200}
    for replies in found[1:]:
        assert replies and set(statuses(replies)) <= {200, 404, 409}


def test_counts_of_a_deleted_dataset_are_not_written_into_its_successor(served: Any, tmp_path: Path) -> None:
    client, services = served
    model = services.store.models.get("tiny")
    services.store.models.delete("tiny")
    first = write_rows(tmp_path / "rows", 5)
    for name in ("rows", "same"):
        upload(client, name, first).raise_for_status()
    before = services.store.datasets.get("rows")
    assert before.report is not None and before.report.tokens is None
    services.store.models.create(model)
    client.delete(f"{ROOT}/datasets/rows").raise_for_status()
    client.post(f"{ROOT}/datasets", json={"datasetId": "rows"}).raise_for_status()
    with pytest.raises(FwError, match="deleted and created again"):
        datasets.with_tokens(services, before, "tiny")
    assert services.store.datasets.get("rows").state is DatasetState.UPLOADING


def test_a_job_of_a_pipeline_is_there_as_long_as_the_pipeline_runs(served: Any, tmp_path: Path) -> None:
    client, services = served
    services.jobs._draining = True
    upload(client, "rows", write_rows(tmp_path / "rows", 20), heldoutFraction=0.3).raise_for_status()
    body = {"pipelineId": "p", "baseModel": "tiny", "dataset": "rows", "evaluator": "ev"}
    client.post(f"{ROOT}/pipelines", json=body).raise_for_status()
    wait_for(lambda: services.store.jobs.find("p-base"))
    wait_for(lambda: services.store.jobs.get("p").steps[1].job == "p-base")
    services.jobs.cancel("p-base")
    refused = client.delete(f"{ROOT}/jobs/p-base")
    if refused.status_code == 409:
        assert "pipeline 'p'" in refused.json()["message"]
    wait_ended(services.store, "p")
    assert client.delete(f"{ROOT}/jobs/p-base").status_code in (200, 404)


def test_an_equal_key_is_one_job_and_one_reply(served: Any, tmp_path: Path) -> None:
    client, services = served
    upload(client, "rows", write_rows(tmp_path / "rows", 4)).raise_for_status()
    body = {"evaluationJob": evaluation("")["evaluationJob"]}
    for turn in range(5):
        before = services.store.jobs.list(None, 200).total_size
        call = partial(client.post, f"{ROOT}/evaluationJobs", json=body, headers={"idempotency-key": f"k{turn}"})
        replies = together(*[call] * 6)
        assert statuses(replies) == [200] * 6 and len({reply.text for reply in replies}) == 1
        assert services.store.jobs.list(None, 200).total_size == before + 1
    for job in services.store.jobs.unended():
        services.jobs.cancel(job.id)


def test_a_name_is_one_thing_in_each_collection_and_its_full_name_says_which(served: Any, tmp_path: Path) -> None:
    client, services = served
    upload(client, "same", write_rows(tmp_path / "rows", 4)).raise_for_status()
    client.post(f"{ROOT}/evaluatorsV2", json={"evaluatorId": "same", "source": SCORES}).raise_for_status()
    found = services.store.models.get("tiny")
    services.store.models.create(found.model_copy(update={"name": "accounts/local/models/same"}))
    names = {field: f"accounts/local/{kind}/same" for field, kind in FIELDS.items()}
    for identifier, fields in (("same", names), ("other", dict.fromkeys(FIELDS, "same"))):
        made = client.post(f"{ROOT}/evaluationJobs", json=evaluation(identifier, **fields)).json()
        assert {field: made[field] for field in FIELDS} == names
    assert client.delete(f"{ROOT}/models/same").status_code == client.delete(f"{ROOT}/datasets/same").status_code == 409
    for identifier in ("same", "other"):
        services.jobs.cancel(identifier)
        wait_ended(services.store, identifier)
    for collection in ("evaluators", "datasets", "models", "jobs"):
        path = f"{ROOT}/{collection}/same"
        assert client.delete(path).status_code == 200 and client.get(path).status_code == 404


FIELDS = {"model": "models", "inputDataset": "datasets", "evaluator": "evaluators"}
STRANGE = ["Rows", "ROWS", "rows\n", "rows ", "röws", "rows\u200b", "ｒows", "rows\x00", "accounts/local/models/rows"]


def test_a_name_that_only_looks_like_another_is_refused(served: Any, tmp_path: Path) -> None:
    client, services = served
    upload(client, "rows", write_rows(tmp_path / "rows", 4)).raise_for_status()
    for name in STRANGE:
        bodies = [
            ("datasets", {"datasetId": name}),
            ("evaluatorsV2", {"evaluatorId": name, "source": SCORES}),
            ("models:pull", {"source": str(tmp_path), "modelId": name.replace("/models/", "/datasets/")}),
            ("evaluationJobs", evaluation(name)),
            ("evaluationJobs", evaluation("e", inputDataset=name)),
            ("pipelines", {"pipelineId": name, "baseModel": "tiny", "dataset": "rows", "evaluator": "ev"}),
            ("deployments", {"baseModel": name.replace("/models/", "/datasets/"), "force": True}),
        ]
        for path, body in bodies:
            assert client.post(f"{ROOT}/{path}", json=body).status_code == 400, (path, name)
    assert services.store.jobs.list(None, 200).items == []
    assert [dataset.id for dataset in services.store.datasets.all()] == ["rows"]
    assert [model.id for model in services.store.models.all()] == ["tiny"]
