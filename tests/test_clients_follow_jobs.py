"""Clients that follow a job on a real daemon: a resumed job is followed behind its first failure, to its end."""

import asyncio

import pytest

import fw_sdk as fw
from engine.control.tests.support import ROOT, running_app, submit_little, use_little_program, wait_ended
from fw_sdk.types import JobState
from fw_sdk.types.home import Home


def follow(url, token, identifier):
    with fw.Client(url, token) as client:
        return [event.seq for event in client.jobs.events(identifier)]


def follow_asynchronously(url, token, identifier):
    async def events():
        async with fw.AsyncClient(url, token) as client:
            return [event.seq async for event in client.jobs.events(identifier)]

    return asyncio.run(events())


@pytest.mark.parametrize("follow", [follow, follow_asynchronously])
def test_a_resumed_job_is_followed_behind_its_first_failure_to_its_end(tmp_path, monkeypatch, follow):
    use_little_program(monkeypatch)
    home = Home(tmp_path / "home").prepare()
    with running_app(home) as (http, app):
        services = app.state.services
        submit_little(services, "again", end="typed", steps=2)
        assert wait_ended(services.store, "again").state is JobState.FAILED
        slower = {"end": "done", "steps": 12, "step_s": 0.1}
        services.store.jobs.update("again", lambda job: job.model_copy(update={"spec": slower}))
        http.post(f"{ROOT}/jobs/again:resume", json={}).raise_for_status()
        seen = follow(str(http.base_url), home.token(), "again")
        stored = [event.seq for event in services.store.jobs.events("again")]
        assert services.store.jobs.get("again").state is JobState.COMPLETED
        assert seen == stored == list(range(1, len(seen) + 1))
