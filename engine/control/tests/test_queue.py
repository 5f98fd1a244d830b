"""Which jobs may start: never more than the machine has, never one before an earlier one that needs the same."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from engine.control.jobs.resources import NOTHING, WHOLE, Resources, startable
from fw_sdk.types import Job, JobKind, JobState

CAPACITY = Resources(cores=4, memory_bytes=100, devices=1, downloads=2)
START = datetime(2026, 1, 1, tzinfo=UTC)
AMOUNTS = st.builds(
    Resources,
    cores=st.sampled_from([0, 1, 3, WHOLE]),
    memory_bytes=st.sampled_from([0, 40, 60, 1000]),
    devices=st.sampled_from([0, 1]),
    downloads=st.sampled_from([0, 1]),
)


def jobs_of(amounts, running):
    jobs = [
        Job(
            name=f"accounts/local/jobs/j{number}",
            kind=JobKind.PULL,
            create_time=START + timedelta(seconds=number),
            state=JobState.RUNNING if number < running else JobState.PENDING,
        )
        for number in range(len(amounts))
    ]
    return jobs, {job.id: amount for job, amount in zip(jobs, amounts, strict=True)}


@given(st.lists(AMOUNTS, max_size=8), st.randoms())
def test_what_starts_fits_and_overtakes_nobody_that_needs_the_same(amounts, random):
    jobs, needs = jobs_of(amounts, 0)
    random.shuffle(jobs)
    found = startable(jobs, lambda job: needs[job.id], CAPACITY)
    used = NOTHING
    for job in found:
        used += needs[job.id].within(CAPACITY)
    assert used.fits(CAPACITY)
    started = {job.id for job in found}
    for job in jobs:
        overtaken = [one for one in jobs if one.create_time < job.create_time and one.id not in started]
        if job.id in started:
            mine = needs[job.id].within(CAPACITY)
            assert not any(mine.shares(needs[one.id].within(CAPACITY)) for one in overtaken)
    if jobs:
        assert min(jobs, key=lambda job: job.create_time).id in started, "the oldest always starts on an idle machine"


def test_more_memory_than_there_is_runs_alone():
    amounts = [Resources(memory_bytes=1000), Resources(memory_bytes=10), Resources(downloads=1)]
    jobs, needs = jobs_of(amounts, 0)
    assert [job.id for job in startable(jobs, lambda job: needs[job.id], CAPACITY)] == ["j0", "j2"]


def test_two_jobs_that_fit_together_run_together():
    jobs, needs = jobs_of([Resources(cores=3), Resources(cores=1), Resources(cores=1)], 1)
    assert [job.id for job in startable(jobs, lambda job: needs[job.id], CAPACITY)] == ["j1"]
