"""Idempotency keys: a mutation happens once for its key, whoever repeats it and whenever the daemon dies."""

import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from engine.control.store.replies import KEPT_S
from engine.control.store.tables import idempotency
from engine.control.tests.daemon_process import Daemon
from engine.control.tests.support import ROOT, error_of, submit_little, wait_ended, write_rows

SOURCE = "def evaluate(messages):\n    return 1\n"


def keyed(key):
    return {"idempotency-key": key}


def test_a_repetition_gets_the_first_reply_and_changes_nothing(server):
    client, services = server
    first = client.post(f"{ROOT}/datasets", json={"datasetId": "d"}, headers=keyed("k"))
    assert first.status_code == 200 and "idempotent-replayed" not in first.headers
    client.delete(f"{ROOT}/datasets/d").raise_for_status()
    again = client.post(f"{ROOT}/datasets", json={"datasetId": "d"}, headers=keyed("k"))
    assert again.json() == first.json() and again.headers["idempotent-replayed"] == "true"
    assert again.headers["x-request-id"] != first.headers["x-request-id"]
    assert services.store.datasets.ids() == []


def test_verbs_and_deletes_are_repeated_with_the_same_reply(server):
    client, services = server
    job = submit_little(services, "j", end="typed")
    wait_ended(services.store, job.id)
    resumed = [client.post(f"{ROOT}/jobs/j:resume", json={}, headers=keyed("r")) for _ in range(2)]
    assert [one.status_code for one in resumed] == [200, 200] and resumed[0].json() == resumed[1].json()
    wait_ended(services.store, job.id)
    assert services.store.jobs.get("j").attempt == 2
    deleted = [client.delete(f"{ROOT}/jobs/j", headers=keyed("d")) for _ in range(2)]
    assert [one.status_code for one in deleted] == [200, 200]
    assert client.delete(f"{ROOT}/jobs/j", headers=keyed("d2")).status_code == 404


@pytest.mark.parametrize(
    ("method", "path", "body", "words"),
    [
        ("POST", "/datasets", {"datasetId": "other"}, "another body or query"),
        ("POST", "/evaluatorsV2", {"evaluatorId": "e", "source": SOURCE}, f"this is POST {ROOT}/evaluatorsV2"),
        ("DELETE", "/datasets/d", None, f"this is DELETE {ROOT}/datasets/d"),
        ("POST", "/datasets?reuse=true", {"datasetId": "d"}, "another body or query"),
    ],
)
def test_a_key_of_another_request_is_refused_and_says_of_which(server, method, path, body, words):
    client, services = server
    client.post(f"{ROOT}/datasets", json={"datasetId": "d"}, headers=keyed("k")).raise_for_status()
    found = client.request(method, ROOT + path, json=body, headers=keyed("k"))
    fields = error_of(found)
    assert found.status_code == 409 and fields["code"] == "already_exists" and fields["param"] == "Idempotency-Key"
    assert f"for POST {ROOT}/datasets" in fields["message"] and words in fields["message"]
    assert services.store.datasets.ids() == ["d"] and services.store.evaluators.ids() == []


def test_an_error_is_not_kept(server):
    client, _ = server
    assert client.post(f"{ROOT}/datasets", json={"datasetId": "A"}, headers=keyed("k")).status_code == 400
    assert client.post(f"{ROOT}/datasets", json={"datasetId": "a"}, headers=keyed("k")).status_code == 200


def test_two_at_the_same_time_are_one(server):
    client, _ = server
    rows = [{"messages": [{"role": "user", "content": "1"}, {"role": "assistant", "content": "2"}]}]
    source = "import time\ndef evaluate(messages):\n    time.sleep(0.5)\n    return time.time_ns() % 10**9 / 1e9\n"
    client.post(f"{ROOT}/evaluatorsV2", json={"evaluatorId": "e", "source": source}).raise_for_status()

    def ask(_number):
        return client.post(f"{ROOT}/evaluators/e:check", json={"rows": rows}, headers=keyed("k"))

    with ThreadPoolExecutor(6) as threads:
        replies = list(threads.map(ask, range(6)))
    assert len({reply.text for reply in replies}) == 1, "the evaluator's answer differs every time it runs"
    assert sorted(reply.headers.get("idempotent-replayed", "") for reply in replies) == ["", *["true"] * 5]


def test_keys_of_two_principals_never_meet(server):
    client, services = server
    replies = services.store.replies
    client.post(f"{ROOT}/datasets", json={"datasetId": "d"}, headers=keyed("k")).raise_for_status()
    assert replies.find("owner/k") is not None and replies.find("k") is None
    reading = {"authorization": f"Bearer {services.home.reading_token()}", **keyed("k")}
    asked = client.post(f"{ROOT}/supervisedFineTuningJobs:estimate", json={}, headers=reading)
    assert error_of(asked)["code"] == "invalid_argument", "the reader's own request is answered, not the owner's"
    assert client.post(f"{ROOT}/datasets", json={"datasetId": "d"}, headers=reading).status_code == 403


def test_replies_are_forgotten_after_a_week(server):
    client, services = server
    client.post(f"{ROOT}/datasets", json={"datasetId": "a"}, headers=keyed("old")).raise_for_status()
    with services.store.replies._database.write() as connection:
        connection.execute(idempotency.update().values(time=time.time() - KEPT_S - 1))
    assert services.store.replies.find("owner/old") is None
    client.post(f"{ROOT}/datasets", json={"datasetId": "b"}, headers=keyed("old")).raise_for_status()
    assert "b" in services.store.replies.find("owner/old").body


@pytest.mark.parametrize("headers", [[("idempotency-key", "a"), ("idempotency-key", "b")], keyed("x" * 256)])
def test_a_key_that_is_none_is_refused(server, headers):
    found = server[0].post(f"{ROOT}/datasets", json={"datasetId": "d"}, headers=headers)
    assert error_of(found)["param"] == "Idempotency-Key" and found.status_code == 400


@pytest.fixture
def daemon(tmp_path):
    """A real daemon, shut down with all that it started."""
    daemon = Daemon(tmp_path / "home").start()
    yield daemon
    daemon.shut_down()


def test_what_a_killed_daemon_did_is_not_done_again(daemon, tiny_llama_dir, tmp_path):
    """Killed after the reply was kept, it is replayed; killed before that, the key finds what it made."""
    daemon.pull(tiny_llama_dir, "tiny")
    rows = write_rows(tmp_path / "rows.jsonl", 8).read_bytes()
    daemon.call("POST", "datasets", {"datasetId": "d"})
    daemon.call("POST", "datasets/d:upload", files={"file": rows})
    daemon.call("POST", "evaluatorsV2", {"evaluatorId": "e", "source": SOURCE})
    asked = {
        "evaluationJobs": {"evaluationJob": {"model": "tiny", "inputDataset": "d", "evaluator": "e", "limit": 1}},
        "supervisedFineTuningJobs": {"baseModel": "tiny", "dataset": "d", "epochs": 1, "loraRank": 4},
        "deployments": {"baseModel": "tiny", "force": True},
    }
    made = {path: daemon.call("POST", path, body, headers=keyed(path)) for path, body in asked.items()}
    daemon.kill()
    daemon.start()
    for path, body in asked.items():
        again = daemon.request("POST", f"{ROOT}/{path}", json=body, headers=keyed(path))
        assert again.json() == made[path] and again.headers["idempotent-replayed"] == "true"
    daemon.kill()
    with sqlite3.connect(daemon.home.database) as database:
        database.execute("DELETE FROM idempotency WHERE key NOT LIKE 'id:%'")
    database.close()
    daemon.start()
    for path, body in asked.items():
        again = daemon.request("POST", f"{ROOT}/{path}", json=body, headers=keyed(path))
        assert again.json()["name"] == made[path]["name"] and "idempotent-replayed" not in again.headers
        assert daemon.call("GET", path)["totalSize"] == 1
