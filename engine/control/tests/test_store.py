"""The store: what holds after every operation, and what it says about files it cannot use."""

import random
import sqlite3
import tempfile
import threading
import time
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from engine.control.store import ProgramEvent, Store
from engine.control.store.job_table import NEXT
from fw_sdk.types import CreateDataset, Dataset, Failure, FwError, Job, JobKind, JobState, Pipeline, Ref


def dataset(identifier, **fields):
    return Dataset(name=f"accounts/local/datasets/{identifier}", **fields)


def job(identifier, kind=JobKind.PULL, **fields):
    return Job(name=f"accounts/local/jobs/{identifier}", kind=kind, **fields)


@pytest.fixture
def store(tmp_path):
    found = Store(tmp_path / "fw.db")
    yield found
    found.close()


def test_pages_cover_a_collection_once_even_while_it_grows(store):
    for number in range(7):
        store.datasets.create(dataset(f"d{number}"))
    seen, token = [], None
    while True:
        page = store.datasets.list(3, token)
        seen += [item.id for item in page.items]
        store.datasets.create(dataset(f"new{len(seen)}"))
        token = page.next_page_token
        if token is None:
            break
    assert seen == [f"d{number}" for number in reversed(range(7))]
    assert store.datasets.list(1).total_size == 10
    assert len(store.datasets.list(10**6).items) == 10


@pytest.mark.parametrize("token", ["x", "cDE=x", "....", "p1", "cC0x", "A" * 500, "cHNx"])
def test_a_wrong_page_token_is_an_error(store, token):
    with pytest.raises(FwError, match="not a page token"):
        store.datasets.list(3, token)


def test_equal_requests_about_equal_things_create_once_and_others_collide(store):
    request, refs = CreateDataset(dataset_id="a"), [Ref(name="accounts/local/models/m", digest="sha256:1")]
    first = store.datasets.create(dataset("a"), request=request, refs=refs)
    assert store.datasets.create(dataset("a"), request=request, refs=refs) == first
    assert store.datasets.replayed(request, "a", refs) == first and store.datasets.replayed(request, "b", refs) is None
    other = CreateDataset(dataset_id="a", dataset={"split_seed": 1})
    anew = [Ref(name="accounts/local/models/m", digest="sha256:2")]
    for wrong in (
        lambda: store.datasets.create(dataset("a"), request=other, refs=refs),
        lambda: store.datasets.create(dataset("a"), request=request, refs=anew),
        lambda: store.datasets.create(dataset("a")),
        lambda: store.datasets.replayed(request, "a", anew),
    ):
        with pytest.raises(FwError) as caught:
            wrong()
        assert caught.value.code == "already_exists"


def test_a_name_that_is_used_again_is_a_new_generation(store):
    assert [store.datasets.create(dataset("a")).generation, store.jobs.create(job("j")).generation] == [1, 1]
    for generation in (2, 3):
        store.datasets.delete("a")
        store.jobs.update("j", lambda j: j.model_copy(update={"state": JobState.CANCELLED}))
        store.jobs.delete("j")
        assert store.jobs.next_generation("j") == generation
        assert store.datasets.create(dataset("a")).generation == store.jobs.create(job("j")).generation == generation


def test_what_an_unended_job_uses_is_not_deleted(store):
    store.datasets.create(dataset("a"))
    uses = [Ref(name="accounts/local/datasets/a", digest="sha256:1")]
    store.jobs.create(job("j").model_copy(update={"uses": uses}))
    with pytest.raises(FwError, match="Dataset 'a' is used by job 'j'") as caught:
        store.datasets.delete("a")
    assert caught.value.code == "failed_precondition" and caught.value.details == {"usedBy": ["j"]}
    store.jobs.update("j", lambda j: j.model_copy(update={"state": JobState.CANCELLED}))
    store.datasets.delete("a")
    with pytest.raises(FwError, match="'a' was deleted while"):
        store.jobs.create(job("k").model_copy(update={"uses": uses}))
    assert store.jobs.find("k") is None


def test_a_change_that_raises_changes_nothing(store):
    store.datasets.create(dataset("a"))
    store.jobs.create(job("j"))

    def broken(_value):
        raise RuntimeError

    for update in (lambda: store.datasets.update("a", broken), lambda: store.jobs.update("j", broken)):
        with pytest.raises(RuntimeError):
            update()
    assert store.datasets.get("a").update_time == store.datasets.find("a").update_time
    assert [event.seq for event in store.jobs.events("j")] == [1]


def test_missing_things_are_named_with_their_nearest(store):
    store.datasets.create(dataset("support-tickets"))
    store.jobs.create(job("pull-1"))
    with pytest.raises(FwError, match=r"Did you mean 'support-tickets'\?"):
        store.datasets.get("suport-tickets")
    with pytest.raises(FwError, match="No pipeline 'pull-1'"):
        store.jobs.get("pull-1", Pipeline)
    with pytest.raises(FwError, match="There is no comparison yet"):
        store.comparisons.get("x")


def test_numbers_are_never_given_twice(store):
    given = []
    threads = [
        threading.Thread(target=lambda: given.extend(store.next_id("ft-x") for _ in range(25))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(given) == [f"ft-x-{number:04d}" for number in range(1, 101)]
    assert len(store.next_id("x" * 200)) <= 63


def test_four_claimants_share_the_queue_without_overlap(store):
    for number in range(24):
        store.jobs.create(job(f"j{number}"))
    taken = []

    def claim(owner):
        for number in range(24):
            if (found := store.jobs.claim(f"j{number}", owner, 60)) is not None:
                taken.append(found.id)

    threads = [threading.Thread(target=claim, args=(f"o{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == sorted(f"j{number}" for number in range(24))


def test_events_offset_and_state_move_together(store):
    store.jobs.create(job("j"))
    store.jobs.claim("j", "me", 60)
    events = [ProgramEvent("2026-01-01T00:00:00+00:00", "metric", {"n": n}) for n in range(3)]
    store.jobs.record("j", events, offset=120)
    assert store.jobs.events_offset("j") == 120 and [e.data.get("n") for e in store.jobs.events("j", 2)] == [0, 1, 2]
    with pytest.raises(FwError):
        store.jobs.record("j", events, offset=999, change=lambda j: j.model_copy(update={"state": "nonsense"}))
    assert store.jobs.events_offset("j") == 120 and len(store.jobs.events("j")) == 5


def test_a_database_of_a_newer_version_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "fw.db"
    Store(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    with pytest.raises(FwError, match="newer version") as caught:
        Store(path)
    assert caught.value.code == "failed_precondition" and "install" in caught.value.hint


@pytest.mark.parametrize("content", [b"this is no database " * 300, b"SQLite format 3\0" + b"\xff" * 5000])
def test_a_file_that_is_no_database_is_refused_with_a_way_out(tmp_path, content):
    path = tmp_path / "fw.db"
    path.write_bytes(content)
    with pytest.raises(FwError, match="not a readable database") as caught:
        Store(path)
    assert "move the file away" in caught.value.hint and path.read_bytes() == content


@pytest.mark.parametrize("seed", range(24))
def test_a_damaged_database_opens_or_is_refused_with_a_way_out(tmp_path, seed):
    path, chance = tmp_path / "fw.db", random.Random(seed)
    Store(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    content = bytearray(path.read_bytes())
    begin, length = chance.randrange(len(content)), chance.choice([1, 200, 4096])
    content[begin : begin + length] = chance.randbytes(length) if seed % 3 else b""
    path.write_bytes(content)
    try:
        Store(path).close()
    except FwError as error:
        assert error.code == "failed_precondition" and "move the file away" in error.hint


def test_a_database_whose_tables_are_gone_is_refused_with_a_way_out(tmp_path):
    path = tmp_path / "fw.db"
    Store(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute("DROP TABLE resource")
    connection.close()
    with pytest.raises(FwError, match="tables resource are missing"):
        Store(path)


def test_an_old_empty_file_is_migrated_and_reopening_changes_nothing(tmp_path):
    path = tmp_path / "fw.db"
    path.touch()
    store = Store(path)
    store.datasets.create(dataset("a"))
    store.close()
    again = Store(path)
    assert again.datasets.ids() == ["a"]
    again.close()


class JobTableMachine(RuleBasedStateMachine):
    """Any order of operations by two owners; after each, the table keeps its promises."""

    def __init__(self):
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.store = Store(Path(self.folder.name) / "fw.db")
        self.jobs = self.store.jobs
        self.expected: dict[str, list[str]] = {}
        self.states: dict[str, JobState] = {}
        self.owners: dict[str, str] = {}

    def teardown(self):
        self.store.close()
        self.folder.cleanup()

    @rule(kind=st.sampled_from([JobKind.PULL, JobKind.FINETUNE]))
    def create(self, kind):
        identifier = f"j{len(self.expected)}"
        kinds = {JobKind.PULL: "jobs", JobKind.FINETUNE: "supervisedFineTuningJobs"}
        name = f"accounts/local/{kinds[kind]}/{identifier}"
        self.jobs.create(Job(name=name, kind=kind))
        self.expected[identifier], self.states[identifier] = ["state"], JobState.PENDING

    @precondition(lambda self: self.expected)
    @rule(data=st.data(), owner=st.sampled_from(["a", "b"]), lease_s=st.sampled_from([60.0, -1.0]))
    def claim(self, data, owner, lease_s):
        name = data.draw(st.sampled_from(sorted(self.expected)))
        found = self.jobs.claim(name, owner, lease_s)
        assert (found is not None) == (self.states[name] is JobState.PENDING)
        if found:
            self.expected[found.id].append("state")
            self.states[found.id], self.owners[found.id] = JobState.RUNNING, owner

    @precondition(lambda self: self.expected)
    @rule(data=st.data(), state=st.sampled_from(list(JobState)))
    def move(self, data, state):
        name = data.draw(st.sampled_from(sorted(self.expected)))
        failure = Failure(code="internal", message="x") if state is JobState.FAILED else None
        try:
            self.jobs.update(name, lambda j: j.model_copy(update={"state": state, "failure": failure}))
        except FwError as error:
            assert error.code == "failed_precondition" and state not in NEXT[self.states[name]]
            return
        if state is not self.states[name]:
            assert state in NEXT[self.states[name]]
            self.expected[name].append("state")
        self.states[name] = state

    @precondition(lambda self: self.expected)
    @rule(data=st.data(), count=st.integers(0, 4), offset=st.integers(0, 10**6))
    def record(self, data, count, offset):
        name = data.draw(st.sampled_from(sorted(self.expected)))
        self.jobs.record(name, [ProgramEvent("2026-01-01T00:00:00+00:00", "metric", {})] * count, offset=offset)
        self.expected[name] += ["metric"] * count
        assert self.jobs.events_offset(name) == offset

    @rule(owner=st.sampled_from(["a", "b"]))
    def take_over(self, owner):
        active = {n for n, s in self.states.items() if s in (JobState.RUNNING, JobState.CANCELLING)}
        assert {found.id for found in self.jobs.take_over(owner, 60, tuple(JobKind))} == active
        assert self.jobs.renew(owner, 60) == len(active)

    @invariant()
    def events_have_no_gaps_and_states_are_told(self):
        for name, kinds in self.expected.items():
            events = self.jobs.events(name)
            assert [event.seq for event in events] == list(range(1, len(kinds) + 1))
            assert [event.type for event in events] == kinds
            last = [event.data["state"] for event in events if event.type == "state"][-1]
            assert last == self.states[name] == self.jobs.get(name).state

    @invariant()
    def only_active_jobs_have_owners(self):
        with self.store._database.read() as connection:
            rows = connection.exec_driver_sql("SELECT state, owner, lease_until FROM job").all()
        for state, owner, until in rows:
            active = state in (JobState.RUNNING, JobState.CANCELLING)
            assert (owner is None) == (until is None) and (active or owner is None)


JobTableMachine.TestCase.settings = settings(max_examples=12, stateful_step_count=20, deadline=None)
TestJobTable = JobTableMachine.TestCase


def test_a_lease_that_ran_out_does_not_free_a_running_job(store):
    store.jobs.create(job("j"))
    store.jobs.claim("j", "a", 0.01)
    time.sleep(0.02)
    assert store.jobs.claim("j", "b", 60) is None
