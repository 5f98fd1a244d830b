"""Jobs as real processes: every way they can end, and what is left behind."""

import json
import os
import signal
import time
from dataclasses import replace

import pytest

from engine.compute import Phase, Status
from engine.control.jobs.creation import submit_reserved
from engine.control.jobs.outcome import outcome
from engine.control.kinds import KINDS
from engine.control.tests.support import ROOT, error_of, program_of, running_app, submit_little, wait_ended, wait_for
from engine.jobs.program import staging_of
from fw_sdk.types import FwError, Job, JobKind, JobState, Model, ModelKind, ModelState, PullModel


def states(store, identifier):
    return [event.data["state"] for event in store.jobs.events(identifier) if event.type == "state"]


def numbers(store, identifier):
    return [event.seq for event in store.jobs.events(identifier)]


def test_a_job_completes_with_its_result_progress_and_every_event_in_order(server):
    _, services = server
    submit_little(services, "one", steps=4)
    job = wait_ended(services.store, "one")
    assert job.state is JobState.COMPLETED and job.result["digest"] == "sha256:0"
    assert (job.progress.done, job.progress.total, job.progress.percent) == (4, 4, 100)
    events = services.store.jobs.events("one")
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    kinds = [event.type for event in events]
    assert kinds == ["state", "state", "progress", "progress", "progress", "progress", "result", "state"]
    assert states(services.store, "one") == [JobState.PENDING, JobState.RUNNING, JobState.COMPLETED]
    assert job.start_time <= job.completed_time and job.attempt == 1


def test_a_typed_failure_reaches_the_job_with_its_log_and_marks_the_model(server):
    client, services = server
    name = "accounts/local/jobs/bad"
    services.store.models.create(Model(name="accounts/local/models/m", kind=ModelKind.BASE, job=name))
    submit_little(services, "bad", end="typed")
    failure = wait_ended(services.store, "bad").failure
    assert (failure.code, failure.hint) == ("training_diverged", "lower the rate")
    assert "loss is nan" in " ".join(failure.log_tail)
    assert services.store.models.get("m").state is ModelState.FAILED
    assert client.get(f"{ROOT}/jobs/bad").json()["failure"]["notDone"] == "no adapter"


def test_a_cancelled_job_leaves_its_model_cancelled_and_its_name_free(server, tiny_llama_dir):
    client, services = server
    for name in ("a", "b", "c"):
        job = f"accounts/local/jobs/{name}"
        services.store.models.create(Model(name=f"accounts/local/models/m-{name}", kind=ModelKind.ADAPTER, job=job))
        submit_little(services, name, steps=200, step_s=0.02)
    wait_for(lambda: all(services.store.jobs.get(n).progress.done for n in ("a", "b")))
    for name in "cab":
        client.post(f"{ROOT}/jobs/{name}:cancel", json={})
        wait_ended(services.store, name)
        assert client.get(f"{ROOT}/models/m-{name}").json()["state"] == "CANCELLED"
    again = client.post(f"{ROOT}/models:pull", json={"source": str(tiny_llama_dir), "modelId": "m-b"})
    assert again.json()["state"] == "UPLOADING"


def test_a_program_that_says_no_reason_fails_with_its_last_words(server):
    _, services = server
    submit_little(services, "mute", end="status")
    failure = wait_ended(services.store, "mute").failure
    assert failure.code == "job_failed" and "status 7" in failure.message and failure.log_tail[-1] == "last words"


def test_what_a_killed_program_staged_is_removed(server):
    _, services = server
    for folder in (services.home.models, services.home.adapters):
        staged = staging_of(folder, "doomed")
        staged.mkdir()
        (staged / "half.safetensors").touch()
    submit_little(services, "doomed", end="killed", steps=1)
    assert wait_ended(services.store, "doomed").state is JobState.FAILED
    assert not list(services.home.models.iterdir()) and not list(services.home.adapters.iterdir())


def test_a_killed_program_goes_on_from_its_own_files(server):
    _, services = server
    submit_little(services, "phoenix", end="killed_once", steps=4)
    job = wait_ended(services.store, "phoenix")
    assert job.state is JobState.COMPLETED and job.attempt == 2
    assert (services.jobs.directory("phoenix") / "work.txt").read_text() == "1\n2\n3\n4\n"
    done = [e.data["done"] for e in services.store.jobs.events("phoenix") if e.type == "progress"]
    assert done == [1, 2, 3, 4]
    assert any("Attempt 2" in e.data.get("text", "") for e in services.store.jobs.events("phoenix"))


def test_a_program_that_always_dies_fails_after_three_attempts_and_can_be_resumed(server):
    client, services = server
    submit_little(services, "doomed", end="killed", steps=1)
    job = wait_ended(services.store, "doomed")
    assert job.failure.code == "worker_lost" and job.attempt == 3 and "SIGKILL" in job.failure.message
    before = numbers(services.store, "doomed")
    assert client.post(f"{ROOT}/jobs/doomed:resume", json={}).json()["state"] == JobState.PENDING
    assert wait_ended(services.store, "doomed").attempt == 6
    after = numbers(services.store, "doomed")
    assert after[: len(before)] == before and after == list(range(1, len(after) + 1))


def test_cancel_stops_a_running_program_and_resume_finishes_it(server):
    client, services = server
    submit_little(services, "slow", steps=60, step_s=0.05)
    wait_for(lambda: services.store.jobs.get("slow").progress.done >= 2)
    assert client.post(f"{ROOT}/jobs/slow:cancel", json={}).json()["state"] == JobState.CANCELLING
    job = wait_ended(services.store, "slow")
    assert job.state is JobState.CANCELLED and job.failure is None
    done = len((services.jobs.directory("slow") / "work.txt").read_text().splitlines())
    assert 2 <= done < 60
    services.store.jobs.update("slow", lambda j: j.model_copy(update={"spec": {**j.spec, "step_s": 0.0}}))
    assert client.post(f"{ROOT}/jobs/slow:resume").status_code == 200
    assert wait_ended(services.store, "slow").state is JobState.COMPLETED
    lines = (services.jobs.directory("slow") / "work.txt").read_text().splitlines()
    assert lines == [str(n) for n in range(1, 61)]


def test_a_program_that_will_not_stop_is_ended_with_its_group(server, home):
    client, services = server
    submit_little(services, "deaf", end="deaf", steps=1000, step_s=0.05)
    wait_for(lambda: services.store.jobs.get("deaf").progress.done >= 1)
    program = program_of(home, "deaf")
    client.post(f"{ROOT}/jobs/deaf:cancel", json={})
    assert wait_ended(services.store, "deaf").state is JobState.CANCELLED
    wait_for(lambda: not program.alive)


def test_two_pulls_run_at_once_and_the_third_waits_and_is_cancelled_at_once(server):
    client, services = server
    for name in ("a", "b", "c"):
        submit_little(services, name, steps=200, step_s=0.02)
    wait_for(lambda: all(services.store.jobs.get(n).progress.done for n in ("a", "b")))
    assert services.store.jobs.get("c").state is JobState.PENDING
    submit_little(services, "d")
    waits = "waits for 'a' or 'b' to end; place {} of 2 in the queue"
    said = [waits.format(1), waits.format(2)]
    wait_for(lambda: [services.store.jobs.get(name).progress.message for name in "cd"] == said)
    for name in "cd":
        cancelled = client.post(f"{ROOT}/jobs/{name}:cancel", json={}).json()
        assert cancelled["state"] == JobState.CANCELLED and not cancelled["progress"].get("message")
    assert not services.jobs.directory("c").exists()
    for name in ("a", "b"):
        client.post(f"{ROOT}/jobs/{name}:cancel", json={})
    assert all(wait_ended(services.store, n).state is JobState.CANCELLED for n in ("a", "b"))


def test_a_dead_shim_leaves_no_program_behind(server, home):
    _, services = server
    submit_little(services, "orphan", steps=400, step_s=0.02)
    program = wait_for(lambda: program_of(home, "orphan"))
    shim = json.loads((home.jobs / "orphan" / "run.json").read_bytes())["shim"]["pid"]
    os.kill(shim, signal.SIGKILL)
    wait_for(lambda: not program.alive)
    wait_for(lambda: services.store.jobs.get("orphan").attempt == 2)
    services.jobs.cancel("orphan")
    assert wait_ended(services.store, "orphan").state is JobState.CANCELLED


def test_torn_and_senseless_event_lines_are_passed_over(server, home):
    _, services = server
    submit_little(services, "torn", end="typed", steps=2)
    wait_ended(services.store, "torn")
    with (home.jobs / "torn" / "events.jsonl").open("ab") as file:
        file.write(
            b'{"type": "nonsense", "data": {}}\n[1, 2]\n{"time": "x", "type": "metric", "data": {"loss": NaN}}\n'
        )
        file.write(b'{"time": "2026-01-01T00:00:00+00:00", "type": "prog')
    services.store.jobs.update("torn", lambda j: j.model_copy(update={"spec": {"end": "done", "steps": 3}}))
    services.jobs.resume("torn")
    assert wait_ended(services.store, "torn").state is JobState.COMPLETED
    told = [(e.type, e.data) for e in services.store.jobs.events("torn") if e.type in ("progress", "metric")]
    assert [data.get("done") for kind, data in told if kind == "progress"] == [1, 2, 3]
    assert [data for kind, data in told if kind == "metric"] == [{"loss": None}]


def test_a_program_that_asks_an_old_address_follows_the_daemon_to_its_new_one(home, little):
    with running_app(home, base_url="http://127.0.0.1:1") as (_, app):
        submit_little(app.state.services, "asker", steps=60, step_s=0.05, baseUrl="")
        wait_for(lambda: app.state.services.store.jobs.get("asker").progress.done >= 2)
        app.state.services.store.jobs.update(
            "asker", lambda j: j.model_copy(update={"spec": {"baseUrl": "", "steps": 60}})
        )
    with running_app(home, base_url="http://127.0.0.1:2") as (_, app):
        job = wait_ended(app.state.services.store, "asker")
    assert job.state is JobState.COMPLETED and job.attempt == 2
    assert json.loads((home.jobs / "asker" / "spec.json").read_bytes())["baseUrl"] == "http://127.0.0.1:2"
    assert (home.jobs / "asker" / "work.txt").read_text().splitlines() == [str(n) for n in range(1, 61)]


def test_ended_jobs_are_deleted_with_their_files_and_running_ones_are_not(server):
    client, services = server
    submit_little(services, "done")
    wait_ended(services.store, "done")
    submit_little(services, "busy", steps=500, step_s=0.02)
    wait_for(lambda: services.store.jobs.get("busy").state is JobState.RUNNING)
    assert error_of(client.delete(f"{ROOT}/jobs/busy"))["code"] == "failed_precondition"
    assert client.delete(f"{ROOT}/jobs/done").json() == {}
    assert client.get(f"{ROOT}/jobs/done").status_code == 404 and not services.jobs.directory("done").exists()
    assert error_of(client.post(f"{ROOT}/jobs/busy:resume", json={}))["code"] == "failed_precondition"
    services.jobs.cancel("busy")
    wait_ended(services.store, "busy")


def test_events_are_streamed_to_the_last_and_resumed_where_a_client_stopped(server):
    client, services = server
    submit_little(services, "told", steps=5, step_s=0.05)
    with client.stream("GET", f"{ROOT}/jobs/told:events") as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        text = response.read().decode()
    blocks = [dict(line.split(": ", 1) for line in block.splitlines()) for block in text.strip().split("\n\n")]
    sequence = [int(block["id"]) for block in blocks]
    assert sequence == list(range(1, len(sequence) + 1)) and blocks[-1]["event"] == "state"
    assert json.loads(blocks[-1]["data"])["data"]["state"] == JobState.COMPLETED
    with client.stream("GET", f"{ROOT}/jobs/told:events", headers={"Last-Event-ID": "4"}) as response:
        assert response.read().decode().startswith("id: 5\n")
    past = client.get(f"{ROOT}/jobs/told:events", params={"after": 6, "follow": "false"}).json()["events"]
    assert [event["seq"] for event in past] == sequence[6:]
    assert error_of(client.get(f"{ROOT}/jobs/tald:events"))["message"].startswith("No job 'tald'. Did you mean 'told'")


def test_a_wait_returns_when_the_job_ends_or_when_its_time_is_up(server):
    client, services = server
    submit_little(services, "brief", steps=8, step_s=0.05)
    began = time.monotonic()
    early = client.get(f"{ROOT}/jobs/brief:wait", params={"timeoutS": 0.1}).json()
    assert time.monotonic() - began < 2 and early["state"] != JobState.COMPLETED
    assert client.get(f"{ROOT}/jobs/brief:wait", params={"timeoutS": 20}).json()["state"] == JobState.COMPLETED
    assert client.get(f"{ROOT}/jobs/brief:logs").json() == {"lines": []}


@pytest.mark.parametrize(
    ("status", "cancelling", "oom_kills", "code", "lost"),
    [
        (Status(Phase.EXITED, -9), False, 1, "out_of_memory", False),
        (Status(Phase.EXITED, -9), False, 0, "worker_lost", True),
        (Status(Phase.EXITED, -11), False, 0, "worker_lost", True),
        (Status(Phase.EXITED, 4), False, 0, "worker_lost", True),
        (Status(Phase.GONE), False, 0, "worker_lost", True),
        (Status(Phase.EXITED, 1), False, 0, "job_failed", False),
        (Status(Phase.EXITED, 0), False, 0, "job_failed", False),
        (Status(Phase.EXITED, -9), True, 1, None, False),
        (Status(Phase.GONE), True, 0, None, False),
    ],
)
def test_every_end_has_one_meaning(tmp_path, status, cancelling, oom_kills, code, lost):
    found = outcome(tmp_path, status, cancelling=cancelling, oom_kills=oom_kills)
    assert (found.failure.code if found.failure else None) == code
    assert found.lost is lost and found.cancelled is (code is None) and found.result is None


def test_finished_work_counts_even_if_the_job_was_being_cancelled(tmp_path):
    (tmp_path / "result.json").write_text('{"a": 1}')
    assert outcome(tmp_path, Status(Phase.EXITED, 0), cancelling=True, oom_kills=0).result == {"a": 1}


@pytest.mark.parametrize(
    ("limits", "spec", "words"),
    [
        ({"stall_s": 0.5}, {"steps": 2, "step_s": 60}, "said nothing for 0.5 s"),
        ({"timeout_s": 1.0}, {"steps": 10_000, "step_s": 0.05}, "took longer than jobs of its kind may"),
    ],
    ids=["silent", "talking"],
)
def test_a_job_that_does_not_end_is_terminated_and_can_go_on(home, little, monkeypatch, limits, spec, words):
    monkeypatch.setitem(KINDS, JobKind.PULL, replace(KINDS[JobKind.PULL], **limits))
    with running_app(home) as (client, app):
        services = app.state.services
        submit_little(services, "endless", **spec)
        failure = wait_ended(services.store, "endless", 60).failure
        assert failure.code == "deadline_exceeded" and words in failure.message
        assert program_of(home, "endless") is None or not program_of(home, "endless").alive
        assert client.post(f"{ROOT}/jobs/endless:resume", json={}).json()["state"] == JobState.PENDING
        client.post(f"{ROOT}/jobs/endless:cancel", json={}).raise_for_status()
        wait_ended(services.store, "endless", 60)


def test_a_model_that_is_reserved_for_a_job_that_was_cancelled_meanwhile_waits_for_nothing(server, monkeypatch):
    _, services = server
    monkeypatch.setattr(services.jobs, "_draining", True)
    name, request = "accounts/local/jobs/late", PullModel(source="/x", model_id="m")
    job = Job(name=name, kind=JobKind.PULL, makes="accounts/local/models/m")
    model = Model(name="accounts/local/models/m", kind=ModelKind.BASE, job=name)
    services.store.models.create(model)
    submit_reserved(services, job, request)
    services.jobs.cancel("late")
    services.store.models.update("m", lambda _: model)
    assert submit_reserved(services, job, request).state is JobState.CANCELLED
    assert services.store.models.get("m").state is ModelState.CANCELLED


def test_a_model_whose_job_cannot_have_its_id_is_not_reserved(server, monkeypatch):
    _, services = server
    monkeypatch.setattr(services.jobs, "_draining", True)
    submit_little(services, "taken")
    job = Job(name="accounts/local/toys/taken", kind=JobKind("toy"), makes="accounts/local/models/m")
    services.store.models.create(Model(name="accounts/local/models/m", kind=ModelKind.BASE, job=job.name))
    with pytest.raises(FwError, match="There is already a job 'taken'"):
        submit_reserved(services, job, PullModel(source="/x", model_id="m"))
    assert services.store.models.find("m") is None
