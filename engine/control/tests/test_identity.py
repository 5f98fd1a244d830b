"""What a number is about: names are used again on purpose, and no earlier thing's result is taken for the later's."""

import json

import pytest

from engine.catalog import digest_tree
from engine.control.tests.daemon_process import write_adapter
from engine.control.tests.support import ROOT, error_of, running_app, upload, wait_ended, wait_for, write_rows
from engine.jobs.files import append_line
from fw_sdk.types import (
    Comparison,
    DeploymentState,
    Evaluation,
    FineTuningJob,
    Interval,
    JobKind,
    JobState,
    Lineage,
    Model,
    ModelKind,
    ModelState,
    PeftDetails,
    RowScore,
    ScoreSummary,
    ServedConfiguration,
)
from fw_sdk.types.home import Home

LENGTHS = "def evaluate(messages, ground_truth=None, **row):\n    return float(len(messages[-1]['content']) % 7)\n"
FIELDS = {"baseModel": "models", "dataset": "datasets", "evaluator": "evaluators"}
BASE, TUNED = "sha256:" + "b" * 64, "sha256:" + "a" * 64


@pytest.fixture
def app(tmp_path):
    with running_app(Home(tmp_path / "home").prepare()) as (client, app):
        yield client, app.state.services


def store_evaluation(services, identifier, scores, model, digest, rows, dataset="rows"):
    """A completed evaluation as its program would have left it."""
    directory = services.jobs.directory(identifier)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "scores.jsonl").unlink(missing_ok=True)
    for index, score in enumerate(scores):
        append_line(directory / "scores.jsonl", RowScore(index=index, line=index + 1, score=score).to_wire())
    configuration = ServedConfiguration(
        model=model,
        model_digest=digest,
        base_digest=BASE,
        dtype="f32",
        template_digest="t",
        sampling={"temperature": 0.0, "topP": 1.0},
    )
    mean = sum(scores) / len(scores)
    services.store.jobs.create(
        Evaluation(
            name=f"accounts/local/evaluationJobs/{identifier}",
            kind=JobKind.EVALUATE,
            state=JobState.COMPLETED,
            model=f"accounts/local/models/{model}",
            evaluator="accounts/local/evaluators/ev",
            evaluator_digest="sha256:e",
            input_dataset=f"accounts/local/datasets/{dataset}",
            dataset_digest=rows,
            configuration=configuration,
            summary=ScoreSummary(n=len(scores), mean=mean, ci=Interval(low=mean, high=mean)),
        )
    )


def make_model(services, identifier, digest, **fields):
    name = f"accounts/local/models/{identifier}"
    fields = {"kind": ModelKind.BASE, "state": ModelState.READY, "path": f"/nowhere/{identifier}", **fields}
    return services.store.models.create(Model(name=name, digest=digest, **fields))


def digest_of_rows(client, path, name="rows"):
    return upload(client, name, path).json()["digest"]


def test_a_verdict_is_never_that_of_earlier_evaluations_under_the_same_names(app, tmp_path):
    client, services = app
    rows = digest_of_rows(client, write_rows(tmp_path / "r.jsonl", 40))
    make_model(services, "base", BASE)
    make_model(services, "tuned", TUNED, kind=ModelKind.ADAPTER)
    body = {"baseline": "e-base", "candidate": "e-tuned", "comparisonId": "c"}
    store_evaluation(services, "e-base", [0.0] * 40, "base", BASE, rows)
    store_evaluation(services, "e-tuned", [1.0] * 40, "tuned", TUNED, rows)
    first = client.post(f"{ROOT}/comparisons", json=body).json()
    assert (first["verdict"], first["delta"], first["verified"]) == ("better", 1.0, True)
    for job in ("e-base", "e-tuned"):
        client.delete(f"{ROOT}/jobs/{job}").raise_for_status()
    later = "sha256:" + "c" * 64
    services.store.models.delete("tuned")
    make_model(services, "tuned", later, kind=ModelKind.ADAPTER)
    store_evaluation(services, "e-base", [1.0] * 40, "base", BASE, rows)
    store_evaluation(services, "e-tuned", [0.0] * 40, "tuned", later, rows)
    found = error_of(client.post(f"{ROOT}/comparisons", json=body))
    assert found["code"] == "already_exists" and "'c'" in found["message"]
    second = client.post(f"{ROOT}/comparisons", json={**body, "comparisonId": None}).json()
    assert (second["verdict"], second["delta"]) == ("worse", -1.0)
    assert client.post(f"{ROOT}/comparisons", json={**body, "comparisonId": None}).json() == second
    old = client.get(f"{ROOT}/comparisons/c").json()
    assert old["verdict"] == "better" and any("'tuned'" in line and TUNED[:19] in line for line in old["superseded"])
    refused = client.post(f"{ROOT}/deployments", json={"baseModel": "tuned", "comparison": "c"})
    assert error_of(refused)["code"] in ("gate_not_met", "failed_precondition", "not_found")
    client.delete(f"{ROOT}/comparisons/c").raise_for_status()
    assert client.post(f"{ROOT}/comparisons", json=body).json()["verdict"] == "worse"


def test_a_comparison_of_the_first_wave_passes_no_gate(app):
    client, services = app
    numbers = {"baseline_mean": 0.0, "candidate_mean": 1.0, "delta": 1.0, "n": 9, "wins": 9, "losses": 0, "ties": 0}
    old = Comparison(
        name="accounts/local/comparisons/old",
        baseline="accounts/local/evaluationJobs/a",
        candidate="accounts/local/evaluationJobs/b",
        candidate_model="accounts/local/models/m",
        ci=Interval(low=1, high=1),
        verdict="better",
        **numbers,
    )
    services.store.comparisons.create(old)
    make_model(services, "m", TUNED)
    found = error_of(client.post(f"{ROOT}/deployments", json={"baseModel": "m", "comparison": "old"}))
    assert found["code"] == "gate_not_met" and "unverified" in found["message"]


def test_what_was_trained_on_is_known_by_digest_whatever_becomes_of_the_dataset(app, tmp_path):
    client, services = app
    path = write_rows(tmp_path / "r.jsonl", 20)
    rows = digest_of_rows(client, path, "train")
    upload(client, "test", path).raise_for_status()
    lineage = Lineage(
        base_model="accounts/local/models/base",
        base_digest=BASE,
        dataset="accounts/local/datasets/train",
        dataset_digest=rows,
        job="accounts/local/supervisedFineTuningJobs/ft",
    )
    ref = {"path": "/x", "split": "train", "heldoutFraction": 0.5, "splitSeed": 0, "digest": rows, "name": "train"}
    job = FineTuningJob(
        name=str(lineage.job),
        kind=JobKind.FINETUNE,
        state=JobState.COMPLETED,
        spec={"rows": ref},
        dataset=lineage.dataset,
    )
    services.store.jobs.create(job)
    make_model(services, "base", BASE)
    make_model(services, "tuned", TUNED, kind=ModelKind.ADAPTER, lineage=lineage)
    store_evaluation(services, "e0", [0.0] * 20, "base", BASE, rows, "test")
    store_evaluation(services, "e1", [1.0] * 20, "tuned", TUNED, rows, "test")

    def trained_on(identifier):
        body = {"baseline": "e0", "candidate": "e1", "comparisonId": identifier}
        return client.post(f"{ROOT}/comparisons", json=body).json().get("trainedOn")

    truth = trained_on("c-1")
    assert 0 < truth < 20, "one side of the split was trained on"
    for dataset in ("train", "test"):
        client.delete(f"{ROOT}/datasets/{dataset}").raise_for_status()
    assert trained_on("c-2") == truth
    client.post(f"{ROOT}/datasets", json={"datasetId": "train"}).raise_for_status()
    assert trained_on("c-3") == truth
    other = write_rows(tmp_path / "o.jsonl", 20, "other").read_bytes()
    client.post(f"{ROOT}/datasets/train:upload", files={"file": other}).raise_for_status()
    assert trained_on("c-4") == truth
    kept = next(services.home.datasets.glob("*.questions.json"))
    assert "q 1" not in kept.read_text(), "digests are kept, not the rows"
    kept.unlink()
    assert trained_on("c-5") is None
    found = error_of(client.post(f"{ROOT}/deployments", json={"baseModel": "tuned", "comparison": "c-5"}))
    assert found["code"] in ("gate_not_met", "failed_precondition")


@pytest.fixture(scope="module")
def serving(tmp_path_factory, tiny_llama_dir):
    """An app that its own evaluations reach, with the tiny model, two adapters on it, rows and an evaluator."""
    folder = tmp_path_factory.mktemp("serving")
    home = Home(folder / "home").prepare()
    with running_app(home) as (client, app):
        services = app.state.services
        object.__setattr__(services.settings, "base_url", str(client.base_url).rstrip("/"))
        model = client.post(f"{ROOT}/models:pull", json={"source": str(tiny_llama_dir), "modelId": "tiny"}).json()
        wait_ended(services.store, model["job"].rsplit("/", 1)[-1], 90)
        for number in (1, 2):
            path = write_adapter(home.adapters / f"a{number}", scale=3.0 * number)
            details = PeftDetails(base_model=model["name"], r=4, alpha=4, target_modules=["q_proj"])
            make_model(
                services,
                f"tiny-v{number}",
                digest_tree(path),
                kind=ModelKind.ADAPTER,
                path=str(path),
                peft_details=details,
            )
        upload(client, "rows", write_rows(folder / "r.jsonl", 6)).raise_for_status()
        client.post(f"{ROOT}/evaluatorsV2", json={"evaluatorId": "ev", "source": LENGTHS}).raise_for_status()
        yield client, services
        app.state.ending.keep_workers = False


def deploy(client, services, identifier, model):
    body = {"baseModel": model, "force": True}
    client.post(f"{ROOT}/deployments", params={"deploymentId": identifier}, json=body).raise_for_status()
    wait_for(lambda: services.store.deployments.get(identifier).state is not DeploymentState.CREATING, 90)
    assert services.store.deployments.get(identifier).state is DeploymentState.READY


def evaluate(client, services, model, **query):
    fields = {"evaluator": "ev", "inputDataset": "rows", "model": model, "inferenceParameters": {"maxTokens": 8}}
    made = client.post(f"{ROOT}/evaluationJobs", json={"evaluationJob": fields}, params={"reuse": True, **query}).json()
    ended = wait_ended(services.store, made["name"].rsplit("/", 1)[-1], 120)
    assert ended.state is JobState.COMPLETED, ended.failure
    return ended


def test_an_evaluation_scores_the_weights_that_it_names(serving):
    client, services = serving
    digests = {name: services.store.models.get(name).digest for name in ("tiny", "tiny-v1", "tiny-v2")}
    before = evaluate(client, services, "tiny")
    deploy(client, services, "tiny", "tiny-v2")
    assert evaluate(client, services, "tiny").id == before.id, "the same weights, the same work"
    after = evaluate(client, services, "tiny", reuse=False)
    assert before.configuration.model_digest == after.configuration.model_digest == digests["tiny"]
    assert after.deployment is None and after.model.endswith("/models/tiny")
    served = evaluate(client, services, "deployments/tiny")
    assert served.configuration.model_digest == served.model_digest == digests["tiny-v2"]
    assert served.model.endswith("/models/tiny-v2") and served.deployment.endswith("/deployments/tiny")
    assert "deployments/tiny" in after.notes[0] and served.notes == []
    deploy(client, services, "tiny", "tiny-v1")
    replaced = evaluate(client, services, "deployments/tiny")
    assert replaced.configuration.model_digest == digests["tiny-v1"] and replaced.id != served.id
    assert evaluate(client, services, "models/tiny").configuration.model_digest == digests["tiny"]
    client.delete(f"{ROOT}/deployments/tiny").raise_for_status()


@pytest.mark.parametrize("stream", [False, True])
def test_every_answer_carries_the_digest_of_what_gave_it(serving, stream):
    client, services = serving
    deploy(client, services, "days", "tiny-v1")

    def digest(model):
        body = {"model": model, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2, "stream": stream}
        return client.post("/v1/chat/completions", json=body).headers["fw-digest"]

    first = digest("days")
    assert first == digest("days") == services.store.deployments.get("days").serving_digest
    assert len({first, digest("tiny"), digest("tiny-v2")}) == 3
    deploy(client, services, "days", "tiny-v2")
    assert digest("days") != first
    client.delete(f"{ROOT}/deployments/days").raise_for_status()


def test_an_evaluation_of_other_weights_than_it_is_about_fails(serving):
    client, services = serving
    fields = {"evaluator": "ev", "inputDataset": "rows", "model": "tiny-v1", "inferenceParameters": {"maxTokens": 8}}
    body = {"evaluationJobId": "moved", "evaluationJob": fields}
    services.jobs._draining = True
    client.post(f"{ROOT}/evaluationJobs", json=body).raise_for_status()
    other = services.store.models.get("tiny-v2")
    own = services.store.models.update(
        "tiny-v1", lambda model: model.model_copy(update={"digest": other.digest, "path": other.path})
    )
    services.jobs._draining = False
    ended = wait_ended(services.store, "moved", 120)
    services.store.models.update("tiny-v1", lambda _: own)
    assert ended.state is JobState.FAILED and ended.failure.code == "failed_precondition"
    assert other.digest[:19] in ended.failure.message


@pytest.mark.parametrize("full", [False, True], ids=["bare ids", "full names"])
def test_what_an_unfinished_pipeline_uses_cannot_be_deleted(serving, tmp_path, full):
    client, services = serving
    services.jobs._draining = True
    names = {
        "baseModel": "models/tiny",
        "dataset": f"datasets/train-{full}".lower(),
        "evaluator": f"evaluators/ev-{full}".lower(),
        "evaluationDataset": f"datasets/test-{full}".lower(),
    }
    for field, prefix in (("dataset", "q"), ("evaluationDataset", "z")):
        upload(client, names[field].split("/")[1], write_rows(tmp_path / field, 20, prefix)).raise_for_status()
    evaluator = names["evaluator"].split("/")[1]
    client.post(f"{ROOT}/evaluatorsV2", json={"evaluatorId": evaluator, "source": LENGTHS}).raise_for_status()
    body = {field: f"accounts/local/{name}" if full else name.split("/")[1] for field, name in names.items()}
    identifier = client.post(f"{ROOT}/pipelines", json=body).json()["name"].rsplit("/", 1)[1]
    wait_for(lambda: services.store.jobs.get(identifier).steps[1].state == "running", 30)
    for name in names.values():
        reply = client.delete(f"{ROOT}/{name}")
        assert reply.status_code == 409 and f"'{identifier}'" in error_of(reply)["message"]
    client.post(f"{ROOT}/pipelines/{identifier}:cancel").raise_for_status()
    wait_ended(services.store, identifier, 60)
    services.jobs._draining = False
    for name in names.values():
        if name != "models/tiny":
            client.delete(f"{ROOT}/{name}").raise_for_status()


def test_a_pipeline_that_goes_on_does_so_with_what_it_began_with(serving, tmp_path):
    client, services = serving
    services.jobs._draining = True
    upload(client, "moving", write_rows(tmp_path / "1.jsonl", 60, "first")).raise_for_status()
    body = {"pipelineId": "moved-rows", "baseModel": "tiny", "dataset": "moving", "evaluator": "ev"}
    client.post(f"{ROOT}/pipelines", json=body).raise_for_status()
    wait_for(lambda: services.store.jobs.get("moved-rows").steps[1].state == "running", 30)
    client.post(f"{ROOT}/pipelines/moved-rows:cancel").raise_for_status()
    wait_ended(services.store, "moved-rows", 60)
    client.delete(f"{ROOT}/datasets/moving").raise_for_status()
    upload(client, "moving", write_rows(tmp_path / "2.jsonl", 60, "second")).raise_for_status()
    found = error_of(client.post(f"{ROOT}/pipelines/moved-rows:resume"))
    services.jobs._draining = False
    assert found["code"] == "failed_precondition" and "'moving' was replaced" in found["message"]
    assert services.store.jobs.get("moved-rows").state is JobState.CANCELLED


def test_equal_work_has_one_id_and_other_rows_another(serving, tmp_path):
    client, services = serving
    services.jobs._draining = True
    body = {"baseModel": "tiny", "dataset": "again", "evaluator": "ev"}

    def plan():
        return client.post(f"{ROOT}/pipelines:plan", json=body).json()

    upload(client, "again", write_rows(tmp_path / "1.jsonl", 60, "first")).raise_for_status()
    first = plan()
    assert plan() == first and "state" not in first
    client.delete(f"{ROOT}/datasets/again").raise_for_status()
    upload(client, "again", write_rows(tmp_path / "2.jsonl", 60, "second")).raise_for_status()
    second = plan()
    assert second["id"] != first["id"] and second["uses"] != first["uses"]
    full = {field: f"accounts/local/{place}/{body[field]}" for field, place in FIELDS.items()}
    assert client.post(f"{ROOT}/pipelines:plan", json=full).json() == second
    created = client.post(f"{ROOT}/pipelines", params={"reuse": True}, json=body).json()
    assert created["name"].endswith("/" + second["id"])
    assert client.post(f"{ROOT}/pipelines", params={"reuse": True}, json=body).json()["name"] == created["name"]
    assert json.loads(json.dumps(plan()))["state"]
    client.post(f"{ROOT}/pipelines/{second['id']}:cancel").raise_for_status()
    services.jobs._draining = False
    wait_ended(services.store, second["id"], 60)


TWO = "def evaluate(messages, **row):\n    return 0.0\n\ndef other(messages, **row):\n    return 1.0\n"


def test_another_function_of_the_same_source_is_another_evaluator(app):
    client, _ = app

    def made(identifier, **fields):
        body = {"evaluatorId": identifier, "source": TWO, **fields}
        return client.post(f"{ROOT}/evaluatorsV2", json=body).raise_for_status().json()["digest"]

    one, other = made("one"), made("other", entryFunction="other")
    assert one != other and made("same") == one
    body = {"rows": [{"messages": [{"role": "user", "content": "q"}], "ground_truth": "a"}], "answers": ["a"]}
    for identifier, score in (("one", 0.0), ("other", 1.0)):
        found = client.post(f"{ROOT}/evaluators/{identifier}:check", json=body).json()
        assert score in [item["score"] for item in next(iter(found.values()))], found
        client.delete(f"{ROOT}/evaluators/{identifier}").raise_for_status()


def test_the_same_rows_split_otherwise_are_other_work(serving, tmp_path):
    client, services = serving
    services.jobs._draining = True
    path = write_rows(tmp_path / "r.jsonl", 60, "split")
    fields = {"evaluator": "ev", "inputDataset": "split", "model": "tiny"}

    def asked(seed):
        upload(client, "split", path, splitSeed=seed).raise_for_status()
        reply = client.post(f"{ROOT}/evaluationJobs", params={"reuse": True}, json={"evaluationJob": fields}).json()
        identifier = reply["name"].rsplit("/", 1)[1]
        client.post(f"{ROOT}/evaluationJobs/{identifier}:cancel").raise_for_status()
        wait_ended(services.store, identifier, 60)
        client.delete(f"{ROOT}/datasets/split").raise_for_status()
        return identifier

    first, second = asked(1), asked(2)
    assert first != second and asked(1) == first
    upload(client, "split", path, splitSeed=2).raise_for_status()
    refused = error_of(client.post(f"{ROOT}/evaluationJobs/{first}:resume"))
    assert refused["code"] == "failed_precondition" and "'split' was replaced" in refused["message"]
    services.jobs._draining = False


def test_equal_scores_by_another_evaluator_are_another_comparison(app, tmp_path):
    client, services = app
    rows = digest_of_rows(client, write_rows(tmp_path / "r.jsonl", 40))
    make_model(services, "base", BASE)
    make_model(services, "tuned", TUNED, kind=ModelKind.ADAPTER)
    names = []
    for evaluator in ("sha256:e", "sha256:f"):
        for identifier, score, digest in (("e-base", 0.0, BASE), ("e-tuned", 1.0, TUNED)):
            store_evaluation(services, identifier, [score] * 40, identifier[2:], digest, rows)
            change = {"evaluator_digest": evaluator}
            services.store.jobs.update(identifier, lambda job, change=change: job.model_copy(update=change))
        made = client.post(f"{ROOT}/comparisons", json={"baseline": "e-base", "candidate": "e-tuned"}).json()
        assert made["evaluator"]["digest"] == evaluator
        names.append(made["name"])
        for identifier in ("e-base", "e-tuned"):
            client.delete(f"{ROOT}/jobs/{identifier}").raise_for_status()
    assert names[0] != names[1]
