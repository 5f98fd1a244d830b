"""Evaluators that misbehave, for real: each costs at most its row, and the next row is scored as if nothing was."""

import os
import signal
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.evals.evaluators import EvaluatorProcess, check_source
from engine.evals.replies import read_value
from engine.evals.sandbox import Limits
from fw_sdk.types import FwError

MESSAGES = [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}]
GOOD = "def evaluate(messages, ground_truth=None, **row):\n    return float(messages[-1]['content'] == ground_truth)\n"


@contextmanager
def running(tmp_path, source, *, row_timeout_s=5.0, limits=None):
    path = tmp_path / "evaluator.py"
    path.write_text(source)
    with EvaluatorProcess(path, row_timeout_s=row_timeout_s, limits=limits) as process:
        yield process


def misbehaving(body: str) -> str:
    """An evaluator that runs ``body`` for the row whose ground truth is 'bad', and scores all others 1."""
    lines = "".join(f"        {line}\n" for line in body.splitlines())
    return (
        f"import os, sys, time\n\ndef evaluate(messages, ground_truth=None):\n    if ground_truth == 'bad':\n{lines}"
        "    return 1.0\n"
    )


BAD = {
    "raise ValueError('no')": "raised ValueError at line 5: no",
    "return None": "the score is None",
    "return float('nan')": "the score is nan",
    "return {'score': float('inf')}": "the score is inf",
    "return 10 ** 400": "the score is inf",
    "return 'high'": "the score is str 'high'",
    "return {'points': 1}": "has no 'score'",
    "return object()": "unusable",
    "sys.exit(0)": "raised SystemExit at line 5: 0",
    "raise KeyboardInterrupt": "raised KeyboardInterrupt",
    "evaluate(messages, ground_truth)": "raised RecursionError",
    "x = bytearray(1 << 34)": "raised MemoryError",
    "x = []\nwhile True: x.append(bytearray(1 << 24))": "raised MemoryError",
    "os._exit(3)": "ended its process with status 3",
    "import ctypes; ctypes.string_at(0)": "killed by SIGSEGV",
    "os.kill(os.getpid(), 9)": "killed by SIGKILL",
    "os.fork()": "raised PermissionError",
    "while True: os.fork()": "raised PermissionError",
    "import subprocess; subprocess.run(['true'])": "raised PermissionError",
    "os.execv('/bin/true', ['true'])": "raised PermissionError",
    "import socket; socket.create_connection(('127.0.0.1', 9))": "raised PermissionError",
    "os.kill(os.getppid(), 0)": "raised PermissionError",
    "open('big', 'wb').write(bytes(1 << 26))": "raised OSError",
    "x = [open('/dev/null') for _ in range(200)]": "raised OSError",
    "return {'score': 1, 'text': 'x' * 1_000_000}": "longer than",
    "[os.write(n, b'{}\\n') for n in range(3, 12) if os.path.exists(f'/proc/self/fd/{n}')]": None,
}


@pytest.mark.parametrize("body", BAD, ids=range(len(BAD)))
def test_a_bad_row_gets_a_reason_and_the_next_row_its_score(tmp_path, body):
    with running(tmp_path, misbehaving(body), limits=Limits(memory_bytes=1 << 28)) as process:
        assert process.score(MESSAGES, "good").score == 1.0
        scored = process.score(MESSAGES, "bad")
        if BAD[body] is not None:
            assert scored.score is None and BAD[body] in scored.error
        after = process.score(MESSAGES, "good")
        assert (after.score, after.error) == (1.0, None)


@pytest.mark.parametrize(
    "body",
    ["while True: pass", "time.sleep(60)", "import threading; threading.Event().wait()"],
)
def test_a_row_that_does_not_end_is_ended(tmp_path, body):
    with running(tmp_path, misbehaving(body), row_timeout_s=0.4) as process:
        assert process.score(MESSAGES, "good").score == 1.0
        started = time.monotonic()
        assert process.score(MESSAGES, "bad").error == "the evaluator took longer than 0.4 s"
        assert time.monotonic() - started < 2
        assert process.score(MESSAGES, "good").score == 1.0


def test_what_is_printed_is_no_reply_and_is_kept_within_bounds(tmp_path):
    source = (
        "import os, sys\nprint('loading')\n"
        "def evaluate(messages, **row):\n"
        "    print('{\"id\": 1, \"value\": 0}')\n    sys.stderr.write('x' * 100_000)\n"
        "    os.write(1, b'{\"id\": 1, \"value\": 0}\\n')\n    os.write(2, b'noise')\n    return 0.5\n"
    )
    with running(tmp_path, source) as process:
        scored = process.score(MESSAGES)
    assert scored.score == 0.5
    assert scored.details["printed"].startswith('{"id": 1') and len(scored.details["printed"]) == 2_000


def test_it_sees_no_environment_and_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("FW_API_KEY", "secret")
    source = (
        "import os, sys\n"
        "def evaluate(messages, **row):\n"
        "    seen = dict(os.environ), os.listdir('.'), sys.argv[1:], sys.stdin.read()\n"
        "    return {'score': 1, 'seen': repr(seen), 'secret': 'secret' in open('/proc/self/environ').read()}\n"
    )
    with running(tmp_path, source) as process:
        details = process.score(MESSAGES).details
    assert "secret" not in details["seen"] and details["secret"] is False
    environment, rest = details["seen"].split("}, ", 1)
    assert set(environment.replace("({", "").split(", ")) <= {"", "'LC_CTYPE': 'C.UTF-8'"}
    assert rest == "[], [], '')"


def test_a_process_killed_from_outside_costs_nothing(tmp_path):
    with running(tmp_path, "import time\n" + GOOD.replace("    return", "    time.sleep(0.5)\n    return")) as process:
        assert process.score(MESSAGES, "4").score == 1.0
        first = process.pid
        threading.Timer(0.2, os.kill, (first, signal.SIGKILL)).start()
        assert process.score(MESSAGES, "4").score == 1.0
        assert process.pid != first


@pytest.mark.parametrize("endless", ["time.sleep(600)", "re.match('(a+)+$', 'a' * 60 + 'b')"])
def test_it_ends_with_its_parent_even_in_an_endless_row(tmp_path, monkeypatch, endless):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "evaluator.py").write_text(f"import re, time\ndef evaluate(messages):\n    {endless}\n")
    parent = os.fork()
    if parent == 0:
        try:
            process = EvaluatorProcess(tmp_path / "evaluator.py", row_timeout_s=600)
            threading.Timer(1.0, lambda: ((tmp_path / "pid").write_text(str(process.pid)), os._exit(0))).start()
            process.score(MESSAGES)
        finally:
            os._exit(1)
    os.waitpid(parent, 0)
    child = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + 10
    while _lives(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _lives(child)


def _lives(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def test_closing_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    with running(tmp_path, GOOD) as process:
        process.score(MESSAGES, "4")
        pid = process.pid
        assert len(list(tmp_path.glob("fw-evaluator-*"))) == 1
    assert process.pid is None and not _lives(pid)
    assert not list(tmp_path.glob("fw-evaluator-*"))
    assert len(list(Path("/proc/self/fd").iterdir())) == descriptors


def test_a_row_larger_than_a_pipe_goes_through(tmp_path):
    with running(tmp_path, "def evaluate(messages, ground_truth, big):\n    return len(big)\n") as process:
        assert process.score(MESSAGES, None, {"big": "é" * 400_000, "unwanted": 1}).score == 400_000


def test_dataclasses_and_other_modules_work_inside(tmp_path):
    source = (
        "from __future__ import annotations\nimport dataclasses, re\nimport numpy as np\n"
        "@dataclasses.dataclass\nclass Part:\n    weight: float\n"
        "def evaluate(messages, **row):\n    return {'score': np.float32(0.5), "
        "'ok': np.bool_(True), 'n': np.int64(3)}\n"
    )
    with running(tmp_path, source, limits=Limits(memory_bytes=2 << 30)) as process:
        scored = process.score(MESSAGES)
    assert (scored.score, scored.details) == (0.5, {"ok": True, "n": 3})


BROKEN = {
    "def evaluate(messages:\n": (1, "not Python"),
    "def evaluat(messages): return 1\n": (None, "did you mean 'evaluat'"),
    "": (None, "no top-level function"),
    "async def evaluate(messages): return 1\n": (1, "async"),
    "def evaluate(): return 1\n": (1, "takes no argument"),
    "\x00": (None, "not Python"),
    "SCORE_RANGE = (1, 0)\ndef evaluate(messages): return 1\n": (1, "SCORE_RANGE is (1, 0)"),
    "SCORE_RANGE = 5\ndef evaluate(messages): return 1\n": (1, "as two numbers"),
    "SCORE_RANGE = (0, 1, 2)\ndef evaluate(messages): return 1\n": (1, "as two numbers"),
    "SCORE_RANGE = (0, 1e999)\ndef evaluate(messages): return 1\n": (1, "as two numbers"),
    "SCORE_RANGE = ('a', 'b')\ndef evaluate(messages): return 1\n": (1, "as two numbers"),
    "def evaluate(messages): return 1\nSCORE_RANGE = sorted((0, 1))\n": (2, "SCORE_RANGE is sorted((0, 1))"),
    f"SCORE_RANGE = (0, {10**400})\ndef evaluate(messages): return 1\n": (1, "as two numbers"),
}


@pytest.mark.parametrize("source", BROKEN, ids=range(len(BROKEN)))
def test_a_file_that_cannot_be_an_evaluator_is_refused_without_running_it(source):
    with pytest.raises(FwError) as caught:
        check_source(source)
    line, words = BROKEN[source]
    assert caught.value.code == "evaluator_invalid" and words in caught.value.message
    assert caught.value.details.get("line") == line and "evaluate(" in caught.value.hint


@pytest.mark.parametrize(
    ("line", "declared"),
    [
        ("", None),
        ("SCORE_RANGE = (-1, 1)", (-1.0, 1.0)),
        ("SCORE_RANGE: tuple[float, float] = (-0.5, 2e3)", (-0.5, 2000.0)),
        ("SCORE_RANGE = [0, 10]", (0.0, 10.0)),
        ("SCORE_RANGE: tuple[float, float]", None),
        ("SCORE_RANGES = (1, 0)", None),
        ("SCORE_RANGE = (0, 1)\nSCORE_RANGE = (0, 3)", (0.0, 3.0)),
        ("def other():\n    SCORE_RANGE = (1, 0)", None),
    ],
)
def test_a_declared_range_is_read_from_the_source(line, declared):
    assert check_source(f"{line}\n{GOOD}\nraise SystemExit('it was run')\n") == declared


@given(st.floats(allow_nan=False), st.floats(-10, 10), st.floats(0.1, 10))
def test_a_score_outside_the_declared_range_is_none(score, low, width):
    scored = read_value(score, (low, low + width))
    inside = low <= score <= low + width
    assert scored.score == (score if inside else None)
    assert inside or "SCORE_RANGE" in scored.error or "finite" in scored.error


@pytest.mark.parametrize(
    ("prefix", "words"),
    [("1 / 0", "ZeroDivisionError at line 1"), ("import no_such_module", "no_such_module"), ("exit()", "SystemExit")],
)
def test_a_file_that_cannot_be_loaded_says_where(tmp_path, prefix, words):
    with running(tmp_path, f"{prefix}\n{GOOD}") as process, pytest.raises(FwError) as caught:
        process.score(MESSAGES)
    assert caught.value.code == "evaluator_invalid" and words in caught.value.message
    assert caught.value.details == {"line": 1}


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(FwError) as caught:
        EvaluatorProcess(tmp_path / "nowhere.py")
    assert caught.value.code == "evaluator_invalid"


LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
RETURNED = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["score", "a", "b"]), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None)
@given(RETURNED)
def test_any_returned_value_becomes_a_finite_score_or_a_reason(value):
    scored = read_value(value)
    assert (scored.score is None) == (scored.error is not None)
    assert scored.score is None or abs(scored.score) < float("inf")
