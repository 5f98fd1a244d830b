"""Evaluators attack for real: other processes, files, sockets, our own pipes; and ordinary ones notice nothing."""

import json
import os
import platform
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from engine.evals import scratch as scratch_module
from engine.evals.evaluators import LOAD_CHANCES, EvaluatorProcess
from engine.evals.replies import ForeignReply, parse_reply
from engine.evals.sandbox import Limits
from engine.evals.scratch import Scratch, sweep
from engine.evals.syscall_filter import (
    ALLOWED,
    AND,
    ANSWERED,
    ARCH_OFFSET,
    ARGUMENTS_OFFSET,
    CONDITIONAL,
    JUMP_AT_LEAST,
    JUMP_BITS,
    JUMP_EQUAL,
    LOAD,
    MACHINES,
    NUMBER_OFFSET,
    RETURN,
    RETURN_ALLOW,
    RETURN_ERRNO,
    program,
)
from fw_sdk.types import FwError

MESSAGES = [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}]
NOBODY = 65534
HEADERS = {
    "x86_64": Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    "aarch64": Path("/usr/include/asm-generic/unistd.h"),
}
linux = pytest.mark.skipif(
    platform.system() != "Linux" or platform.machine() not in MACHINES, reason="the filter is Linux's"
)


def evaluator(tmp_path, body, top=""):
    lines = "".join(f"    {line}\n" for line in body.splitlines())
    path = tmp_path / "evaluator.py"
    path.write_text(f"import os, sys, time\n{top}\ndef evaluate(messages, ground_truth=None, **row):\n{lines}")
    return path


def score(tmp_path, body, top="", **options):
    with EvaluatorProcess(evaluator(tmp_path, body, top), **options) as process:
        return process.score(MESSAGES)


def attacks_as(user):
    command = [sys.executable, "-m", "engine.evals.tests.attacks"]
    options = {} if user is None else {"user": user, "group": user, "extra_groups": []}
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.run(command, capture_output=True, text=True, cwd="/", env=environment, timeout=300, **options)


def has_landlock():
    code = "from engine.evals.landlock import restrict; import sys; sys.exit(not restrict('/nowhere', '/tmp'))"
    return subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@linux
@pytest.mark.parametrize("user", [None, NOBODY])
def test_no_attack_on_another_process_or_file_of_the_same_account_succeeds(user):
    if not has_landlock():
        pytest.skip("this kernel has no Landlock, which confines files")
    if user is not None and os.getuid() != 0:
        pytest.skip("only root can become another account")
    try:
        done = attacks_as(user)
    except PermissionError:
        pytest.skip("that account cannot run this interpreter")
    if user is not None and "No module named" in done.stderr:
        pytest.skip("that account cannot read the project")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["uid"] == (os.getuid() if user is None else user)
    refused = re.compile(r"raised (PermissionError|OSError|ValueError) .*(Errno (1|13|18|38)\]|maximum limit)")
    assert [name for name, came in found["attacks"].items() if not refused.match(came)] == []
    assert found["untouched"] and found["whole"]


ORDINARY = {
    "threads": "from concurrent.futures import ThreadPoolExecutor as T\nreturn sum(T(4).map(float, [0.25] * 4))",
    "thread pool": "from multiprocessing.pool import ThreadPool\n"
    "with ThreadPool(3) as pool: return sum(pool.map(float, [0.25] * 4))",
    "locks between processes": "import multiprocessing as m\nq, lock = m.SimpleQueue(), m.RLock()\n"
    "room = m.Semaphore(1)\n"
    "with lock, lock, room: q.put(room.get_value() == 0 and not room.acquire(timeout=0.01))\n"
    "try: lock.release()\nexcept AssertionError: return float(q.get())",
    "asyncio": "import asyncio\nasync def f(): return await asyncio.wait_for(asyncio.to_thread(float, 1), 5)\n"
    "return asyncio.run(f())",
    "alarm": "import signal\nsignal.signal(signal.SIGALRM, lambda *a: None)\n"
    "signal.setitimer(signal.ITIMER_REAL, 0.05)\nsignal.pause()\nreturn 1",
    "sqlite in memory": "import sqlite3\nreturn sqlite3.connect(':memory:').execute('select 1').fetchone()[0]",
    "sqlite in a file": "import sqlite3\nc = sqlite3.connect('a.db')\n"
    "c.execute('create table t(x)')\nc.commit()\nreturn 1",
    "temporary files": "import tempfile, shutil\nwith tempfile.TemporaryDirectory(dir='.') as d:\n"
    "    p = os.path.join(d, 'a')\n    open(p, 'w').write('x')\n    shutil.copyfile(p, p + 'b')\n"
    "    os.replace(p + 'b', p)\n    return float(open(p).read() == 'x')",
    "numpy": "import numpy as np\na = np.random.default_rng(0).random((64, 64))\n"
    "return float(np.allclose(np.linalg.inv(a) @ a, np.eye(64)))",
    "numbers": "import decimal, fractions\nreturn decimal.Decimal('0.5') + decimal.Decimal('0.5')",
    "null device": "open('/dev/null', 'w').write('x')\nreturn len(open('/dev/urandom', 'rb').read(1))",
    "library's files": "import json.tool, unicodedata, zoneinfo, email.mime.text, xml.etree.ElementTree\nreturn 1",
    "what a library asks": "import platform, multiprocessing, getpass, locale\nplatform.platform()\n"
    "return float(multiprocessing.cpu_count() > 0 and os.isatty(1) is False)",
    "big prints": "for _ in range(50): print('x' * 100_000)\nos.write(1, b'y' * 1_000_000)\nreturn 1",
    "subprocess refused": "import subprocess\ntry: subprocess.run(['true'])\nexcept PermissionError: return 1",
}


@pytest.mark.parametrize("name", ORDINARY)
def test_an_ordinary_evaluator_notices_nothing(tmp_path, name):
    scored = score(tmp_path, ORDINARY[name], limits=Limits(memory_bytes=4 << 30))
    assert (scored.score, scored.error) == (1.0, None)


@linux
def test_every_thread_of_the_process_is_filtered(tmp_path):
    body = (
        "import threading\nthreading.Thread(target=time.sleep, args=(1,), daemon=True).start()\n"
        "states = [open(f'/proc/self/task/{t}/status').read() for t in os.listdir('/proc/self/task')]\n"
        "modes = [l.split()[1] for s in states for l in s.splitlines() if l.startswith(('Seccomp:', 'CapEff:'))]\n"
        "return {'score': 1, 'threads': len(states), 'modes': sorted(set(modes))}"
    )
    details = score(tmp_path, body).details
    assert details["threads"] >= 2 and details["modes"] == ["0000000000000000", "2"]


def decide(code, arch, number, arguments=()):
    """What the kernel would answer, by the BPF program."""
    data = {NUMBER_OFFSET: number, ARCH_OFFSET: arch}
    for index, value in enumerate((*arguments, *([0] * 6))[:6]):
        data[ARGUMENTS_OFFSET + 8 * index] = value & 0xFFFFFFFF
        data[ARGUMENTS_OFFSET + 8 * index + 4] = (value >> 32) & 0xFFFFFFFF
    at, accumulator = 0, 0
    while True:
        operation, if_true, if_false, operand = code[at]
        at += 1
        if operation == LOAD:
            accumulator = data[operand]
        elif operation == AND:
            accumulator &= operand
        elif operation == RETURN:
            return operand
        else:
            tests = {JUMP_EQUAL: accumulator == operand, JUMP_AT_LEAST: accumulator >= operand}
            at += if_true if {**tests, JUMP_BITS: bool(accumulator & operand)}[operation] else if_false


@pytest.mark.parametrize("machine", MACHINES)
def test_the_filter_allows_what_is_listed_and_nothing_else(machine):
    code, (arch, numbers) = program(machine, 77), MACHINES[machine]
    assert len(code) < 4096 and all(step[1] < 256 and step[2] < 256 for step in code)
    allowed = {numbers[name] for name in ALLOWED.split() if name in numbers}
    conditional = {numbers[name] for name in CONDITIONAL}
    for number in set(range(600)) - conditional:
        assert (decide(code, arch, number) == RETURN_ALLOW) == (number in allowed)
        assert decide(code, arch ^ 1, number) != RETURN_ALLOW
        assert decide(code, arch, number | 0x40000000) != RETURN_ALLOW
    assert decide(code, arch, 599) == RETURN_ERRNO | 38
    assert decide(code, arch, numbers["clone3"]) == RETURN_ERRNO | 38


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize(
    ("name", "arguments", "allowed"),
    [
        ("clone", (0x3D0F00,), True),
        ("clone", (0x3D0F00 & ~0x10000,), False),
        ("clone", (17,), False),
        ("clone", (0x103D0F00,), False),
        ("fcntl", (3, 1030), True),
        ("fcntl", (3, 8, 77), False),
        ("fcntl", (3, 4, 0o4000), True),
        ("fcntl", (3, 4, 0o4000 | 0x2000), False),
        ("kill", (77, 9), True),
        ("kill", (78, 9), False),
        ("kill", (0, 9), False),
        ("kill", (2**64 - 1, 9), False),
        ("tgkill", (77, 80, 6), True),
        ("tgkill", (78, 78, 6), False),
        ("prlimit64", (0, 7), True),
        ("prlimit64", (77, 7), True),
        ("prlimit64", (1, 7), False),
        ("socketpair", (1, 1 | 0o2000000), True),
        ("socketpair", (1, 2), False),
        ("socketpair", (2, 1), False),
        ("sendto", (3, 1, 1, 0, 0, 0), True),
        ("sendto", (3, 1, 1, 0, 1 << 40, 0), False),
        ("sendto", (3, 1, 1, 0, 4096, 0), False),
        ("prctl", (15,), True),
        ("prctl", (4,), False),
        ("ioctl", (1, 0x5401), True),
        ("ioctl", (0, 0x5412), False),
    ],
)
def test_arguments_decide_where_a_call_can_do_both(machine, name, arguments, allowed):
    arch, numbers = MACHINES[machine]
    assert (decide(program(machine, 77), arch, numbers[name], arguments) == RETURN_ALLOW) == allowed


@pytest.mark.parametrize("machine", MACHINES)
def test_the_numbers_are_the_kernel_headers(machine):
    if not HEADERS[machine].exists():
        pytest.skip(f"no {HEADERS[machine]} here")
    found = re.findall(r"#define __NR(?:3264)?_(\w+) (\d+)\n", HEADERS[machine].read_text())
    real = {name: int(number) for name, number in found}
    real.setdefault("newfstatat", real.get("fstatat", -1))
    numbers = MACHINES[machine][1]
    assert {name: real.get(name) for name in numbers} == numbers
    listed = {*ALLOWED.split(), *CONDITIONAL, *ANSWERED}
    assert set(numbers) == {name for name in listed if name in real}


RAW = {
    "an error that is a list": b'{"id":1,"error":[1]}',
    "an error that is a text": b'{"id":1,"error":"x"}',
    "an error without a type": b'{"id":1,"error":{"message":"x","line":null}}',
    "a line that is a text": b'{"id":1,"error":{"type":"x","message":"x","line":"1"}}',
    "too deep": b'{"id":1,"value":{"score":1,"a":' + b"[" * 900 + b"]" * 900 + b"}}",
    "much too deep": b"[" * 100_000,
    "printed that is no text": b'{"id":1,"value":1,"printed":{"a":[1,2]}}',
    "an id that is true": b'{"id":true,"value":0.5}',
    "no object": b"[1]",
    "no JSON": b"\xff\xfe",
    "a huge integer": b'{"id":1,"value":' + b"9" * 100_000 + b"}",
    "an endless line": b"x" * 1_000_000,
}


@pytest.mark.parametrize("name", RAW)
def test_an_odd_reply_line_is_the_rows_error(tmp_path, name):
    body = (
        f"if ground_truth: return 1.0\nline = {RAW[name][:100]!r} if {len(RAW[name])} < 100 else open({str(tmp_path)!r}"
        " + '/raw', 'rb').read()\nfor fd in range(3, 4096):\n    try: os.write(fd, line + b'\\n')\n"
        "    except OSError: pass\nreturn 1.0"
    )
    (tmp_path / "raw").write_bytes(RAW[name])
    with EvaluatorProcess(evaluator(tmp_path, body)) as process:
        scored = process.score(MESSAGES)
        assert (scored.score, scored.error) == (None, "the evaluator wrote to its reply channel")
        assert process.score(MESSAGES, "good").score == 1.0


def test_what_a_reply_holds_can_be_stored():
    line = b'{"id": 1, "value": {"score": NaN, "a": [Infinity, "\\ud800", 1e999, 123456789012345678901234567890]}}'
    assert parse_reply(line)["id"] == 1
    with pytest.raises(ForeignReply):
        parse_reply(b'{"error": {"type": 1, "message": "", "line": 1}}')


@pytest.mark.parametrize(
    "trick", ["os.mkfifo(p)", "os.symlink('/dev/zero', p)", "os.symlink(os.environ.get('T', p), p)"]
)
def test_nothing_that_it_puts_in_its_folders_is_opened(tmp_path, monkeypatch, trick):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    top = f"for p in ('../stderr', 'stderr'):\n    try: {trick}\n    except OSError: pass\nos._exit(1)"
    with pytest.raises(FwError) as caught:
        score(tmp_path, "return 1", top)
    assert caught.value.code == "evaluator_invalid" and "ended its process with status 1" in caught.value.message
    assert len(caught.value.message) < 300 and not list(tmp_path.glob("fw-evaluator-*"))


def test_a_flood_on_standard_error_costs_the_row_and_only_the_end_is_kept(tmp_path):
    body = "if ground_truth: return 1.0\nwhile True: os.write(2, b'x' * 65536)"
    with EvaluatorProcess(evaluator(tmp_path, body), row_timeout_s=1.0) as process:
        assert process.score(MESSAGES).error == "the evaluator took longer than 1 s"
        assert process.score(MESSAGES, "good").score == 1.0
    with pytest.raises(FwError) as caught:
        score(tmp_path, "return 1", "os.write(2, b'y' * 30_000 + b'the end')\nos._exit(2)")
    assert caught.value.message.endswith("the end") and len(caught.value.message) < 3_000


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("for i in range(1000): open(f'f{i}', 'wb').write(bytes(1 << 20))", "wrote more than 8388608 bytes"),
        (
            "import tempfile\nkept = [tempfile.TemporaryFile(dir='.') for _ in range(40)]\n"
            "for file in kept: file.write(bytes(1 << 20)); file.flush()\ntime.sleep(60)",
            "wrote more than 8388608 bytes",
        ),
        ("for i in range(20_000): open(f'f{i}', 'wb').close()\ntime.sleep(60)", "made more than 10000 files"),
        ("for i in range(3_000): os.mkdir('d'); os.chdir('d')\ntime.sleep(60)", "made folders that cannot be read"),
    ],
)
def test_it_cannot_fill_the_disk(tmp_path, monkeypatch, body, reason):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    scored = score(tmp_path, body, row_timeout_s=30.0, limits=Limits(scratch_bytes=8 << 20))
    assert scored.score is None and reason in scored.error
    assert not list(tmp_path.glob("fw-evaluator-*"))


def test_the_folder_of_a_killed_evaluation_is_removed_by_the_next(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    code = (
        "import os, sys, tempfile, time\ntempfile.tempdir = sys.argv[1]\nfrom engine.evals.scratch import Scratch\n"
        "print(Scratch.create().path, flush=True)\ntime.sleep(600)"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as killed:
        left = Path(killed.stdout.readline().strip())
        sweep()
        assert left.exists()
        killed.kill()
        killed.wait()
        mine = Scratch.create()
        sweep()
        assert not left.exists() and mine.path.exists()
        mine.remove()
    assert not list(tmp_path.glob(f"{scratch_module.PREFIX}*"))


def test_a_process_that_cannot_be_started_is_a_typed_error(tmp_path, monkeypatch):
    descriptors = psutil.Process().num_fds()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    with pytest.raises(FwError) as caught:
        score(tmp_path, "return 1")
    assert caught.value.code == "resource_exhausted" and "could not be started" in caught.value.message
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("sys.executable", str(tmp_path / "no python"))
    with pytest.raises(FwError, match="could not be started: No such file"):
        score(tmp_path, "return 1")
    assert not list(tmp_path.glob("fw-evaluator-*"))
    assert psutil.Process().num_fds() == descriptors


@linux
def test_it_runs_where_the_account_has_stricter_limits_already(tmp_path):
    code = (
        "import resource, sys, pathlib\nfrom engine.evals.evaluators import EvaluatorProcess\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (60, 60))\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "with EvaluatorProcess(pathlib.Path(sys.argv[1])) as process: print(process.score([]).score)"
    )
    command = [sys.executable, "-c", code, str(evaluator(tmp_path, "return 1.0"))]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "1.0\n"


def kill_each(process, times):
    """Kill the first ``times`` processes that load the evaluator."""
    seen = set()
    deadline = time.monotonic() + 60
    while len(seen) < times and time.monotonic() < deadline:
        pid = process.pid
        if pid is not None and pid not in seen:
            seen.add(pid)
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.001)


@pytest.mark.parametrize("times", [LOAD_CHANCES - 1, LOAD_CHANCES])
def test_a_process_killed_while_loading_gets_other_chances(tmp_path, times):
    path = evaluator(tmp_path, "return 1.0", "time.sleep(0.3)")
    with EvaluatorProcess(path) as process:
        killer = threading.Thread(target=kill_each, args=(process, times))
        killer.start()
        try:
            if times < LOAD_CHANCES:
                assert process.score(MESSAGES).score == 1.0
            else:
                with pytest.raises(FwError) as caught:
                    process.score(MESSAGES)
                assert caught.value.code == "worker_lost" and "killed by SIGKILL" in caught.value.message
        finally:
            killer.join()
