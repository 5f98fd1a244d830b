"""Rows that are longer than one model's context: its own concern, told where that model is asked for."""

import json

import pytest

from engine.catalog.digests import digest_model
from engine.control.tests.support import ROOT, error_of, running_app, upload
from fw_sdk.types import Model, ModelKind, ModelState
from fw_sdk.types.home import Home

SHORT, LONG = 64, 2048


@pytest.fixture(scope="module")
def two_models(tmp_path_factory, tiny_llama_dir):
    """An app with two models that differ in their context, the shorter being the older, and rows in between."""
    folder = tmp_path_factory.mktemp("two-models")
    home = Home(folder / "home").prepare()
    with running_app(home) as (client, app):
        for name, length in (("short", SHORT), ("long", LONG)):
            path = home.models / name
            path.mkdir()
            for file in tiny_llama_dir.iterdir():
                (path / file.name).write_bytes(file.read_bytes())
            config = json.loads((path / "config.json").read_text())
            (path / "config.json").write_text(json.dumps({**config, "max_position_embeddings": length}))
            app.state.services.store.models.create(
                Model(
                    name=f"accounts/local/models/{name}",
                    kind=ModelKind.BASE,
                    state=ModelState.READY,
                    path=str(path),
                    digest=digest_model(path),
                    context_length=length,
                )
            )
        rows = folder / "rows.jsonl"
        lines = [
            {"messages": [{"role": "user", "content": words}, {"role": "assistant", "content": "yes"}]}
            for words in ("first", "word " * 120, "third")
        ]
        rows.write_text("".join(json.dumps(line) + "\n" for line in lines))
        assert upload(client, "rows", rows, heldoutFraction=0.0).status_code == 200
        yield client, rows


def test_rows_that_the_oldest_model_cannot_take_are_stored_with_a_warning_that_names_it(two_models):
    client, _ = two_models
    report = client.get(f"{ROOT}/datasets/rows").json()["report"]
    assert report["validRows"] == 3 and report["tokens"]["model"] == "short"
    (problem,) = report["problems"]
    assert (problem["line"], problem["severity"]) == (2, "warning") and "'short' has 64" in problem["message"]


@pytest.mark.parametrize(("model", "ok"), [("short", False), ("long", True)])
def test_a_check_for_a_model_and_a_fine_tune_of_it_say_which_lines_it_cannot_take(two_models, model, ok):
    client, rows = two_models
    checked = client.post(f"{ROOT}/datasets:check", params={"model": model}, files={"file": rows.read_bytes()}).json()
    assert checked["validRows"] == (3 if ok else 2) and [p["line"] for p in checked["problems"]] == ([] if ok else [2])
    body = {"dataset": "rows", "baseModel": model, "datasetSplit": "all"}
    planned = client.post(f"{ROOT}/supervisedFineTuningJobs:plan", json=body)
    if ok:
        assert planned.status_code == 200
    else:
        found = error_of(planned)
        assert found["code"] == "dataset_invalid" and "line 2 (" in found["message"]


def test_a_check_for_a_model_that_is_not_there_names_the_nearest(two_models):
    client, rows = two_models
    reply = client.post(f"{ROOT}/datasets:check", params={"model": "shrt"}, files={"file": rows.read_bytes()})
    assert error_of(reply)["code"] == "not_found" and "'short'" in reply.json()["message"]
