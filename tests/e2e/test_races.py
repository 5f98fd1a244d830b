"""Many clients at once on a few names, by seeded random schedules: what must be true whatever order things come in."""

from __future__ import annotations

import hashlib
import json
import random
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest
from safetensors.numpy import load_file, save_file

from engine.catalog.digests import digest_model
from engine.control.inventory.references import dataset_path, evaluator_path
from engine.control.jobs.program import python
from engine.control.kinds import KINDS
from engine.control.store.job_table import NEXT
from engine.control.tests.daemon_process import Daemon
from engine.control.tests.little_program import STEP_S
from engine.control.tests.support import LITTLE, ROOT, running_app, wait_for
from fw_sdk.types import Job, JobKind, JobState, Model, ModelKind, ModelState
from fw_sdk.types.home import Home
from tests.e2e.place import processes_of

CLIENTS, ROUNDS, ACTS = 6, 3, 14
NAMES = ("a", "b", "c")
ANCHORS = ("anchor-1", "anchor-2", "anchor-3")
SOURCES = [f"def evaluate(messages, ground_truth=None, **row):\n    return {score}\n" for score in (0.0, 1.0)]
JOB_COLLECTIONS = ("supervisedFineTuningJobs", "evaluationJobs", "pipelines", "jobs")
COLLECTIONS = ("datasets", "models", "evaluators", *JOB_COLLECTIONS)
PROGRAMS = (JobKind.PULL, JobKind.EVALUATE, JobKind.FINETUNE)


def rows(turn: int) -> bytes:
    texts = [("user", f"{turn} question {number}") for number in range(6)]
    turns = [[{"role": role, "content": text}, {"role": "assistant", "content": "yes"}] for role, text in texts]
    return "".join(json.dumps({"messages": turn}) + "\n" for turn in turns).encode()


class RandomClient:
    """One client with a connection of its own that does what a seed says and checks what it is told."""

    def __init__(self, url: str, token: str, seed: str, base: Path) -> None:
        self._draw, self._base = random.Random(seed), base
        headers = {"authorization": f"Bearer {token}"}
        self._http = httpx.Client(base_url=url, headers=headers, timeout=60, trust_env=False)
        self._last: tuple[str, dict[str, Any], httpx.Response] | None = None

    def run(self) -> None:
        """Do the acts of one round."""
        acts: list[Callable[[], object]] = [
            *[self._make_rows, self._upload, self._make_evaluator, self._pull, self._evaluate, self._fine_tune],
            *[self._evaluate, self._pipeline, self._repeat, self._delete, self._delete, self._steer, self._steer],
            *[self._steer, self._follow, self._wait, self._page, self._look],
        ]
        with self._http:
            for _ in range(ACTS):
                self._draw.choice(acts)()

    def _name(self, collection: str) -> str:
        """One of the few names, bare or in full."""
        name = self._draw.choice(NAMES)
        return name if self._draw.random() < 0.5 else f"accounts/local/{collection}/{name}"

    def _call(self, method: str, path: str, **options: Any) -> httpx.Response:
        reply = self._http.request(method, f"{ROOT}/{path}", **options)
        assert reply.status_code < 500, f"{method} {path}: {reply.text}"
        return reply

    def _post(self, path: str, body: dict[str, Any]) -> httpx.Response:
        """A create with a key, remembered for a repetition."""
        key = f"{self._draw.getrandbits(64):x}"
        options = {"json": body, "headers": {"idempotency-key": key}}
        reply = self._call("POST", path, **options)
        self._last = (path, options, reply)
        return reply

    def _make_rows(self) -> None:
        file = {"file": rows(self._draw.randrange(2))}
        self._call("POST", "datasets:upload", params={"datasetId": self._name("datasets")}, files=file)

    def _upload(self) -> None:
        name = self._draw.choice(NAMES)
        self._post("datasets", {"datasetId": name})
        self._call("POST", f"datasets/{name}:upload", files={"file": rows(self._draw.randrange(2))})

    def _make_evaluator(self) -> None:
        self._post("evaluatorsV2", {"evaluatorId": self._draw.choice(NAMES), "source": self._draw.choice(SOURCES)})

    def _pull(self) -> None:
        self._post("models:pull", {"source": str(self._base), "modelId": self._name("models")})

    def _evaluate(self) -> None:
        fields = {"model": "tiny", "inputDataset": self._name("datasets"), "evaluator": self._name("evaluators")}
        body: dict[str, Any] = {"evaluationJob": {**fields, "inputSplit": "all"}}
        if self._draw.random() < 0.7:
            body["evaluationJobId"] = self._draw.choice(NAMES)
        self._post("evaluationJobs", body)

    def _fine_tune(self) -> None:
        body = {"baseModel": "tiny", "dataset": self._name("datasets"), "outputModel": self._name("models")}
        self._post(f"supervisedFineTuningJobs?supervisedFineTuningJobId={self._draw.choice(NAMES)}", body)

    def _pipeline(self) -> None:
        names = {"dataset": self._name("datasets"), "evaluator": self._name("evaluators")}
        self._post("pipelines", {"pipelineId": self._draw.choice(NAMES), "baseModel": "tiny", **names})

    def _repeat(self) -> None:
        """The last create again, with its key: an equal reply if it had succeeded."""
        if self._last is not None:
            path, options, before = self._last
            again = self._call("POST", path, **options)
            if before.status_code == 200:
                assert (again.status_code, again.json()) == (200, before.json())

    def _delete(self) -> None:
        """What is said to be deleted is gone; at most a younger one bears its name."""
        path = f"{self._draw.choice(COLLECTIONS)}/{self._draw.choice(NAMES)}"
        before = self._call("GET", path)
        if self._call("DELETE", path).status_code == 200 and before.status_code == 200:
            after = self._call("GET", path)
            assert after.status_code == 404 or after.json()["generation"] > before.json()["generation"]

    def _steer(self) -> None:
        jobs = [job["name"].rsplit("/", 1)[-1] for job in self._call("GET", "jobs").json()["jobs"]]
        job = self._draw.choice(NAMES if self._draw.random() < 0.7 or not jobs else jobs)
        self._call("POST", f"jobs/{job}:{self._draw.choice(('cancel', 'resume'))}", json={})

    def _follow(self) -> None:
        """Some events of a job, in order and without gaps, then the connection is dropped."""
        most = self._draw.randrange(1, 6)
        with self._http.stream("GET", f"{ROOT}/jobs/{self._draw.choice(NAMES)}:events") as stream:
            assert stream.status_code in (200, 404)
            if stream.status_code == 200:
                numbers = []
                for line in stream.iter_lines():
                    numbers += [int(found[1])] if (found := re.fullmatch(r"id: (\d+)", line)) else []
                    if len(numbers) == most:
                        break
                assert numbers == list(range(1, len(numbers) + 1))

    def _wait(self) -> None:
        self._call("GET", f"jobs/{self._draw.choice(NAMES)}:wait?timeoutS={self._draw.uniform(0, 0.3)}")

    def _page(self) -> None:
        """Page by page, nothing comes twice, and what stays all the time is there."""
        token, seen = "", []
        while True:
            page = self._call("GET", "datasets", params={"pageSize": 2, "pageToken": token}).json()
            seen += [(item["name"].rsplit("/", 1)[-1], item["generation"]) for item in page["datasets"]]
            token = page.get("nextPageToken")
            if not token:
                break
        assert len(seen) == len(set(seen)) and {(name, 1) for name in ANCHORS} <= set(seen)

    def _look(self) -> None:
        name = self._draw.choice(NAMES)
        for path in (f"datasets/{name}:rows", f"datasets/{name}:preview?model=tiny", f"jobs/{name}:logs", "overview"):
            self._call("GET", path)


class World:
    """A running app, and what must be true of its store and its files between any two rounds."""

    def __init__(self, home: Home, services: Any, url: str, base: Path) -> None:
        self.home, self.services, self.url, self._base = home, services, url, base
        self._generations: dict[tuple[str, str], int] = {}

    def round(self, seed: str) -> None:
        """All clients at once, each through its acts."""
        made = [RandomClient(self.url, self.home.token(), f"{seed}-{number}", self._base) for number in range(CLIENTS)]
        with ThreadPoolExecutor(CLIENTS) as pool:
            running = [pool.submit(client.run) for client in made]
            while not all(one.done() for one in running):
                self.check_at_once()
                time.sleep(0.02)
            for one in running:
                one.result()

    def check_at_once(self) -> None:
        """``check`` between two transactions: the condition of a discard is asked while nobody else writes."""

        def condition(_: object) -> bool:
            self.check()
            return False

        assert not self.services.store.datasets.discard(ANCHORS[0], condition)

    def settle(self) -> None:
        """Cancel what has not ended and wait for it."""
        jobs = self.services.store.jobs

        def ended() -> bool:
            for job in jobs.unended():
                if job.state is not JobState.CANCELLING:
                    self.services.jobs.cancel(job.id)
            return not jobs.unended()

        wait_for(ended, 120)

    def check(self) -> None:
        """Every invariant that holds while jobs may run."""
        store = self.services.store
        for dataset in store.datasets.all():
            if dataset.digest:
                self._is_file(dataset_path(self.home, dataset.digest), dataset.digest)
        for evaluator in store.evaluators.all():
            self._is_file(evaluator_path(self.home, evaluator.digest), evaluator.digest)
        for job in store.jobs.list(None, 200).items:
            self._check_job(job)
        for things in (store.datasets.all(), store.models.all(), store.evaluators.all()):
            for thing in things:
                self._grows(thing)

    def check_settled(self) -> None:
        """What is true besides when nothing runs: nothing waits, no process lives, no file is on its way."""
        for model in self.services.store.models.all():
            job = self.services.store.jobs.find(str(model.job).rsplit("/", 1)[-1])
            assert model.state is not ModelState.UPLOADING, (model, job)
        wait_for(lambda: not processes_of(self.home.root), 30)
        for folder in (self.home.datasets, self.home.evaluators, self.home.models, self.home.jobs):
            wait_for(lambda folder=folder: not [path for path in folder.iterdir() if path.name.startswith(".")])
        known = {job.id for job in self.services.store.jobs.list(None, 200).items}
        assert {path.name for path in self.home.jobs.iterdir()} <= known
        named = {thing.digest for thing in self.services.store.datasets.all()}
        kept = {f"sha256:{path.stem}" for path in self.home.datasets.glob("*.jsonl")}
        assert kept <= named

    def _is_file(self, path: Path, digest: str) -> None:
        assert f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}" == digest

    def _grows(self, thing: Any) -> None:
        key = tuple(thing.name.split("/")[-2:])
        assert thing.generation >= self._generations.get(key, 1)
        self._generations[key] = thing.generation

    def _check_job(self, job: Job) -> None:
        store = self.services.store
        self._grows(job.model_copy(update={"name": f"accounts/local/jobs/{job.id}"}))
        events = store.jobs.events(job.id)
        now = store.jobs.find(job.id)
        assert [event.seq for event in events] == list(range(1, len(events) + 1))
        states = [JobState(event.data["state"]) for event in events if event.type == "state"]
        assert states[0] is JobState.PENDING
        assert all(after in NEXT[before] for before, after in pairwise(states)), states
        assert (now.failure is not None) == (now.state is JobState.FAILED), now
        assert (now.result is not None) == (now.state is JobState.COMPLETED)
        if not now.state.ended:
            self._check_inputs(now)
        work = self.home.jobs / job.id / "work.txt"
        if work.exists():
            lines = work.read_text().splitlines()
            assert lines == [str(number) for number in range(1, len(lines) + 1)], "no two programs wrote at once"

    def _check_inputs(self, job: Job) -> None:
        """An unfinished job has what it uses, as it was, and the model that it makes."""
        finders = {name: getattr(self.services.store, name) for name in ("datasets", "models", "evaluators")}
        for ref in job.uses:
            found = finders[ref.name.split("/")[-2]].find(ref.id)
            digest = found and getattr(found, "identity", found.digest)
            assert found is not None and ref.digest in (None, digest), (job.id, ref)
        if job.makes and job.kind is not JobKind.PIPELINE:
            made = self.services.store.models.find(job.makes.rsplit("/", 1)[-1])
            ended = self.services.store.jobs.get(job.id).state.ended
            assert ended or (made is not None and made.job == job.name), job


@pytest.fixture
def world(tmp_path: Path, tiny_llama_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """An app whose jobs run the little program, with a READY base model and datasets that nobody touches."""
    for kind in PROGRAMS:
        monkeypatch.setitem(KINDS, kind, replace(KINDS[kind], program=python(LITTLE), variables=(STEP_S,)))
    monkeypatch.setenv(STEP_S, "0.1")
    home = Home(tmp_path / "home").prepare()
    with running_app(home) as (client, app):
        fields = {"path": str(tiny_llama_dir), "digest": digest_model(tiny_llama_dir), "state": ModelState.READY}
        tiny = Model(name="accounts/local/models/tiny", kind=ModelKind.BASE, context_length=256, **fields)
        app.state.services.store.models.create(tiny)
        for name in ANCHORS:
            file = {"file": rows(9)}
            client.post(f"{ROOT}/datasets:upload?datasetId={name}", files=file).raise_for_status()
        yield World(home, app.state.services, str(client.base_url), tiny_llama_dir)


@pytest.mark.parametrize("seed", range(3))
def test_no_schedule_leaves_anything_impossible(world: World, seed: int) -> None:
    for number in range(ROUNDS):
        world.round(f"{seed}-{number}")
        world.check_at_once()
    world.settle()
    world.check_at_once()
    world.check_settled()


@contextmanager
def asking(daemon: Daemon, model: str, replies: list[httpx.Response]) -> Iterator[None]:
    """A client that asks all the while."""
    over = threading.Event()

    def ask() -> None:
        body = {"model": model, "prompt": "a", "max_tokens": 2, "temperature": 0}
        while not over.is_set():
            replies.append(daemon.request("POST", "/v1/completions", json=body))
            time.sleep(0.05)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@pytest.fixture
def daemon(tmp_path: Path, tiny_llama_dir: Path) -> Iterator[Daemon]:
    """A daemon with two base models that differ in their weights."""
    other = Path(shutil.copytree(tiny_llama_dir, tmp_path / "other"))
    weights = load_file(other / "model.safetensors")
    changed = {name: (tensor + tensor.std() * 0.1).astype(tensor.dtype) for name, tensor in weights.items()}
    save_file(changed, other / "model.safetensors", metadata={"format": "pt"})
    daemon = Daemon(tmp_path / "home").start()
    try:
        daemon.pull(tiny_llama_dir, "tiny")
        daemon.pull(other, "other")
        yield daemon
    finally:
        daemon.shut_down()
        assert processes_of(daemon.home.root) == []


def test_who_asks_while_a_deployment_is_replaced_gets_an_answer_of_the_old_or_the_new(daemon: Daemon) -> None:
    digests = {name: daemon.call("GET", f"models/{name}")["digest"] for name in ("tiny", "other")}
    assert len(set(digests.values())) == 2
    path, replies = f"{ROOT}/deployments?deploymentId=tiny", []
    daemon.call("POST", "deployments?deploymentId=tiny", {"baseModel": "tiny", "force": True})
    daemon.wait_deployment("tiny")
    with asking(daemon, "deployments/tiny", replies), ThreadPoolExecutor(4) as pool:
        for model in ("other", "tiny", "other"):
            body = {"baseModel": model, "force": True}
            made = [pool.submit(daemon.request, "POST", path, json=body) for _ in range(3)]
            assert {one.result().status_code for one in made} == {200}
            assert daemon.request("DELETE", f"{ROOT}/models/{model}").status_code == 409, "it is served, or about to be"
            daemon.wait_deployment("tiny")
            before = len(replies)
            daemon.until(lambda before=before: len(replies) > before + 1, "another answer")
            assert replies[-1].headers["x-fw-model-digest"] == digests[model]
    assert {reply.status_code for reply in replies} == {200}, [reply.text for reply in replies if reply.is_error]
    assert {reply.headers["x-fw-model-digest"] for reply in replies} == set(digests.values())
    assert daemon.request("DELETE", f"{ROOT}/deployments/tiny").status_code == 200
    assert daemon.request("GET", f"{ROOT}/deployments/tiny").status_code == 404


def test_a_deployment_and_its_model_are_not_both_there_and_gone(daemon: Daemon, tmp_path: Path) -> None:
    """A model is deleted while it is deployed: either the delete or the deployment is refused."""
    body = {"baseModel": "other", "force": True}
    for _ in range(4):
        with ThreadPoolExecutor(2) as pool:
            made = pool.submit(daemon.request, "POST", f"{ROOT}/deployments?deploymentId=d", json=body)
            gone = pool.submit(daemon.request, "DELETE", f"{ROOT}/models/other")
            outcome = (made.result().status_code, gone.result().status_code)
        assert outcome in ((200, 409), (404, 200), (409, 200)), (made.result().text, gone.result().text)
        if outcome[0] == 200:
            assert daemon.request("DELETE", f"{ROOT}/deployments/d").status_code == 200
        assert daemon.request("GET", f"{ROOT}/deployments/d").status_code == 404
        if outcome[1] == 200:
            daemon.pull(tmp_path / "other", "other")
