"""Models, fine-tunes, evaluations and comparisons over HTTP, with the real pull and training programs."""

import json
import shutil
from dataclasses import asdict

import pytest

from engine.catalog.starters import STARTERS
from engine.control.tests.support import ROOT, error_of, running_app, upload, wait_ended, write_rows
from engine.evals.statistics import compare
from engine.jobs.specs import EvaluateResult
from fw_sdk.types import JobState, ScoreSummary, ServedConfiguration
from fw_sdk.types.home import Home

SOURCE = "def evaluate(messages, ground_truth=None, **row):\n    return 1.0\n"


@pytest.fixture(scope="module")
def stocked(tmp_path_factory, tiny_llama_dir):
    """A running app with the tiny model pulled, a dataset uploaded before it was there, and an evaluator."""
    folder = tmp_path_factory.mktemp("stocked")
    home = Home(folder / "home").prepare()
    with running_app(home) as (client, app):
        store = app.state.services.store
        upload(client, "early", write_rows(folder / "rows.jsonl", 12), heldoutFraction=0.3).raise_for_status()
        model = client.post(f"{ROOT}/models:pull", json={"source": str(tiny_llama_dir), "modelId": "tiny"}).json()
        assert model["state"] == "UPLOADING"
        job = wait_ended(store, model["job"].rsplit("/", 1)[-1], 60)
        assert job.state is JobState.COMPLETED, job.failure
        client.post(f"{ROOT}/evaluatorsV2", json={"evaluatorId": "ones", "source": SOURCE}).raise_for_status()
        yield client, app.state.services


def test_a_pulled_folder_is_a_ready_model_and_pulling_it_again_is_harmless(stocked, tiny_llama_dir):
    client, services = stocked
    model = client.get(f"{ROOT}/models/tiny").json()
    assert model["state"] == "READY" and model["kind"] == "HF_BASE_MODEL" and model["digest"].startswith("sha256:")
    assert model["contextLength"] > 0 and model["path"].startswith(str(services.home.models))
    again = client.post(f"{ROOT}/models:pull", json={"source": str(tiny_llama_dir), "modelId": "tiny"}).json()
    assert again == model


@pytest.mark.parametrize(
    ("body", "code", "words"),
    [
        ({"source": "smolm2-135m"}, "not_found", "Did you mean 'smollm2-135m'?"),
        ({"source": "relative/folder"}, "not_found", "must be absolute"),
        ({"source": "/no/such/folder"}, "not_found", "no such file"),
        ({"source": "/", "modelId": "tiny"}, "already_exists", "tiny"),
        ({"source": "/", "modelId": "Bad Id"}, "invalid_argument", "Bad Id"),
    ],
)
def test_wrong_pulls_are_refused_before_a_job_begins(stocked, body, code, words):
    client, services = stocked
    before = services.store.jobs.list().total_size
    found = error_of(client.post(f"{ROOT}/models:pull", json=body))
    assert found["code"] == code and words in found["message"]
    assert services.store.jobs.list().total_size == before


@pytest.mark.parametrize("model_id", ["tiny", "tiny-again"])
def test_a_pull_is_estimated_before_anything_is_copied(stocked, tiny_llama_dir, model_id):
    client, services = stocked
    before = services.store.jobs.list().total_size
    found = client.post(f"{ROOT}/models:estimate", json={"source": str(tiny_llama_dir), "modelId": model_id}).json()
    size = 0 if model_id == "tiny" else sum(path.stat().st_size for path in tiny_llama_dir.iterdir())
    assert found["present"] is (model_id == "tiny") and found["downloadBytes"] == 0 and found["fits"] is True
    assert 0.9 * size <= found["diskBytes"] <= size and found["diskFreeBytes"] > 0
    starter = client.post(f"{ROOT}/models:estimate", json={"source": "smollm2-135m"}).json()
    assert starter["downloadBytes"] == STARTERS["smollm2-135m"].wheel_bytes and starter["licence"] == "Apache-2.0"
    wrong = error_of(client.post(f"{ROOT}/models:estimate", json={"source": "smolm2-135m"}))
    assert wrong["code"] == "not_found" and services.store.jobs.list().total_size == before


def test_a_pull_that_does_not_fit_says_so_before_it_begins(stocked, monkeypatch):
    client, _ = stocked
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9 - 5, 5))
    found = client.post(f"{ROOT}/models:estimate", json={"source": "smollm2-135m"}).json()
    assert found["fits"] is False and found["diskFreeBytes"] == 5


def test_a_folder_without_a_model_fails_its_job_and_can_be_pulled_again(stocked, tmp_path):
    client, services = stocked
    (tmp_path / "notes.txt").write_text("no model")
    body = {"source": str(tmp_path), "modelId": "nothing"}
    jobs = []
    for _ in range(2):
        jobs.append(client.post(f"{ROOT}/models:pull", json=body).json()["job"].rsplit("/", 1)[-1])
        failure = wait_ended(services.store, jobs[-1], 30).failure
        assert failure.code in ("model_unsupported", "not_found") and failure.hint
        assert client.get(f"{ROOT}/models/nothing").json()["state"] == "FAILED"
    assert jobs[0] != jobs[1]


def test_estimate_and_preview_count_what_the_renderer_makes(stocked):
    client, _ = stocked
    body = {"dataset": "early", "baseModel": "tiny", "datasetSplit": "train", "epochs": 2}
    estimate = client.post(f"{ROOT}/supervisedFineTuningJobs:estimate", json=body).json()
    report = client.get(f"{ROOT}/datasets/early").json()["report"]
    assert estimate["rows"] == report["trainRows"] and estimate["steps"] >= 2
    assert 0 < estimate["trainedTokensPerEpoch"] < estimate["tokensPerEpoch"] < report["tokens"]["total"]
    rows = client.get(f"{ROOT}/datasets/early:preview", params={"model": "tiny", "limit": 2}).json()["rows"]
    assert len(rows) == 2 and "".join(t["text"] for t in rows[0] if t["trained"]).startswith("a 0")
    assert "q 0" in "".join(t["text"] for t in rows[0] if not t["trained"])


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        ({"dataset": "erly"}, "not_found", "'early'"),
        ({"baseModel": "tinny"}, "not_found", "'tiny'"),
        ({"learningRat": 1}, "invalid_argument", "did you mean 'learningRate'?"),
        ({"epochs": 0}, "invalid_argument", "'epochs'"),
        ({"outputModel": "tiny"}, "already_exists", "tiny"),
        ({"maxContextLength": 10**6}, "invalid_argument", "maxContextLength"),
        ({"evaluationDataset": "waiting"}, "failed_precondition", "no rows yet"),
        ({"dataset": "one", "datasetSplit": "heldout"}, "failed_precondition", "no held-out rows"),
    ],
)
def test_a_wrong_fine_tune_is_refused_and_reserves_nothing(stocked, tmp_path, change, code, words):
    client, services = stocked
    client.post(f"{ROOT}/datasets", json={"datasetId": "waiting"})
    upload(client, "one", write_rows(tmp_path / "rows.jsonl", 1), heldoutFraction=0.0)
    models, jobs = services.store.models.ids(), services.store.jobs.list().total_size
    found = error_of(
        client.post(f"{ROOT}/supervisedFineTuningJobs", json={"dataset": "early", "baseModel": "tiny", **change})
    )
    assert found["code"] == code and words in found["message"]
    assert (services.store.models.ids(), services.store.jobs.list().total_size) == (models, jobs)


def test_a_fine_tune_makes_a_ready_adapter_with_its_lineage(stocked):
    client, services = stocked
    body = {"dataset": "early", "baseModel": "tiny", "epochs": 1, "loraRank": 4, "datasetSplit": "train"}
    query = {"supervisedFineTuningJobId": "ft-one"}
    job = client.post(f"{ROOT}/supervisedFineTuningJobs", params=query, json=body).json()
    assert job["outputModel"] == "accounts/local/models/early-lora-0001" and job["training"]["loraRank"] == 4
    assert client.post(f"{ROOT}/supervisedFineTuningJobs", params=query, json=body).json()["name"] == job["name"]
    other = client.post(f"{ROOT}/supervisedFineTuningJobs", params=query, json={**body, "epochs": 2})
    assert error_of(other)["code"] == "already_exists"
    in_use = error_of(client.delete(f"{ROOT}/datasets/early"))
    ended = wait_ended(services.store, "ft-one", 120)
    assert ended.state is JobState.COMPLETED, (ended.failure, services.jobs.logs("ft-one", 30))
    assert in_use["code"] == "failed_precondition" and "ft-one" in in_use["message"]
    model = client.get(f"{ROOT}/models/early-lora-0001").json()
    assert model["state"] == "READY" and model["kind"] == "HF_PEFT_ADDON" and model["peftDetails"]["r"] == 4
    assert model["digest"] == ended.result["adapterDigest"]
    assert model["lineage"]["datasetDigest"] == client.get(f"{ROOT}/datasets/early").json()["digest"]
    assert "adapter 'early-lora-0001'" in error_of(client.delete(f"{ROOT}/models/tiny"))["message"]
    assert ended.progress.percent == 100


def test_rows_that_the_candidate_was_trained_on_are_counted(stocked, monkeypatch):
    client, services = stocked
    body = {"dataset": "early", "baseModel": "tiny", "epochs": 1, "loraRank": 4, "datasetSplit": "train"}
    job = client.post(f"{ROOT}/supervisedFineTuningJobs", json=body).json()
    assert wait_ended(services.store, job["name"].rsplit("/", 1)[1], 120).state is JobState.COMPLETED
    monkeypatch.setattr(services.jobs, "_draining", True)
    report = client.get(f"{ROOT}/datasets/early").json()["report"]
    tuned = job["outputModel"].rsplit("/", 1)[1]
    counted = {}
    for split, rows in (("all", report["validRows"]), ("heldout", report["validRows"])):
        completed(client, services, f"base-{split}", [0] * rows, inputSplit=split)
        completed(client, services, f"tuned-{split}", [1] * rows, inputSplit=split, model=tuned)
        pair = {"baseline": f"base-{split}", "candidate": f"tuned-{split}"}
        counted[split] = client.post(f"{ROOT}/comparisons", json=pair).json()["trainedOn"]
    assert counted == {"all": report["trainRows"], "heldout": 0}


CONFIGURATION = ServedConfiguration(
    model="tiny", model_digest="sha256:1", base_digest="sha256:1", dtype="fp32", template_digest="sha256:2"
)
SUMMARY = ScoreSummary(n=8, mean=0.5, ci={"low": 0.2, "high": 0.8})


def completed(client, services, identifier, scores, *, summary=SUMMARY, **fields):
    """An evaluation that a person with other means ran: queued for real, then stored again with its end.

    It never runs in between, since the supervision would look for the program of a job that does.
    """
    evaluation = {"evaluator": "ones", "inputDataset": "early", "model": "tiny", **fields}
    body = {"evaluationJobId": identifier, "evaluationJob": evaluation}
    client.post(f"{ROOT}/evaluationJobs", json=body).raise_for_status()
    services.jobs.cancel(identifier)
    cancelled = wait_ended(services.store, identifier)
    directory = services.jobs.directory(identifier)
    directory.mkdir(exist_ok=True)
    lines = [{"index": n, "line": n + 1, "score": score, "output": ""} for n, score in enumerate(scores)]
    (directory / "scores.jsonl").write_text("".join(json.dumps(line) + "\n" for line in reversed(lines)))
    result = EvaluateResult(
        summary=summary, configuration=CONFIGURATION, tokens_generated=7, tokens_prompt=30, seconds=1.5
    )
    done = {name: getattr(result, name) for name in ("tokens_generated", "tokens_prompt", "seconds", "summary")}
    configuration = CONFIGURATION.model_copy(update={"model_digest": cancelled.model_digest})
    done |= {"configuration": configuration, "state": JobState.COMPLETED}
    services.store.jobs.delete(identifier)
    services.store.jobs.create(cancelled.model_copy(update=done))


@pytest.fixture
def paused(stocked, monkeypatch):
    """The same app with a queue that launches nothing, so that evaluations can be given their scores."""
    client, services = stocked
    monkeypatch.setattr(services.jobs, "_draining", True)
    return client, services


def test_comparisons_pair_rows_and_show_what_both_sides_cost(paused):
    client, services = paused
    before, after = [0, 0, 0, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 1, 1, 0]
    completed(client, services, "base", before)
    completed(client, services, "tuned", after)
    body = {"baseline": "base", "candidate": "accounts/local/evaluationJobs/tuned", "comparisonId": "c"}
    made = client.post(f"{ROOT}/comparisons", json=body).json()
    expected = compare(dict(enumerate(map(float, before), 1)), dict(enumerate(map(float, after), 1)))
    for name in ("delta", "n", "wins", "losses", "ties", "verdict"):
        assert made[name] == asdict(expected)[name]
    assert made["ci"]["low"] == pytest.approx(expected.ci.low) and made["pValue"] == pytest.approx(expected.p_value)
    assert made["cost"]["baseline_tokens"] == 37.0 and made["cost"]["candidate_seconds"] == 1.5
    assert client.post(f"{ROOT}/comparisons", json=body).json() == made
    assert client.get(f"{ROOT}/comparisons/c").json() == made
    page = client.get(f"{ROOT}/evaluationJobs/base:scores", params={"pageSize": 3}).json()
    assert [score["line"] for score in page["scores"]] == [1, 2, 3] and page["totalSize"] == 8
    rest = client.get(f"{ROOT}/evaluationJobs/base:scores", params={"pageToken": page["nextPageToken"]}).json()
    assert [score["line"] for score in rest["scores"]] == [4, 5, 6, 7, 8] and rest["nextPageToken"] == ""


def test_rows_without_a_score_are_at_their_end_of_the_declared_range_and_counted(paused):
    client, services = paused
    declared = SUMMARY.model_copy(update={"score_range": (-2.0, 3.0)})
    completed(client, services, "sound", [0.5] * 8, summary=declared)
    completed(client, services, "crashing", [1.0] * 6 + [None] * 2, summary=declared)
    for baseline, candidate, failed, delta in (
        ("sound", "crashing", (0, 2), (6 * 0.5 - 2 * 2.5) / 8),
        ("crashing", "sound", (2, 0), (-6 * 0.5 - 2 * 2.5) / 8),
    ):
        made = client.post(f"{ROOT}/comparisons", json={"baseline": baseline, "candidate": candidate}).json()
        assert (made["baselineFailedRows"], made["candidateFailedRows"], made["verdict"]) == (*failed, "invalid")
        assert made["delta"] == pytest.approx(delta) and made["scoreRange"] == [-2.0, 3.0]


def test_what_did_not_score_the_same_rows_is_not_compared(paused, tmp_path):
    client, services = paused
    upload(client, "late", write_rows(tmp_path / "rows.jsonl", 8, "other")).raise_for_status()
    completed(client, services, "a", [1] * 8)
    completed(client, services, "b", [1] * 8, inputDataset="late")
    completed(client, services, "s", [1] * 8, inputSplit="train")
    completed(client, services, "short", [1] * 7)
    for candidate, words in (("b", "dataset digest"), ("s", "split"), ("short", "8 lines and 7 lines")):
        found = error_of(client.post(f"{ROOT}/comparisons", json={"baseline": "a", "candidate": candidate}))
        assert found["code"] == "failed_precondition" and words in found["message"]
    body = {"evaluationJobId": "p", "evaluationJob": {"evaluator": "ones", "inputDataset": "early", "model": "tiny"}}
    client.post(f"{ROOT}/evaluationJobs", json=body).raise_for_status()
    found = error_of(client.post(f"{ROOT}/comparisons", json={"baseline": "a", "candidate": "p"}))
    assert "pending" in found["message"] and ":wait" in found["hint"]
    assert "No evaluation 'ft-one'" in client.get(f"{ROOT}/evaluationJobs/ft-one").json()["message"]
    services.jobs.cancel("p")
