"""Stored records: apart from the wire, versioned, and readable by later versions without a loss."""

import json
import signal
import sqlite3

import pytest

from engine.control.store import Store, records
from engine.control.tests.support import ROOT, submit_little, wait_ended
from engine.control.tests.test_store import dataset
from engine.jobs.program import main
from engine.jobs.specs import PullResult, PullSpec
from fw_sdk.types import Evaluation, FwError, Job, JobKind


@pytest.fixture
def store(tmp_path):
    found = Store(tmp_path / "fw.db")
    yield found
    found.close()


def stored(path, sql):
    with sqlite3.connect(path) as connection:
        return connection.execute(sql).fetchone()


def rewrite(path, identifier, table="resource", **columns):
    """Change a stored record behind the store's back, as another version of fw would have written it."""
    with sqlite3.connect(path) as connection:
        names = ", ".join(f"{name} = ?" for name in columns)
        connection.execute(f"UPDATE {table} SET {names} WHERE id = ?", (*columns.values(), identifier))
    connection.close()


def test_private_fields_stand_in_the_store_and_in_no_reply(server):
    client, services = server
    submit_little(services, "j", end="done", steps=1)
    wait_ended(services.store, "j")
    assert services.store.jobs.get("j").spec["end"] == "done"
    for path in (f"{ROOT}/jobs/j", f"{ROOT}/jobs", f"{ROOT}/jobs/j:wait"):
        assert "spec" not in client.get(path).text


def test_a_record_with_a_field_that_is_gone_is_read_and_one_of_a_newer_version_is_refused(store, tmp_path):
    path = tmp_path / "fw.db"
    store.datasets.create(dataset("a", heldout_fraction=0.25))
    document = json.loads(stored(path, "SELECT document FROM resource")[0])
    rewrite(path, "a", document=json.dumps({**document, "colour": "red", "report": {"rows": 3, "shade": 1}}))
    assert store.datasets.get("a").heldout_fraction == 0.25 and store.datasets.get("a").report.rows == 3
    rewrite(path, "a", version=records.version_of("datasets") + 1)
    before = stored(path, "SELECT document FROM resource")
    for refused in (
        lambda: store.datasets.get("a"),
        lambda: store.datasets.update("a", lambda d: d),
        lambda: Store(path),
    ):
        with pytest.raises(FwError, match="newer version") as caught:
            refused()
        assert caught.value.code == "failed_precondition" and "install" in caught.value.hint
    assert stored(path, "SELECT document FROM resource") == before


def test_a_renamed_field_is_upgraded_step_by_step_and_written_in_the_new_version(store, tmp_path, monkeypatch):
    path = tmp_path / "fw.db"
    store.datasets.create(dataset("a"))
    document = json.loads(stored(path, "SELECT document FROM resource")[0])
    rewrite(path, "a", document=json.dumps({**document, "seed": 7}), version=1)

    def renamed(value):
        return {**{name: item for name, item in value.items() if name != "seed"}, "splitSeeds": [value["seed"]]}

    def first_of_them(value):
        return {**value, "splitSeed": value["splitSeeds"][0]}

    monkeypatch.setattr(records, "UPGRADES", {**records.UPGRADES, "datasets": (renamed, first_of_them)})
    assert store.datasets.get("a").split_seed == store.datasets.all()[0].split_seed == 7
    store.datasets.update("a", lambda d: d.model_copy(update={"display_name": "x"}))
    document, version = stored(path, "SELECT document, version FROM resource")
    assert version == 3 and json.loads(document)["splitSeed"] == 7 and store.datasets.get("a").display_name == "x"


def test_a_job_of_a_kind_that_is_not_known_here_loses_nothing(store, tmp_path):
    path, kind = tmp_path / "fw.db", JobKind("dance")
    store.jobs.create(Job(name="accounts/local/jobs/j", kind=kind, spec={"steps": [1, 2]}))
    document = json.loads(stored(path, "SELECT document FROM job")[0])
    rewrite(path, "j", "job", document=json.dumps({**document, "partner": "b"}))
    store.jobs.update("j", lambda j: j.model_copy(update={"display_name": "x"}))
    document = json.loads(stored(path, "SELECT document FROM job")[0])
    assert document["partner"] == "b" and document["spec"] == {"steps": [1, 2]} and document["displayName"] == "x"


def test_a_first_evaluation_asks_for_its_model_and_not_for_a_deployment_of_that_id(store, tmp_path):
    fields = {"kind": JobKind.EVALUATE, "model": "accounts/local/models/m"}
    evaluation = Evaluation(name="accounts/local/evaluationJobs/e", spec={"model": "m", "limit": 3}, **fields)
    store.jobs.create(evaluation)
    rewrite(tmp_path / "fw.db", "e", "job", version=1)
    assert store.jobs.get("e").spec == {"model": "accounts/local/models/m", "limit": 3}


def test_a_program_reads_a_spec_that_has_fields_of_another_version(tmp_path):
    spec = {"source": "x", "modelsDir": "/m", "mirror": "gone", "rows": {"deep": 1}}
    (tmp_path / "spec.json").write_text(json.dumps(spec))
    seen = []

    def run(context):
        seen.append(context.spec)
        return PullResult(path="p", digest="d", bytes=1, parameters=1, context_length=1, source="x")

    before = signal.getsignal(signal.SIGTERM)
    try:
        assert main(PullSpec, run, [str(tmp_path)]) == 0
    finally:
        signal.signal(signal.SIGTERM, before)
    assert seen == [PullSpec(source="x", models_dir="/m")]
