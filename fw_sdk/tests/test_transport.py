"""What both transports do when the network or the server misbehaves."""

import asyncio
import json
import socket

import pytest

import fw_sdk as fw
from fw_sdk import retries
from fw_sdk.tests.scripted_server import Reply, scripted
from fw_sdk.types import FwError, Job, JobKind, JobState, resource_name

JOB = Job(name=resource_name("jobs", "j1"), kind=JobKind.PULL, state=JobState.COMPLETED).to_wire()


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch):
    monkeypatch.setattr(retries, "FIRST_DELAY_S", 0.01)


def client(url, **options):
    return fw.Client(base_url=url, api_key="secret", **options)


def error_reply(code, **fields):
    error = FwError(code, f"it is {code}", **fields)
    return Reply(error.http_status, error.control_plane_body(), {"x-request-id": "req-1"})


def test_a_post_is_retried_with_one_idempotency_key_and_the_same_upload(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"messages": []}\n')
    report = {"rows": 1, "validRows": 1}

    def answer(n, seen):
        return [Reply(drop=True), error_reply("resource_exhausted"), Reply(body=report)][n]

    with scripted(answer) as server:
        assert client(server.url).datasets.check(path).rows == 1
    assert len(server.seen) == 3
    assert len({request.headers["idempotency-key"] for request in server.seen}) == 1
    assert all(b'{"messages": []}' in request.body for request in server.seen)
    assert {request.headers["authorization"] for request in server.seen} == {"Bearer secret"}


def test_two_logical_posts_have_two_idempotency_keys():
    with scripted(lambda n, seen: Reply(body=JOB)) as server:
        one = client(server.url)
        one.jobs.cancel("j1")
        one.jobs.cancel("j1")
    assert len({request.headers["idempotency-key"] for request in server.seen}) == 2


def test_attempts_end_after_max_retries():
    with scripted(lambda n, seen: error_reply("unavailable")) as server:
        with pytest.raises(fw.UnavailableError, match="it is unavailable"):
            client(server.url, max_retries=2).jobs.get("j1")
        assert len(server.seen) == 3
        with pytest.raises(fw.UnavailableError):
            client(server.url, max_retries=0).jobs.get("j1")
        assert len(server.seen) == 4


@pytest.mark.parametrize("code", ["invalid_argument", "not_found", "gate_not_met", "internal", "deadline_exceeded"])
def test_what_another_attempt_cannot_mend_is_not_sent_again(code):
    with scripted(lambda n, seen: error_reply(code, hint="do this", details={"report": {"rows": 3}})) as server:
        with pytest.raises(fw.FwError) as caught:
            client(server.url).jobs.get("j1")
        assert len(server.seen) == 1
    error = caught.value
    assert (error.code, error.hint, error.request_id) == (code, "do this", "req-1")
    assert error.details == {"report": {"rows": 3}}
    assert type(error).__name__ in fw.exceptions.__all__


def test_a_retryable_flag_in_the_error_overrides_the_table():
    with scripted(lambda n, seen: error_reply("internal", retryable=True) if n == 0 else Reply(body=JOB)) as server:
        assert client(server.url).jobs.get("j1").id == "j1"
        assert len(server.seen) == 2


def test_an_unreachable_server_is_unavailable_and_says_what_to_do():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(fw.UnavailableError) as caught:
        client(url, max_retries=1).overview()
    assert "fw up" in caught.value.hint


def test_openai_and_foreign_error_bodies_become_typed_errors():
    body = FwError("context_length_exceeded", "too long").openai_body()
    with scripted(lambda n, seen: Reply(400, body)) as server, pytest.raises(fw.ContextLengthExceededError):
        client(server.url).chat("m", "hello")
    page = Reply(404, b"<html>nginx</html>")
    with scripted(lambda n, seen: page) as server, pytest.raises(fw.NotFoundError, match="nginx"):
        client(server.url).chat("m", "hello")
    strange = Reply(200, {"unexpected": 1})
    with scripted(lambda n, seen: strange) as server, pytest.raises(fw.InternalError, match="not understood"):
        client(server.url).chat("m", "hello")


def pages(n, seen):
    second = "pageToken=two" in seen.path
    jobs = [{**JOB, "name": resource_name("jobs", f"j{i}")} for i in ((2, 3) if second else (0, 1))]
    return Reply(body={"jobs": jobs, **({} if second else {"nextPageToken": "two"})})


def test_a_listing_walks_all_pages_and_only_as_far_as_it_is_read():
    with scripted(pages) as server:
        walk = client(server.url).jobs.list(page_size=2)
        assert [next(walk).id, next(walk).id] == ["j0", "j1"]
        assert len(server.seen) == 1
        assert [job.id for job in walk] == ["j2", "j3"]


def test_the_asynchronous_client_walks_the_same_pages():
    async def walk(url):
        async with fw.AsyncClient(base_url=url, api_key="k") as one:
            return [job.id async for job in one.jobs.list()]

    with scripted(pages) as server:
        assert asyncio.run(walk(server.url)) == ["j0", "j1", "j2", "j3"]


def event(seq, kind="progress", **data):
    value = {"seq": seq, "time": "2026-01-01T00:00:00Z", "type": kind, "data": data}
    return f"id: {seq}\nevent: {kind}\ndata: {json.dumps(value)}\n\n"


def dropping_events(n, seen):
    """Two events and a torn third, then nothing at all, then the rest: behind what was asked for."""
    after = int(seen.path.rpartition("after=")[2])
    if n == 0:
        return Reply(chunks=[": hello\n\n", event(1), event(2), event(3)[:20]], drop=True)
    if n == 1:
        return Reply(drop=True)
    rest = [event(3), event(4, "state", state="JOB_STATE_COMPLETED")]
    return Reply(chunks=[text for seq, text in enumerate(rest, 3) if seq > after])


def test_an_event_stream_goes_on_behind_the_last_whole_event_after_a_drop():
    with scripted(dropping_events) as server:
        assert [found.seq for found in client(server.url).jobs.events("j1")] == [1, 2, 3, 4]
    assert [request.path.rpartition("after=")[2] for request in server.seen] == ["0", "2", "2"]


def test_the_asynchronous_event_stream_does_the_same():
    async def follow(url):
        async with fw.AsyncClient(base_url=url, api_key="k") as one:
            return [found.seq async for found in one.jobs.events("j1")]

    with scripted(dropping_events) as server:
        assert asyncio.run(follow(server.url)) == [1, 2, 3, 4]


def test_a_stream_that_ends_in_peace_before_the_job_is_asked_again_until_it_brings_nothing():
    with scripted(lambda n, seen: Reply(chunks=[event(1)] if n == 0 else [])) as server:
        assert [found.seq for found in client(server.url).jobs.events("j1")] == [1]
        assert len(server.seen) == 2


def test_an_error_instead_of_a_stream_is_typed():
    with scripted(lambda n, seen: error_reply("not_found")) as server, pytest.raises(fw.NotFoundError):
        list(client(server.url).jobs.events("j1"))


def chunk(text):
    return f"data: {json.dumps({'choices': [{'delta': {'content': text}}]})}\n\n"


def test_chat_streams_pieces_and_a_broken_stream_is_an_error_not_a_short_answer():
    whole = [chunk("Bon"), chunk("jour"), "data: [DONE]\n\n"]
    with scripted(lambda n, seen: Reply(chunks=whole)) as server:
        form = {"type": "json_object"}
        answer = client(server.url).chat("m", "hello", stream=True, max_tokens=5, response_format=form)
        assert list(answer) == ["Bon", "jour"]
    body = json.loads(server.seen[0].body)
    assert body["stream"] is True and body["max_tokens"] == 5 and "temperature" not in body
    assert body["response_format"] == form
    with scripted(lambda n, seen: Reply(chunks=[chunk("Bon")], drop=True)) as server:
        with pytest.raises(fw.UnavailableError):
            list(client(server.url).chat("m", "hello", stream=True))
        assert len(server.seen) == 1
    failed = [chunk("Bon"), f"data: {json.dumps(FwError('out_of_memory', 'no memory').openai_body())}\n\n"]
    with scripted(lambda n, seen: Reply(chunks=failed)) as server, pytest.raises(fw.OutOfMemoryError):
        list(client(server.url).chat("m", "hello", stream=True))


@pytest.mark.parametrize(("reason", "cut"), [("length", True), ("stop", False), (None, False)])
def test_an_answer_says_whether_it_was_cut(reason, cut):
    choice = {"message": {"content": "Bon"}, "finish_reason": reason}
    body = {"choices": [choice], "usage": {"prompt_tokens": 7, "completion_tokens": 3}}
    with scripted(lambda n, seen: Reply(body=body)) as server:
        answer = client(server.url).answer("m", "hello", max_tokens=3)
        assert client(server.url).chat("m", "hello") == "Bon"
    assert (answer.text, answer.cut, answer.prompt_tokens, answer.generated_tokens) == ("Bon", cut, 7, 3)
    silent = {"choices": [{"message": {"content": None}}]}
    with scripted(lambda n, seen: Reply(body=silent)) as server:
        assert client(server.url).answer("m", "hello") == fw.Answer("", None)


def waiting(states):
    """A job that is in ``states`` one after the other, with one event before each."""

    def answer(n, seen):
        if ":events" in seen.path:
            after = int(seen.path.split("after=")[1].split("&")[0])
            happened = sum(":wait" in request.path for request in waiting.seen())
            found = [json.loads(event(seq).split("data: ")[1]) for seq in range(after + 1, happened + 1)]
            return Reply(body={"events": found})
        polls = sum(":wait" in request.path for request in waiting.seen())
        state = states[min(polls, len(states)) - 1]
        return error_reply("unavailable") if state is None else Reply(body={**JOB, "state": state})

    return answer


def test_wait_delivers_every_event_once_and_bears_a_restart_of_the_daemon():
    states = [JobState.RUNNING, None, None, None, JobState.RUNNING, JobState.COMPLETED]
    seqs = []
    with scripted(waiting(states)) as server:
        waiting.seen = lambda: server.seen
        ended = client(server.url).jobs.wait("j1", on_event=lambda found: seqs.append(found.seq))
    assert ended.state is JobState.COMPLETED
    assert seqs == list(range(1, len(seqs) + 1)) and len(seqs) == len(states)


def test_wait_ends_in_time_and_says_that_the_job_goes_on():
    with scripted(waiting([JobState.RUNNING])) as server:
        waiting.seen = lambda: server.seen
        with pytest.raises(fw.DeadlineExceededError, match="still JOB_STATE_RUNNING"):
            client(server.url).jobs.wait("j1", timeout_s=0.05)


def test_raise_if_failed_carries_the_typed_reason():
    failure = {"code": "out_of_memory", "message": "9 GiB", "hint": "a smaller batch", "logTail": ["a", "b"]}
    job = Job.model_validate({**JOB, "state": "JOB_STATE_FAILED", "failure": failure})
    with pytest.raises(fw.JobFailedError, match="out_of_memory: 9 GiB") as caught:
        fw.raise_if_failed(job)
    assert caught.value.hint == "a smaller batch" and caught.value.details["failure"]["logTail"] == ["a", "b"]
    with pytest.raises(fw.CancelledError):
        fw.raise_if_failed(Job.model_validate({**JOB, "state": "JOB_STATE_CANCELLED"}))
    fw.raise_if_failed(Job.model_validate(JOB))


def test_the_homes_token_is_never_sent_to_another_host(tmp_path, monkeypatch):
    monkeypatch.setenv("FW_HOME", str(tmp_path))
    monkeypatch.delenv("FW_API_KEY", raising=False)
    with pytest.raises(fw.AuthenticationError):
        fw.Client(base_url="https://example.org")
    assert fw.Client(base_url="http://localhost:1").api_key.startswith("fw_")


def test_without_a_daemon_the_error_names_the_command(tmp_path, monkeypatch):
    monkeypatch.setenv("FW_HOME", str(tmp_path))
    monkeypatch.delenv("FW_BASE_URL", raising=False)
    with pytest.raises(fw.UnavailableError) as caught:
        fw.Client()
    assert caught.value.hint == "fw up --detach"
