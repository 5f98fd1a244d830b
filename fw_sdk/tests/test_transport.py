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


STATES = {2: "JOB_STATE_FAILED", 3: "JOB_STATE_PENDING", 4: "JOB_STATE_RUNNING", 7: "JOB_STATE_COMPLETED"}
"""What a resumed job's events say: it failed, was resumed, and completed."""


def resumed_event(seq):
    return event(seq, "state", state=STATES[seq]) if seq in STATES else event(seq)


def following(*connections, state=JobState.COMPLETED):
    """A job with seven events, whose stream's n-th connection gets the reply ``connections[n](after)``."""
    asked = {"streams": 0, "states": 0}

    def answer(n, seen):
        if ":events" not in seen.path:
            asked["states"] += 1
            return Reply(body={**JOB, "state": state(asked["states"]) if callable(state) else state})
        after = int(seen.path.split("after=")[1].split("&")[0])
        if "follow=false" in seen.path:
            return Reply(body={"events": [json.loads(event(seq).split("data: ")[1]) for seq in range(after + 1, 8)]})
        asked["streams"] += 1
        return connections[asked["streams"] - 1](after)

    return answer


def streamed(first, last, **how):
    """A connection that gives events ``first`` to ``last``."""

    def reply(after):
        assert after == first - 1
        return Reply(chunks=[": hello\n\n", *(resumed_event(seq) for seq in range(first, last + 1))], **how)

    return reply


def torn(first, last):
    """A connection that breaks in the midst of the event behind ``last``."""

    def reply(after):
        whole = streamed(first, last, drop=True)(after)
        return Reply(chunks=[*whole.chunks, resumed_event(last + 1)[:20]], drop=True)

    return reply


def refused(after):
    return error_reply("unavailable")


def lost(after):
    return Reply(drop=True)


def running_until(asks):
    return lambda asked: JobState.COMPLETED if asked >= asks else JobState.RUNNING


def follow(url):
    return [found.seq for found in client(url).jobs.events("j1")]


def follow_asynchronously(url):
    async def events():
        async with fw.AsyncClient(base_url=url, api_key="k") as one:
            return [found.seq async for found in one.jobs.events("j1")]

    return asyncio.run(events())


FOLLOWED = {
    "to the job's end": (lambda: following(streamed(1, 7)), [0]),
    "torn": (lambda: following(torn(1, 2), streamed(3, 7)), [0, 2]),
    "lost and refused": (lambda: following(torn(1, 4), lost, refused, streamed(5, 7)), [0, 4, 4, 4]),
    "broken behind FAILED": (lambda: following(streamed(1, 2, drop=True), streamed(3, 7)), [0, 2]),
    "ended behind FAILED": (lambda: following(streamed(1, 2), streamed(3, 7), state=running_until(2)), [0, 2]),
    "ended by a daemon that stops": (
        lambda: following(streamed(1, 3), refused, streamed(4, 7), state=running_until(2)),
        [0, 3, 3],
    ),
    "ended early, the job ends meanwhile": (lambda: following(streamed(1, 3)), [0]),
    "ended without an event": (lambda: following(streamed(1, 0), streamed(1, 7), state=running_until(2)), [0, 0]),
}


@pytest.mark.parametrize("name", FOLLOWED)
@pytest.mark.parametrize("follow", [follow, follow_asynchronously])
def test_events_come_each_once_until_the_job_has_ended_however_connections_end(name, follow):
    answer, asked = FOLLOWED[name]
    with scripted(answer()) as server:
        assert follow(server.url) == [1, 2, 3, 4, 5, 6, 7]
    streams = [request.path for request in server.seen if ":events" in request.path and "follow" not in request.path]
    assert [int(path.rpartition("after=")[2]) for path in streams] == asked


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
