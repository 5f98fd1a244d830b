"""What unended jobs use stays, and what is refused says who uses it, in any order and under races."""

import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from engine.control.store import Store
from engine.control.store.job_table import NEXT
from engine.control.tests.test_store import dataset
from fw_sdk.types import FwError, Job, JobKind, JobState, Ref, resource_id

NAMES = ("a", "b", "c")
FORMS = ("{}", "accounts/local/datasets/{}")
"""A bare id and a full name, as clients write them."""


def ref(name, digest=None):
    return Ref(name=f"accounts/local/datasets/{name}", digest=digest)


def user(identifier, *uses):
    return Job(name=f"accounts/local/jobs/{identifier}", kind=JobKind.PULL, uses=list(uses))


def move(store, identifier, state):
    store.jobs.update(identifier, lambda job: job.model_copy(update={"state": state}))


class UsesMachine(RuleBasedStateMachine):
    """Datasets come and go; jobs use them, end and are resumed; dictionaries say what must hold."""

    @initialize()
    def open(self):
        self.folder = tempfile.TemporaryDirectory()
        self.store = Store(Path(self.folder.name) / "fw.db")
        self.generations = dict.fromkeys(NAMES, 0)
        self.there: set[str] = set()
        self.jobs: dict[str, set[str]] = {}

    def teardown(self):
        if hasattr(self, "store"):
            self.store.close()
            self.folder.cleanup()

    def users(self, name):
        return [job for job, uses in self.jobs.items() if name in uses and not self.store.jobs.get(job).state.ended]

    @rule(name=st.sampled_from(NAMES))
    def create(self, name):
        if name in self.there:
            with pytest.raises(FwError, match="already"):
                self.store.datasets.create(dataset(name))
            return
        self.generations[name] += 1
        made = self.store.datasets.create(dataset(name, digest=f"{name}{self.generations[name]}"))
        assert made.generation == self.generations[name]
        self.there.add(name)

    @rule(name=st.sampled_from(NAMES), form=st.sampled_from(FORMS))
    def delete(self, name, form):
        identifier, users = resource_id(form.format(name), "datasets"), self.users(name)
        if name in self.there and not users:
            self.store.datasets.delete(identifier)
            self.there.discard(name)
            return
        with pytest.raises(FwError) as caught:
            self.store.datasets.delete(identifier)
        if name in self.there:
            assert caught.value.code == "failed_precondition" and caught.value.details["usedBy"] == users
            assert users[0] in caught.value.message and users[0] in caught.value.hint
        else:
            assert caught.value.code == "not_found"

    @rule(names=st.sets(st.sampled_from(NAMES), min_size=1), stale=st.booleans())
    def use(self, names, stale):
        identifier = f"j{len(self.jobs)}"
        uses = [ref(name, f"{name}{self.generations[name] - (1 if stale else 0)}") for name in sorted(names)]
        if names <= self.there and not stale:
            self.store.jobs.create(user(identifier, *uses))
            self.jobs[identifier] = names
            return
        with pytest.raises(FwError, match=r"was (deleted|replaced)"):
            self.store.jobs.create(user(identifier, *uses))
        assert self.store.jobs.find(identifier) is None

    @precondition(lambda self: self.jobs)
    @rule(data=st.data(), state=st.sampled_from([*JobState, JobState.CANCELLED, JobState.PENDING]))
    def move(self, data, state):
        identifier = data.draw(st.sampled_from(sorted(self.jobs)))
        job = self.store.jobs.get(identifier)
        now = [ref(name, f"{name}{self.generations[name]}") for name in self.there]
        allowed = state in NEXT[job.state] and (not job.state.ended or all(used in now for used in job.uses))
        if allowed or state is job.state:
            move(self.store, identifier, state)
        else:
            with pytest.raises(FwError, match=r"cannot become|was (deleted|replaced)"):
                move(self.store, identifier, state)

    @invariant()
    def what_unended_jobs_use_is_there_as_it_was(self):
        for identifier in getattr(self, "jobs", {}):
            job = self.store.jobs.get(identifier)
            for used in job.uses:
                found = self.store.datasets.find(used.id)
                assert job.state.ended or (found is not None and found.digest == used.digest)


UsesMachine.TestCase.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
TestUses = UsesMachine.TestCase


@pytest.fixture
def store(tmp_path):
    found = Store(tmp_path / "fw.db")
    yield found
    found.close()


@pytest.mark.parametrize("resumed", [False, True])
def test_a_delete_and_a_job_that_race_never_leave_the_job_without_its_input(store, resumed):
    for turn in range(60):
        name, job = f"d{turn}", f"j{turn}"
        store.datasets.create(dataset(name, digest="x"))
        if resumed:
            store.jobs.create(user(job, ref(name, "x")))
            move(store, job, JobState.CANCELLED)
        gate = threading.Barrier(2)

        def begin(job=job, name=name, gate=gate):
            gate.wait()
            return move(store, job, JobState.PENDING) if resumed else store.jobs.create(user(job, ref(name, "x")))

        def delete(name=name, gate=gate):
            gate.wait()
            return store.datasets.delete(name)

        with ThreadPoolExecutor(2) as pool:
            results = [future.exception() for future in [pool.submit(begin), pool.submit(delete)]]
        begun, deleted = (error is None for error in results)
        assert begun != deleted, results
        assert all(error is None or error.code == "failed_precondition" for error in results)
        assert (store.datasets.find(name) is None) is deleted
        found = store.jobs.find(job)
        assert (found is not None and not found.state.ended) is begun
