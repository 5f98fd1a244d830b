"""A home of the first version of fw, as a real daemon of that version left it when it was killed, read by this one.

``first_home`` was made by commit f195de0: pipeline 'done' has ended, 'going' was killed while it trained, evaluation
'waiting' had not begun. Paths and the digest of the tiny model stand as placeholders, and trainings have two epochs.
"""

import shutil
import sqlite3
from pathlib import Path

import pytest

from engine.catalog.digests import digest_model
from engine.control.context import Context
from engine.control.evidence import comparisons
from engine.control.inventory import datasets, evaluators
from engine.control.inventory.models import delete_model
from engine.control.settings import Settings
from engine.control.store import Store
from engine.control.tests.daemon_process import Daemon
from fw_sdk.types import FwError, JobState, Pipeline
from fw_sdk.types.home import Home

FIXTURE = Path(__file__).with_name("first_home")
SOURCE = ".source"
"""Evaluators stand there under another ending, so that nobody formats them."""


@pytest.fixture
def first(tmp_path, tiny_llama_dir):
    """The home, with the tiny model that is made here in the place of the one that was pulled then."""
    home = Home(tmp_path / "home").prepare()
    digest = digest_model(tiny_llama_dir).removeprefix("sha256:")
    shutil.copytree(tiny_llama_dir, home.models / digest)
    for folder in ("datasets", "jobs"):
        shutil.copytree(FIXTURE / folder, home.root / folder, dirs_exist_ok=True)
    for path in (FIXTURE / "evaluators").iterdir():
        shutil.copy(path, home.evaluators / path.name.replace(SOURCE, ".py"))
    script = (FIXTURE / "fw.sql").read_text().replace("{HOME}", str(home.root)).replace("{MODEL}", digest)
    with sqlite3.connect(home.database) as connection:
        connection.executescript(script)
    connection.close()
    return home


def test_everything_in_a_first_home_is_read_and_nothing_is_lost(first):
    before = sqlite3.connect(first.database)
    counts = {table: before.execute(f"SELECT count(*) FROM {table}").fetchone() for table in ("job", "resource")}
    numbers = before.execute("SELECT id, last_seq FROM job").fetchall()
    before.close()
    context = Context(first, Settings(), Store(first.database))
    store = context.store
    collections = (store.datasets, store.models, store.evaluators, store.comparisons, store.deployments)
    assert (sum(len(collection.all()) for collection in collections),) == counts["resource"]
    assert (store.jobs.list(page_size=200).total_size,) == counts["job"]
    for identifier, last in numbers:
        assert [event.seq for event in store.jobs.events(identifier)] == list(range(1, last + 1))
        assert store.jobs.get(identifier).generation == 1
    assert store.datasets.get("rows").report.train_rows == 18 and store.deployments.get("done").forced
    assert store.models.get("done-tuned").lineage.dataset_digest == store.datasets.get("rows").digest
    for comparison in store.comparisons.all():
        assert not comparison.verified and comparisons.shown(context, comparison).n == 6
    assert store.jobs.get("done", Pipeline).outcome.comparison is not None
    store.close()


def test_what_unended_jobs_of_a_first_home_use_is_pinned_and_cannot_be_deleted(first):
    context = Context(first, Settings(), Store(first.database))
    uses = {ref.name: ref.digest for ref in context.store.jobs.get("going").uses}
    tiny, rows, prefix = (f"accounts/local/{name}" for name in ("models/tiny", "datasets/rows", "evaluators/prefix"))
    assert set(uses) == {tiny, rows, prefix} and all(uses.values())
    assert uses[rows] == context.store.datasets.get("rows").digest
    for delete, name, user in (
        (datasets.delete, "rows", "going"),
        (datasets.delete, "other", "waiting"),
        (evaluators.delete, "prefix", "going"),
        (delete_model, "tiny", "going"),
    ):
        with pytest.raises(FwError, match=f"used by .*'{user}'|its adapter") as caught:
            delete(context, name)
        assert caught.value.code == "failed_precondition"
    assert context.store.jobs.get("waiting").spec["model"] == tiny
    context.store.close()


def test_a_pipeline_that_a_first_daemon_left_goes_on_to_its_end(first):
    daemon = Daemon(first.root).start()
    try:
        assert daemon.wait_job("waiting")["summary"]["n"] > 0
        pipeline = daemon.wait_job("going")
        assert {step["state"] for step in pipeline["steps"]} == {"done"}
        assert daemon.call("GET", "jobs/going-finetune")["state"] == JobState.COMPLETED
        assert daemon.call("GET", "models/going-tuned")["state"] == "READY"
        assert daemon.wait_deployment("going")["baseModel"] == "accounts/local/models/going-tuned"
        comparison = daemon.call("GET", "comparisons/going-vs-base")
        assert comparison["n"] == 6 and comparison["candidateEvidence"]["model"]["digest"]
    finally:
        daemon.shut_down()
