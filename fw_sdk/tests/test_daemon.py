"""Starting, finding and stopping a real daemon; and the client against it."""

import json
import os
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

import fw_sdk as fw
from fw_sdk.daemon import Daemon, ensure_daemon, find_daemon
from fw_sdk.ensure import ensure_dataset, ensure_evaluator, ensure_model
from fw_sdk.types.home import Home

ROWS = [
    {"messages": [{"role": "user", "content": f"Say {number}."}, {"role": "assistant", "content": f"{number}"}]}
    for number in range(20)
]
EVALUATOR = """
def evaluate(messages, ground_truth=None, **row):
    return float(messages[-1]["content"] == ground_truth)
"""


def run_fw(*arguments, **environment):
    command = [sys.executable, "-m", "fw_sdk.cli", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, env={**os.environ, **environment})
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A home with a daemon that two processes asked for at the same moment."""
    root = tmp_path_factory.mktemp("home")
    saved = {name: os.environ.get(name) for name in ("FW_HOME", "FW_PORT", "FW_BASE_URL", "FW_API_KEY", "FW_FORMAT")}
    for name in saved:
        os.environ.pop(name, None)
    os.environ.update(FW_HOME=str(root), FW_PORT="0")
    (root / "uvicorn.py").write_text(f"open({str(root / 'imported')!r}, 'w')")
    found = Home.from_environment()
    urls = []
    threads = [
        threading.Thread(target=lambda: urls.append(run_fw("up", "--detach", "--format", "quiet"))) for _ in "ab"
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    try:
        assert [code for code, _, _ in urls] == [0, 0], urls
        assert len({out for _, out, _ in urls}) == 1
        yield found
        daemon = find_daemon(found)
        code, _, err = run_fw("down")
        assert code == 0 and "stopped" in err
        assert daemon is not None and not daemon.alive and find_daemon(found) is None
    finally:
        left = find_daemon(found)
        if left:
            os.kill(left.pid, 9)
        for name, value in saved.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


@pytest.fixture
def client(home):
    with fw.Client() as one:
        yield one


def test_two_processes_that_start_a_daemon_start_one(home):
    daemon = find_daemon(home)
    assert daemon is not None and ensure_daemon(home) == daemon.url
    same_command = [path for path in Path("/proc").glob("[0-9]*") if _is_daemon_of(path, home)]
    assert [int(path.name) for path in same_command] == [daemon.pid]


def test_a_daemon_imports_nothing_from_its_working_folder(home):
    assert (home.root / "uvicorn.py").exists() and not (home.root / "imported").exists()


def _is_daemon_of(process, home):
    try:
        command, environment = (process / "cmdline").read_bytes(), (process / "environ").read_bytes()
    except OSError:
        return False
    return b"\0up\0" in command and f"FW_HOME={home.root}".encode() in environment.split(b"\0")


def test_a_pid_that_was_given_to_another_process_is_no_daemon(home):
    daemon = find_daemon(home)
    assert not Daemon(daemon.url, daemon.pid, daemon.start_ticks + 1, daemon.version).alive
    assert not Daemon(daemon.url, 2**22 + 1, 1, daemon.version).alive


def test_status_and_a_second_up(home):
    code, out, _ = run_fw("status", "--format", "json")
    assert code == 0 and json.loads(out)["pid"] == find_daemon(home).pid
    code, out, err = run_fw("up", "--format", "json")
    assert code == 5 and json.loads(err)["error"]["code"] == "failed_precondition" and not out


def test_a_port_in_use_is_said_with_its_code(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        code, _, err = run_fw("up", "--detach", "--format", "json", FW_HOME=str(tmp_path), FW_PORT=port)
    error = json.loads(err)["error"]
    assert code == 9 and error["code"] == "port_in_use" and port in error["message"]
    assert not (tmp_path / "daemon.json").exists()


def test_rows_are_stored_once_for_their_content(client, tmp_path):
    first = ensure_dataset(client, ROWS, id="numbers")
    assert first.id == "numbers" and first.state.value == "READY" and int(first.example_count) == 20
    path = tmp_path / "numbers.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    assert ensure_dataset(client, path).digest == ensure_dataset(client, "numbers").digest == first.digest
    other = ensure_dataset(client, ROWS[:10], id="numbers")
    assert other.id.startswith("numbers-") and other.digest != first.digest
    assert ensure_dataset(client, ROWS[:10], id="numbers").name == other.name
    assert {"numbers", other.id} <= {dataset.id for dataset in client.datasets.list(page_size=1)}


def test_an_evaluator_is_stored_once_and_scores_the_rows_own_answers(client):
    ensure_dataset(client, ROWS, id="numbers")
    evaluator = ensure_evaluator(client, EVALUATOR, id="same")
    assert (
        ensure_evaluator(client, EVALUATOR, id="same").name == evaluator.name == ensure_evaluator(client, "same").name
    )
    assert ensure_evaluator(client, EVALUATOR + "\n", id="same").id.startswith("same-")
    scores = client.evaluators.check("same", dataset="numbers", limit=3)
    assert [score.score for score in scores] == [1.0, 1.0, 1.0]


def test_bad_rows_are_refused_by_line_in_the_client_and_on_the_command_line(client, tmp_path):
    path = tmp_path / "bad.jsonl"
    path.write_text(json.dumps(ROWS[0]) + "\n{not json\n")
    with pytest.raises(fw.DatasetInvalidError) as caught:
        client.datasets.create(path)
    assert caught.value.details["report"]["problems"][0]["line"] == 2
    report = client.datasets.check(path)
    assert not report.ok and report.problems[0].line == 2
    code, _, err = run_fw("dataset", "create", str(path))
    assert code == 1 and "line 2" in err and "Traceback" not in err
    code, out, _ = run_fw("dataset", "check", str(path), "--format", "json")
    assert code == 1 and json.loads(out)["problems"][0]["line"] == 2


def test_unknown_names_are_typed_errors_that_name_the_nearest(client):
    ensure_dataset(client, ROWS, id="numbers")
    with pytest.raises(fw.NotFoundError, match="numbers"):
        client.datasets.get("nubmers")
    with pytest.raises(fw.InvalidArgumentError, match="epochs"):
        client.finetunes.create("m", "numbers", epoch=3)
    with pytest.raises(fw.InvalidArgumentError) as caught:
        fw.customize("m", ROWS, EVALUATOR, client=client, learning_rat=1)
    assert "learning_rate" in caught.value.hint
    with pytest.raises(fw.NotFoundError, match="smollm2-135m"):
        fw.customize("smollm2-135", ROWS, EVALUATOR, client=client)
    code, _, err = run_fw("dataset", "show", "nubmers")
    assert code == 3 and "numbers" in err


def test_refused_rows_leave_no_dataset_behind(client):
    with pytest.raises(fw.DatasetInvalidError) as caught:
        client.datasets.create([*ROWS, {"messages": []}], id="refused")
    assert caught.value.not_done == "nothing was stored"
    assert "refused" not in [dataset.id for dataset in client.datasets.list()]
    assert client.datasets.create(ROWS, id="refused").state.value == "READY"


def test_rows_and_files_are_compared_before_they_are_stored(client, tmp_path, monkeypatch):
    ensure_dataset(client, ROWS, id="numbers")
    (tmp_path / "new.jsonl").write_text("{\n" + json.dumps(ROWS[6]) + "\n")
    found = client.datasets.overlap(tmp_path / "new.jsonl", "numbers")
    assert [(pair.line, pair.other_line, pair.prompt) for pair in found.pairs] == [(2, 7, "Say 6.")]
    assert client.datasets.overlap("numbers", ROWS[3:5]).pairs[1].other_line == 2
    assert client.datasets.overlap(ROWS[:2], tmp_path / "new.jsonl").shared == 0
    monkeypatch.chdir(tmp_path)
    code, out, _ = run_fw("dataset", "overlap", "new.jsonl", "numbers", "--format", "quiet")
    assert (code, out) == (5, "1\n")


def test_a_wrong_token_is_an_authentication_error(home):
    with pytest.raises(fw.AuthenticationError):
        fw.Client(base_url=find_daemon(home).url, api_key="wrong").overview()


def test_the_asynchronous_client_does_the_same(home):
    import asyncio

    async def ask():
        async with fw.AsyncClient() as one:
            await one.datasets.create(ROWS, id="numbers")
            listed = [dataset.id async for dataset in one.datasets.list()]
            rows = await one.datasets.rows("numbers", limit=2)
            return listed, rows, await one.health()

    listed, rows, health = asyncio.run(ask())
    assert "numbers" in listed and len(rows) == 2 and health.pid == find_daemon(home).pid


def test_a_pull_is_followed_event_by_event_to_its_end(client, tiny_llama_dir):
    model = client.models.pull(tiny_llama_dir, id="tiny")
    job = model.job.rsplit("/", 1)[-1]
    streamed = list(client.jobs.events(job))
    assert [event.seq for event in streamed] == list(range(1, len(streamed) + 1))
    assert streamed[-1].data["state"] == "JOB_STATE_COMPLETED"
    seen = []
    ended = client.jobs.wait(job, timeout_s=10, on_event=seen.append)
    assert ended.state.value == "JOB_STATE_COMPLETED" and seen == streamed
    assert [event.seq for event in client.jobs.events(job, after=2)] == [event.seq for event in streamed[2:]]
    ready = ensure_model(client, "tiny")
    assert ready.state.value == "READY" and ready.digest
    code, out, _ = run_fw("job", "events", job, "-f", "--format", "json")
    assert code == 0 and [json.loads(line)["seq"] for line in out.splitlines()] == [event.seq for event in streamed]
    code, out, _ = run_fw("job", "wait", job, "--format", "quiet")
    assert (code, out) == (0, f"{job}\n")


def test_a_model_that_is_not_there_is_said_before_anything_is_sent(client, tmp_path):
    (tmp_path / "model.gguf").write_bytes(b"not a model")
    with pytest.raises(fw.NotFoundError, match=r"Did you mean '.*model\.gguf'"):
        client.models.pull(tmp_path / "modell.gguf")
    code, _, err = run_fw("model", "pull", str(tmp_path / "model.gguf"))
    assert code == 8 and "model_unsupported" in err and "Traceback" not in err


def post_dataset(client, identifier):
    """Another client that names a dataset first and will upload its rows later, as the hosted API has it."""
    headers = {"Authorization": f"Bearer {client.api_key}"}
    body = {"datasetId": identifier, "dataset": {}}
    reply = httpx.post(f"{client.base_url}/v1/accounts/local/datasets", json=body, headers=headers, trust_env=False)
    reply.raise_for_status()


def test_refused_rows_never_delete_what_another_client_made(client):
    bad = [*ROWS, {"messages": []}]
    post_dataset(client, "waiting")
    with pytest.raises(fw.DatasetInvalidError):
        client.datasets.create(bad, id="waiting")
    assert client.datasets.get("waiting").state.value == "UPLOADING"
    made = client.datasets.create(ROWS, id="waiting")
    with pytest.raises(fw.DatasetInvalidError):
        client.datasets.create(bad, id="waiting")
    assert client.datasets.get("waiting") == made


def test_clients_that_store_good_and_bad_rows_under_one_name_keep_the_good_ones(client):
    bad = [*ROWS * 200, {"messages": []}]

    def store(rows):
        try:
            return client.datasets.create(rows, id="contested")
        except fw.FwError as error:
            return error

    for _ in range(3):
        with ThreadPoolExecutor(6) as pool:
            bads = [pool.submit(store, bad) for _ in range(3)]
            goods = [pool.submit(store, ROWS) for _ in range(3)]
        assert {type(one.result()) for one in bads} == {fw.DatasetInvalidError}
        stored = client.datasets.get("contested")
        assert {one.result().digest for one in goods} == {stored.digest} and stored.state.value == "READY"
        client.datasets.delete("contested")


def test_a_taken_name_is_already_exists_and_keeps_its_rows(client):
    made = client.datasets.create(ROWS, id="taken")
    with pytest.raises(fw.AlreadyExistsError, match="taken"):
        client.datasets.create(ROWS[:5], id="taken")
    with pytest.raises(fw.AlreadyExistsError):
        client.datasets.create(ROWS, id="taken", split_seed=3)
    assert client.datasets.create(ROWS, id="taken") == made == client.datasets.get("taken")
    with pytest.raises(fw.InvalidArgumentError, match="heldout_fraction"):
        client.datasets.create(ROWS, id="half", heldout_fraction=0.9)


def test_clients_that_need_different_rows_under_one_name_all_get_theirs(client):
    with ThreadPoolExecutor(4) as pool:
        wanted = [ROWS[number:] for number in range(4)] * 2
        got = list(pool.map(lambda rows: ensure_dataset(client, rows, id="shared"), wanted))
    assert [int(one.example_count) for one in got] == [len(rows) for rows in wanted]
    assert len({one.id for one in got}) == 4 and "shared" in {one.id for one in got}


def test_a_job_comes_back_as_what_it_is_and_evaluations_can_be_deleted(client, tiny_llama_dir):
    client.models.pull(tiny_llama_dir, id="little")
    ensure_model(client, "little")
    ensure_dataset(client, ROWS, id="numbers")
    ensure_evaluator(client, EVALUATOR, id="same")
    made = client.evaluations.create("little", "numbers", "same", id="scored", limit=2, max_tokens=1)
    ended = client.jobs.wait(made.id)
    assert isinstance(ended, fw.Evaluation) and ended.summary.n == 2
    assert isinstance(client.jobs.get("scored"), fw.Evaluation)
    assert {type(job) for job in client.jobs.list()} >= {fw.Evaluation, fw.Job}
    client.evaluations.delete("scored")
    with pytest.raises(fw.NotFoundError):
        client.evaluations.get("scored")


def test_a_reply_says_which_request_it_answers(client):
    ensure_dataset(client, ROWS, id="numbers")
    raw = client.with_raw_response.datasets.get("numbers")
    assert raw.status_code == 200 and raw.headers["X-Request-Id"] == raw.request_id == raw.parse()._request_id
    assert raw.parse() == client.datasets.get("numbers") and raw.parse().to_wire() == json.loads(raw.text)
    pages = list(client.with_raw_response.datasets.list(page_size=1))
    assert [page.parse()[0].id for page in pages] == [dataset.id for dataset in client.datasets.list()]
    with pytest.raises(fw.NotFoundError) as caught:
        client.with_raw_response.datasets.get("nothing")
    assert caught.value.request_id
    with pytest.raises(fw.InvalidArgumentError, match="stream"):
        client.with_raw_response.jobs.events("j")
