"""``/openapi.json`` is true: a fuzzer that reads it finds no 5xx, no other statuses and no replies of other shapes."""

import subprocess
import sys
from pathlib import Path

import httpx
import jsonschema
import pytest

from engine.control.http.routes import own_routers, routers
from engine.control.tests.support import DaemonProcess, running_app, upload, write_rows
from fw_sdk.types.home import Home

SOURCE = "def evaluate(messages):\n    return 1\n"
CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,"
    "unsupported_method,allow_header_conformance,ignored_auth"
)


@pytest.fixture
def document(home):
    with running_app(home) as (client, _):
        yield httpx.get(client.base_url.join("/openapi.json"), trust_env=False).json()


def test_the_document_has_every_route_once_with_a_name_that_stays(document):
    known = {(p, m.upper()) for p, methods in document["paths"].items() for m in methods}
    routes = [route for router in (*own_routers(), *routers()) for route in router.routes]
    assert {(r.path_format, m) for r in routes if r.include_in_schema for m in r.methods} == known
    names = [one["operationId"] for methods in document["paths"].values() for one in methods.values()]
    assert len(names) == len(set(names)) and {"datasets_upload", "pull_models", "jobs_list", "pipelines_create"} <= {
        *names
    }


def test_bodies_errors_and_who_may_ask_are_described(document):
    create = document["paths"]["/v1/accounts/local/datasets"]["post"]
    assert create["requestBody"]["content"]["application/json"]["schema"]["$ref"].endswith("/CreateDataset")
    assert create["responses"]["409"]["description"] == "already_exists or failed_precondition or gate_not_met"
    assert create["security"] == [{"bearer": []}, {"key": []}]
    schema = {**document["components"]["schemas"]["CreateDataset"], "components": document["components"]}
    jsonschema.validate({"datasetId": "x", "dataset": {"displayName": "y"}}, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"datasetId": "x", "dataSet": {}}, schema)
    plan = document["paths"]["/v1/accounts/local/pipelines"]["post"]["parameters"]
    assert {"pipelineId", "reuse", "Idempotency-Key"} <= {parameter["name"] for parameter in plan}


@pytest.fixture(scope="module")
def stocked(tmp_path_factory):
    """A daemon with a dataset and an evaluator, and no way to a hub; its pulls run a program of the tests."""
    folder = tmp_path_factory.mktemp("openapi")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
        daemon = DaemonProcess(Home(folder / "home")).started()
    with daemon.client() as client:
        upload(client, "rows", write_rows(folder / "rows.jsonl", 20)).raise_for_status()
        evaluator = {"evaluatorId": "ones", "source": SOURCE}
        client.post("/v1/accounts/local/evaluatorsV2", json=evaluator).raise_for_status()
    yield daemon
    daemon.kill()


def fuzz(daemon: DaemonProcess, folder: Path, *options: str) -> None:
    """Run schemathesis against the daemon, the same requests every time; its report if it finds something."""
    command = [Path(sys.executable).with_name("st"), "run", f"{daemon.url}/openapi.json"]
    command += ["-H", f"Authorization: Bearer {daemon.home.token()}", "--generation-deterministic", "--warnings", "off"]
    command += [
        "--exclude-operation-id",
        "shutdown_daemon",
        "--continue-on-failure",
        "--request-timeout",
        "30",
        *options,
    ]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=580)
    assert done.returncode == 0, f"{done.stdout[-8000:]}\n{done.stderr[-2000:]}"
    assert httpx.get(f"{daemon.url}/v1/health", trust_env=False).status_code == 200


OWN = ("--checks", CHECKS, "--include-path-regex", "^/v1/(accounts|health)")
DOORS = ("--checks", "not_a_server_error", "--exclude-path-regex", "^/v1/(accounts|health)")
SHARED = ("--exclude-path-regex", "/(evaluationJobs|pipelines)/")
"""What every kind of job has is tried with one of them."""


def test_our_own_api_keeps_what_its_document_says(stocked, tmp_path):
    fuzz(stocked, tmp_path, *OWN, *SHARED, "--phases", "fuzzing", "--max-examples", "3")


def test_the_doors_of_other_protocols_never_break(stocked, tmp_path):
    fuzz(stocked, tmp_path, *DOORS, "--phases", "fuzzing", "--max-examples", "4")


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("part", [OWN, DOORS], ids=["our own API", "other protocols"])
def test_every_boundary_of_every_parameter(stocked, tmp_path, part):
    fuzz(stocked, tmp_path, *part, "--phases", "coverage,fuzzing", "--max-examples", "10")
