"""The evaluation program against a real HTTP server: scores, resuming, patience, and every way to fail."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from engine.catalog.digests import digest_file
from engine.evals import asking, job
from engine.evals.tests.model_server import ModelServer
from engine.jobs.files import append_line, read_json, write_json
from engine.jobs.program import EXIT_CANCELLED, EXIT_DONE, EXIT_FAILED, JobContext
from engine.jobs.specs import EvaluateResult, EvaluateSpec
from fw_sdk.types import FwError, RowScore

EVALUATOR = """
def evaluate(messages, ground_truth=None, **row):
    answer = messages[-1]["content"]
    return {"score": answer == ground_truth, "length": len(answer), "tag": row["tag"]}
"""


def double(messages):
    return str(2 * int(messages[-1]["content"]))


def double_small(messages):
    """Right for numbers below 6."""
    number = int(messages[-1]["content"])
    return str(2 * number if number < 6 else number)


@pytest.fixture
def server():
    server = ModelServer(double_small)
    yield server
    server.close()


@pytest.fixture
def make(tmp_path, server):
    """A job directory with ten rows and a spec; returns its context."""

    def build(evaluator=EVALUATOR, rows=None, **changes):
        directory = tmp_path / "job"
        directory.mkdir(exist_ok=True)
        rows = rows or [row(number) for number in range(10)]
        data, source = tmp_path / "rows.jsonl", tmp_path / "evaluator.py"
        data.write_text("".join(json.dumps(item) + "\n" for item in rows))
        source.write_text(evaluator)
        reference = {"path": str(data), "digest": digest_file(data), "name": "numbers"}
        spec = {
            "model": "m",
            "base_url": server.url,
            "rows": reference,
            "evaluator_path": str(source),
            "evaluator_digest": "sha256:evaluator",
            **changes,
        }
        if isinstance(spec.get("few_shot"), int):
            spec["few_shot"] = {"rows": reference, "count": spec["few_shot"]}
        context = JobContext(directory, EvaluateSpec.model_validate(spec))
        write_json(directory / "spec.json", context.spec.model_dump(mode="json", by_alias=True))
        return context

    return build


def row(number, **fields):
    messages = [
        {"role": "system", "content": "Double it."},
        {"role": "user", "content": str(number)},
        {"role": "assistant", "content": str(2 * number)},
    ]
    return {"messages": messages, "tag": f"t{number}", **fields}


def events(context, kind):
    lines = (context.dir / "events.jsonl").read_text().splitlines()
    return [event["data"] for event in map(json.loads, lines) if event["type"] == kind]


def stored(context):
    lines = (context.dir / "scores.jsonl").read_text().splitlines()
    return [RowScore.model_validate_json(line) for line in lines]


def test_a_row_s_tools_are_offered_and_calls_are_scored(make, server):
    tools = [{"type": "function", "function": {"name": "double", "parameters": {"type": "object"}}}]
    call = {"type": "function", "function": {"name": "double", "arguments": '{"n": 3}'}}
    server.answer = lambda messages: {"role": "assistant", "content": None, "tool_calls": [{"id": "call-1", **call}]}
    wanted = {"messages": [{"role": "user", "content": "3"}, {"role": "assistant", "content": None}], "tools": tools}
    wanted["messages"][1]["tool_calls"] = [call]
    plain = {"messages": [{"role": "user", "content": "4"}, {"role": "assistant", "content": "8"}]}
    evaluator = """
def evaluate(messages, ground_truth=None, **row):
    assert messages[-1]["content"] is not None or "tool_calls" in messages[-1]
    return messages[-1].get("tool_calls") == ground_truth
"""
    context = make(evaluator=evaluator, rows=[wanted, plain])
    assert job.run(context).summary.mean == 0.5
    assert [request.get("tools") for request in sorted(server.requests, key=lambda body: "tools" not in body)] == [
        tools,
        None,
    ]
    assert json.loads(stored(context)[0].output) == call


def test_every_row_is_asked_scored_and_kept(make, server, monkeypatch):
    monkeypatch.setenv("FW_API_KEY", "fw_token")
    server.delay_s = 0.05
    context = make(concurrency=4)
    result = job.run(context)
    assert (result.summary.n, result.summary.mean, result.summary.binary) == (10, 0.6, True)
    assert result.summary.failed_rows == 0 and result.summary.extra["length"].mean == pytest.approx(1.1)
    assert (result.tokens_prompt, result.tokens_generated, result.failures) == (70, 30, {})
    assert result.configuration.model_digest == "sha256:one" and result.configuration.base_digest == "unknown"
    assert result.configuration.sampling["maxTokens"] == 256
    scores = stored(context)
    assert [score.line for score in scores] == list(range(1, 11)) and [score.index for score in scores] == list(
        range(10)
    )
    assert scores[3].output == "6" and scores[3].score == 1.0 and scores[3].details == {"length": 1, "tag": "t3"}
    assert server.busiest == 4 and server.authorizations == {"Bearer fw_token"}
    asked = min(server.requests, key=lambda request: request["messages"][-1]["content"])
    assert asked["messages"] == row(0)["messages"][:2]
    assert (asked["temperature"], asked["max_tokens"], asked["model"]) == (0.0, 256, "m")
    assert len({request["seed"] for request in server.requests}) == 10
    last = events(context, "progress")[-1]
    assert (last["done"], last["total"], last["unit"], last["message"]) == (10, 10, "rows", "mean 0.600 of 10 rows")


def labelled(number, label):
    asked = {"role": "user", "content": str(number)}
    return {"messages": [asked, {"role": "assistant", "content": label}], "tag": ""}


def test_what_one_answer_to_everything_would_score_stands_beside_the_mean(make, server):
    labels = ["shop"] * 6 + ["depot"] * 3 + ["yard"]
    server.answer = lambda messages: "shop" if messages[-1]["content"] != "8" else "yard\n"
    summary = job.run(make(rows=[labelled(*pair) for pair in enumerate(labels)])).summary
    assert (summary.mean, summary.distinct_answers) == (0.6, 2)
    assert summary.constant.to_wire() == {"answer": "shop", "share": 0.6, "mean": 0.6}


def test_answers_that_are_no_labels_have_no_constant_to_beat(make, server):
    summary = job.run(make()).summary
    assert summary.constant is None and summary.distinct_answers == 8


def test_limit_takes_the_first_rows(make, server):
    assert job.run(make(limit=3)).summary.n == 3
    assert {request["messages"][-1]["content"] for request in server.requests} == {"0", "1", "2"}


def test_few_shot_examples_stand_between_system_prompt_and_question_and_never_hold_the_answer(make, server):
    server.answer = double
    result = job.run(make(few_shot=3))
    assert result.summary.mean == 1.0 and result.configuration.few_shot["count"] == 3
    for request in server.requests:
        roles = [message["role"] for message in request["messages"]]
        assert roles == ["system", *["user", "assistant"] * 3, "user"]
        *earlier, question = [message["content"] for message in request["messages"] if message["role"] == "user"]
        assert question not in earlier and len(set(earlier)) == 3
    first = {tuple(message["content"] for message in request["messages"][1:7]) for request in server.requests}
    assert len(first) == 4  # the same three for all but the rows that are examples themselves


@pytest.mark.parametrize("count", [2, 3, 5])
def test_every_answer_is_an_example_before_one_is_shown_twice(make, server, count):
    labels = ["hot"] * 20 + ["cold", "mild"]
    rows = [row(number) for number in range(len(labels))]
    for item, label in zip(rows, labels, strict=True):
        item["messages"][-1]["content"] = label
    result = job.run(make(rows=rows, few_shot=count, limit=1))
    shown = [message["content"] for message in server.requests[0]["messages"] if message["role"] == "assistant"]
    assert len(shown) == count and len(set(shown)) == min(count, 3)
    lines = result.configuration.few_shot["lines"]
    assert sorted(labels[line - 1] for line in lines) == sorted(shown)


def test_too_few_rows_for_examples_is_said_before_anything_is_asked(make, server):
    with pytest.raises(FwError, match="there are 10") as caught:
        job.run(make(few_shot=10))
    assert caught.value.code == "invalid_argument" and not server.requests


def test_a_restarted_attempt_asks_only_for_the_rest(make, server):
    context = make(concurrency=1)
    first = job.run(context)
    lines = (context.dir / "scores.jsonl").read_text().splitlines(keepends=True)
    (context.dir / "scores.jsonl").write_text("".join(lines[:6]) + lines[6][:20])
    server.requests.clear()
    again = job.run(make(concurrency=1))
    assert len(server.requests) == 4
    assert again.model_dump(exclude={"seconds"}) == first.model_dump(exclude={"seconds"})
    assert len(stored(context)) == 10
    server.requests.clear()
    assert job.run(make()).summary == first.summary and not server.requests


@pytest.mark.parametrize("change", [{"evaluator_digest": "sha256:new"}, {"limit": 9}, {"inference": {"seed": 5}}])
def test_scores_of_another_question_are_not_reused(make, server, change):
    context = make()
    job.run(context)
    server.requests.clear()
    n = job.run(make(**change)).summary.n
    assert len(server.requests) == n == len(stored(context))


def test_a_model_that_changed_between_attempts_is_asked_everything_again(make, server):
    context = make()
    job.run(context)
    lines = (context.dir / "scores.jsonl").read_text().splitlines(keepends=True)
    (context.dir / "scores.jsonl").write_text("".join(lines[:6]))
    server.digest = "sha256:two"
    server.requests.clear()
    result = job.run(make())
    assert len(server.requests) == 11 and result.summary.n == 10
    assert result.configuration.model_digest == "sha256:two"
    assert "changed" in events(context, "warning")[-1]["text"]


def test_a_model_that_changes_in_between_fails_the_evaluation(make, server):
    def answer(messages):
        server.digest = "sha256:two" if messages[-1]["content"] == "7" else "sha256:one"
        return double(messages)

    server.answer = answer
    context = make(concurrency=1)
    with pytest.raises(FwError, match="changed while it was evaluated") as caught:
        job.run(context)
    assert caught.value.code == "failed_precondition"
    assert not (context.dir / "scores.jsonl").exists()


def test_a_server_that_comes_back_costs_nothing(make, server):
    body = {"error": {"code": "unavailable", "message": "starting", "retryable": True}}
    server.failures = [(503, body), (429, {"error": {"message": "slow down"}}), (502, "no JSON of ours")]
    assert job.run(make(concurrency=2)).summary.n == 10


def test_a_server_that_is_not_there_yet_is_waited_for(make):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    late = []
    timer = threading.Timer(0.5, lambda: late.append(ModelServer(double, port=port)))
    timer.start()
    try:
        assert job.run(make(base_url=f"http://127.0.0.1:{port}/v1")).summary.mean == 1.0
    finally:
        timer.join()
        late[0].close()


def test_the_clock_starts_when_the_model_answers_also_after_a_resume(make, server):
    """A worker's start is no cost of the work: what is counted fits between the first answer and the end."""
    for asked in (10, 4):
        server.cold_s = 0.6
        server.answered_at.clear()
        server.requests.clear()
        earlier_s = job.ScoreLog(make().dir, make().spec).clock_s
        result = job.run(make())
        assert len(server.requests) == asked and server.warm_ups == (1 if asked == 10 else 2)
        assert 0 < result.seconds - earlier_s <= time.monotonic() - server.answered_at[0]
        scores = make().dir / "scores.jsonl"
        scores.write_text("".join(scores.read_text().splitlines(keepends=True)[:6]))


def test_the_clock_stands_still_while_the_server_is_away(make, server):
    def answer(messages):
        if messages[-1]["content"] == "5" and not down:
            down.append(time.monotonic())
            server.failures = [(503, {"error": {"message": "restarting"}})] * 2
        up.append(time.monotonic())
        return double(messages)

    down, up = [], []
    server.answer = answer
    started = time.monotonic()
    result = job.run(make(concurrency=1))
    away_s = up[6] - down[0]  # two refusals, each with a pause after it
    assert away_s >= 3 * asking.FIRST_DELAY_S
    assert result.seconds <= time.monotonic() - started - 3 * asking.FIRST_DELAY_S


def test_nothing_is_warmed_up_for_rows_that_are_scored(make, server):
    job.run(make())
    server.warm_ups = 0
    job.run(make())
    assert server.warm_ups == 0


def test_a_model_that_refuses_to_be_warmed_up_is_evaluated_all_the_same(make, server):
    server.failures = [(400, {"error": {"message": "a system message is required"}})]
    assert job.run(make()).summary.n == 10


def test_patience_ends(make, server, monkeypatch):
    monkeypatch.setattr(asking, "FIRST_DELAY_S", 0.02)
    monkeypatch.setattr(asking.ServedModel.__init__, "__kwdefaults__", {"patience_s": 0.3})
    server.failures = [(503, {"error": {"message": "starting"}})] * 1_000
    with pytest.raises(FwError, match="starting") as caught:
        job.run(make(concurrency=2))
    assert caught.value.code == "unavailable" and caught.value.retryable and caught.value.hint


@pytest.mark.parametrize(
    ("status", "body", "code"),
    [
        (404, {"error": {"code": "not_found", "message": "No model 'm'. Did you mean 'n'?"}}, "not_found"),
        (401, {"error": {"code": "invalid_api_key", "message": "who?"}}, "unauthenticated"),
        (400, {"error": {"message": "bad"}}, "invalid_argument"),
        (500, {"error": {"code": "internal", "message": "oh"}}, "internal"),
        (418, "teapot", "job_failed"),
        (200, {"unexpected": 1}, "job_failed"),
        (200, {"choices": []}, "job_failed"),
    ],
)
def test_an_error_of_the_server_is_the_reason_of_the_failure(make, server, status, body, code):
    server.answer = lambda messages: (status, body)
    with pytest.raises(FwError) as caught:
        job.run(make())
    assert caught.value.code == code and caught.value.not_done and caught.value.hint
    if isinstance(body, dict) and "error" in body:
        assert caught.value.message == body["error"]["message"]


def test_a_row_that_is_too_long_fails_alone_unless_all_are(make, server):
    too_long = (400, {"error": {"code": "context_length_exceeded", "message": "9 tokens are too many"}})
    server.answer = lambda messages: too_long if messages[-1]["content"] == "4" else double(messages)
    context = make()
    result = job.run(context)
    assert (result.summary.mean, result.summary.failed_rows) == (0.9, 1)
    assert result.failures == {"context_length_exceeded": {"count": 1, "line": 5, "error": "9 tokens are too many"}}
    assert stored(context)[4].error == "9 tokens are too many"
    server.answer = lambda messages: too_long
    with pytest.raises(FwError) as caught:
        job.run(make(limit=4))
    assert caught.value.code == "context_length_exceeded"


def test_an_evaluator_that_fails_on_a_row_costs_that_row(make, server):
    source = "def evaluate(messages, ground_truth):\n    return 1 / int(messages[-1]['content'])\n"
    result = job.run(make(source))
    assert result.summary.failed_rows == 1 and result.summary.n == 10
    assert result.failures["evaluator"]["error"] == "raised ZeroDivisionError at line 2: division by zero"


def test_failed_rows_are_at_the_minimum_of_the_range_that_the_evaluator_declares(make, server):
    source = (
        "SCORE_RANGE = (-2, 1)\n"
        "def evaluate(messages, ground_truth):\n"
        "    answer = int(messages[-1]['content'])\n"
        "    return {6: float('nan'), 8: -3, 10: 7}.get(answer, -1)\n"
    )
    server.answer = double
    context = make(source)
    summary = job.run(context).summary
    assert (summary.failed_rows, summary.score_range) == (3, (-2.0, 1.0))
    assert summary.mean == pytest.approx((-7 - 3 * 2) / 10)
    assert stored(context)[5].error == "the score is 7, outside the SCORE_RANGE (-2, 1) it declares"
    message = events(context, "progress")[-1]["message"]
    assert message == "mean -1.300 of 10 rows, 3 of them without a score"


def test_an_evaluator_that_always_fails_fails_before_the_model_is_asked(make, server):
    with pytest.raises(FwError, match="raised KeyError at line 2: 'zzz'") as caught:
        job.run(make("def evaluate(messages, **row):\n    return row['zzz']\n"))
    assert caught.value.code == "evaluator_failed" and caught.value.details["line"] == 1 and not server.requests


def test_an_evaluator_that_fails_on_every_answer_fails_the_job(make, server):
    server.answer = lambda messages: "not a number"
    with pytest.raises(FwError, match="fails on every row") as caught:
        job.run(make("def evaluate(messages, ground_truth):\n    return float(int(messages[-1]['content']) > 0)\n"))
    assert caught.value.code == "evaluator_failed"


def test_an_evaluator_that_cannot_be_loaded_fails_the_job(make, server):
    with pytest.raises(FwError) as caught:
        job.run(make("def evaluate(messages:\n"))
    assert caught.value.code == "evaluator_invalid" and not server.requests


def test_surrogates_and_infinities_are_stored_as_text(make, server):
    source = (
        "def evaluate(messages, **row):\n    print('\\ud800')\n"
        "    if row['tag'] == 't3':\n        raise ValueError('\\udfff')\n"
        "    return {'score': 1, '\\ud800': '\\ud801', 'far': float('inf')}\n"
    )
    server.answer = lambda messages: "\ud800"
    context = make(source)
    assert job.run(context).summary.failed_rows == 1
    assert stored(context)[0].details == {"?": "?", "far": "inf", "printed": "?\n"} and stored(context)[0].output == "?"


def start(context):
    command = [sys.executable, "-m", "engine.evals.job", str(context.dir)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, env={**os.environ, "FW_API_KEY": "k"})


def wait_for(condition, limit_s=20):
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_the_program_ends_with_its_result_survives_kill_9_and_can_be_cancelled(make, server):
    context = make(concurrency=2)
    server.delay_s = 0.3
    process = start(context)
    wait_for(lambda: (context.dir / "scores.jsonl").exists())
    process.kill()
    process.communicate()
    before = len(stored(context))
    assert 0 < before < 10

    process = start(context)
    asked = len(server.requests)
    wait_for(lambda: len(server.requests) > asked)
    process.send_signal(signal.SIGTERM)
    process.communicate()
    assert process.returncode == EXIT_CANCELLED and not (context.dir / "result.json").exists()
    kept = len(stored(context))
    assert before <= kept < 10

    server.delay_s = 0
    process = start(context)
    assert process.wait() == EXIT_DONE, process.stderr.read()
    result = EvaluateResult.model_validate(read_json(context.dir / "result.json"))
    assert (result.summary.n, result.summary.mean) == (10, 0.6)
    assert (
        events(context, "message")[-1]["text"] == f"{kept} rows were scored by an earlier attempt, {10 - kept} are left"
    )


def test_the_program_leaves_its_reason(make, server):
    server.answer = lambda messages: (404, {"error": {"code": "not_found", "message": "No model 'm'."}})
    context = make()
    process = start(context)
    assert process.wait() == EXIT_FAILED
    assert b"No model 'm'." in process.communicate()[1]
    assert read_json(context.dir / "failure.json")["code"] == "not_found"


def test_a_torn_line_in_the_middle_is_asked_again(make, server):
    context = make()
    job.run(context)
    lines = (context.dir / "scores.jsonl").read_text().splitlines(keepends=True)
    (context.dir / "scores.jsonl").write_text("".join(lines[:4]) + lines[4][:9])
    append_line(context.dir / "scores.jsonl", json.loads(lines[5]))
    server.requests.clear()
    assert job.run(make()).summary.n == 10
    assert len(server.requests) == 6


def test_rows_that_changed_on_the_disk_are_not_scored(make):
    context = make()
    path = Path(context.spec.rows.path)
    path.write_text(path.read_text().replace("0", "1", 1))
    with pytest.raises(FwError, match="changed on the disk") as caught:
        job.run(context)
    assert caught.value.code == "failed_precondition"
