"""Files by digest under races and crashes: what a record names is there, and what none names goes."""

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import NamedTemporaryFile

import pytest

from engine.control.context import Context
from engine.control.inventory import datasets, evaluators, files
from engine.control.inventory.models import delete_model
from engine.control.inventory.references import dataset_path, evaluator_path
from engine.control.kinds.pull import creation as pulls
from engine.control.settings import Settings
from engine.control.store import Store
from engine.control.tests.support import wait_for, write_rows
from fw_sdk.types import (
    CreateDataset,
    CreateEvaluator,
    DatasetState,
    FwError,
    Job,
    JobKind,
    JobState,
    Model,
    ModelKind,
    ModelState,
    PullModel,
)

SOURCE = "def evaluate(messages, ground_truth=None, **row):\n    return 1.0\n"


@pytest.fixture
def context(home):
    found = Context(home, Settings(), Store(home.database))
    yield found
    found.store.close()


def reopened(context):
    """The home as a later daemon finds it after this one was killed."""
    context.store.close()
    again = Context(context.home, context.settings, Store(context.home.database))
    files.clean_up(again)
    return again


def uploaded(context, name, rows):
    """A dataset with its rows, uploaded from a temporary file as the routes do."""
    datasets.create(context, CreateDataset(dataset_id=name))
    with NamedTemporaryFile(prefix=files.UPLOAD, dir=context.home.datasets) as file:
        file.write(rows)
        file.flush()
        return datasets.upload(context, name, Path(file.name))


def together(*works):
    """Run all at the same time, in threads; returns what each returned or raised."""
    gate = threading.Barrier(len(works))

    def run(work):
        gate.wait()
        try:
            return work()
        except FwError as error:
            return error

    with ThreadPoolExecutor(len(works)) as pool:
        return list(pool.map(run, works))


def test_a_ready_dataset_has_its_file_however_deletes_and_uploads_of_equal_rows_race(context, tmp_path):
    for turn in range(60):
        rows = write_rows(tmp_path / "rows.jsonl", 3, f"{turn}").read_bytes()
        uploaded(context, f"a{turn}", rows)
        _, made, _ = together(
            lambda name=f"a{turn}": datasets.delete(context, name),
            lambda name=f"b{turn}", rows=rows: uploaded(context, name, rows),
            lambda name=f"b{turn}", rows=rows: uploaded(context, name, rows),
        )
        found = context.store.datasets.get(f"b{turn}")
        assert found.state is DatasetState.READY and dataset_path(context.home, found.digest).exists(), made
        datasets.delete(context, f"b{turn}")
        assert list(context.home.datasets.iterdir()) == []


def test_an_evaluator_has_its_source_however_creates_and_deletes_race(context):
    def create(name, turn):
        return evaluators.create(context, CreateEvaluator(evaluator_id=name, source=SOURCE + f"# {turn}\n"))

    for turn in range(40):
        create(f"a{turn}", turn)
        results = together(
            lambda turn=turn: evaluators.delete(context, f"a{turn}"),
            *(lambda turn=turn: create(f"b{turn}", turn) for _ in range(5)),
        )
        found = context.store.evaluators.get(f"b{turn}")
        assert not any(isinstance(result, FwError) for result in results)
        assert evaluator_path(context.home, found.digest).read_text().endswith(f"# {turn}\n")
        evaluators.delete(context, f"b{turn}")
    assert list(context.home.evaluators.iterdir()) == []


def test_a_byte_order_mark_is_no_part_of_an_evaluator(context):
    plain = evaluators.create(context, CreateEvaluator(evaluator_id="plain", source=SOURCE))
    marked = evaluators.create(context, CreateEvaluator(evaluator_id="marked", source="\ufeff" + SOURCE))
    assert marked.digest == plain.digest and evaluator_path(context.home, marked.digest).read_text() == SOURCE


def weights(context, name):
    folder = context.home.models / ("a" * 64)
    folder.mkdir(exist_ok=True)
    (folder / "model.safetensors").write_bytes(b"weights")
    model = Model(
        name=f"accounts/local/models/{name}", kind=ModelKind.BASE, state=ModelState.READY, path=str(folder), digest="d"
    )
    return context.store.models.create(model), folder


def test_a_models_folder_stays_while_another_names_it_and_goes_with_the_last(context):
    _, folder = weights(context, "one")
    weights(context, "two")
    delete_model(context, "one")
    assert folder.exists() and not context.store.models.removed()
    delete_model(context, "two")
    assert list(context.home.models.iterdir()) == []


def test_a_models_folder_stays_while_a_job_may_be_about_to_name_it(context):
    _, folder = weights(context, "one")
    context.store.jobs.create(Job(name="accounts/local/jobs/pull", kind=JobKind.PULL))
    delete_model(context, "one")
    assert folder.exists()
    context.store.jobs.update("pull", lambda job: job.model_copy(update={"state": JobState.FAILED}))
    again = reopened(context)
    assert not folder.exists() and not again.store.models.removed()
    again.store.close()


@pytest.mark.parametrize("kept", [True, False])
def test_what_a_daemon_that_was_killed_had_deleted_is_removed_by_the_next(context, tmp_path, kept):
    rows = write_rows(tmp_path / "rows.jsonl", 3).read_bytes()
    path = dataset_path(context.home, uploaded(context, "a", rows).digest)
    if kept:
        uploaded(context, "b", rows)
    context.store.datasets.delete("a")
    assert path.exists()
    again = reopened(context)
    assert path.exists() is kept and not again.store.datasets.removed()
    again.store.close()


def test_an_upload_that_was_killed_before_its_record_named_the_file_leaves_nothing_for_long(context, tmp_path):
    rows = write_rows(tmp_path / "rows.jsonl", 3).read_bytes()
    named = dataset_path(context.home, uploaded(context, "a", rows).digest)
    fresh, old, new = (context.home.datasets / f"{files.UPLOAD}{name}" for name in ("fresh", "old", "new"))
    for file in (fresh, old, new):
        file.write_bytes(b"{}")
    files.place(old, context.home.datasets / f"{'b' * 64}.jsonl")
    os.link(named, context.home.datasets / f"{files.UPLOAD}again")
    long_ago = time.time() - 2 * files.ABANDONED_S
    for file in (old, named):
        os.utime(file, (long_ago, long_ago))
    again = reopened(context)
    assert sorted(path.name for path in context.home.datasets.iterdir()) == sorted([fresh.name, new.name, named.name])
    again.store.close()


def test_files_that_the_database_does_not_know_are_left_alone(context, tmp_path):
    """A database may be moved away or restored from a copy: what it does not know is not ours to remove."""
    rows = write_rows(tmp_path / "rows.jsonl", 3).read_bytes()
    path = dataset_path(context.home, uploaded(context, "a", rows).digest)
    _, folder = weights(context, "one")
    context.store.close()
    context.home.database.unlink()
    again = reopened(context)
    assert path.exists() and folder.exists()
    again.store.close()


def test_clients_that_pull_one_model_at_the_same_time_get_one_job(server, tmp_path):
    _, services = server
    source = tmp_path / "model"
    source.mkdir()
    for turn in range(10):
        request = PullModel(source=str(source), model_id=f"m{turn}")
        found = together(*[lambda request=request: pulls.pull(services, request)] * 6)
        assert len({model.job for model in found}) == 1, found
        jobs = [job for job in services.store.jobs.list(JobKind.PULL, 200).items if job.makes == found[0].name]
        assert [job.name for job in jobs] == [found[0].job]


def test_clients_that_pull_a_failed_model_again_at_the_same_time_get_one_new_job(server, tmp_path):
    _, services = server
    (tmp_path / "model").mkdir()
    request = PullModel(source=str(tmp_path / "model"), model_id="m")
    first = pulls.pull(services, request).job.rsplit("/", 1)[-1]
    wait_for(lambda: services.store.jobs.get(first).state.ended)
    services.store.models.update("m", lambda model: model.model_copy(update={"state": ModelState.FAILED}))
    found = together(*[lambda: pulls.pull(services, request)] * 6)
    assert len({model.job for model in found}) == 1 and found[0].job.rsplit("/", 1)[-1] != first, found
    assert services.store.jobs.list(JobKind.PULL).total_size == 2
