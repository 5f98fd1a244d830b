"""Evaluators: checking one before it is stored, and running one in its confined process, a row at a time."""

from __future__ import annotations

import ast
import json
import math
import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from engine.evals.replies import (
    FOREIGN,
    MAX_REPLY_BYTES,
    RANGE,
    ForeignReply,
    Scored,
    ScoreRange,
    error_text,
    parse_reply,
    read_value,
)
from engine.evals.sandbox import Launcher, Limits, SandboxedProcess, launch_limited
from fw_sdk.types import FwError, nearest

LOAD_TIMEOUT_S = 60.0
STOP_POLL_S = 0.25
MAX_SOURCE_BYTES = 1 << 20
LOAD_CHANCES = 3
EXIT_TIMEOUT_S = 1.0
OUTER_SIGNALS = frozenset({signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
CONTRACT = "evaluate(messages, ground_truth=None, **row) -> float | {'score': float, …}"


class ProcessEnded(Exception):
    """The evaluator's process is gone, silent for too long, or says what it should not.

    ``killed``: by a signal that nothing it did itself is likely to have sent.
    """

    def __init__(self, reason: str, *, timed_out: bool = False, killed: bool = False) -> None:
        super().__init__(reason)
        self.timed_out, self.killed = timed_out, killed


def check_source(source: str, entry: str = "evaluate") -> ScoreRange | None:
    """Check an evaluator without running it; returns the range of scores that it declares, if it does.

    Raises ``evaluator_invalid`` unless ``source`` is Python, defines ``entry`` at its top level, and ``SCORE_RANGE``
    there, if it is assigned, is a pair of numbers, the lower one first.
    """
    if len(source.encode()) > MAX_SOURCE_BYTES:
        raise _invalid(f"The evaluator is longer than {MAX_SOURCE_BYTES} bytes.")
    try:
        tree = ast.parse(source)
    except SyntaxError as error:
        raise _invalid(f"The evaluator is not Python: line {error.lineno}: {error.msg}.", line=error.lineno) from None
    except (ValueError, RecursionError, MemoryError) as error:
        raise _invalid(f"The evaluator is not Python: {error}.") from None
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    function = functions.get(entry)
    if function is None:
        near = nearest(entry, functions)
        found = f"; did you mean '{near}'?" if near else f"; it defines {', '.join(functions) or 'no function'}."
        raise _invalid(f"The evaluator has no top-level function '{entry}'{found}")
    if isinstance(function, ast.AsyncFunctionDef):
        raise _invalid(f"'{entry}' is async; an evaluator is a plain function.", line=function.lineno)
    if not (function.args.posonlyargs or function.args.args or function.args.vararg):
        raise _invalid(f"'{entry}' takes no argument; the first one is the messages.", line=function.lineno)
    return _declared_range(tree)


def _declared_range(tree: ast.Module) -> ScoreRange | None:
    """The pair that the module's last assignment to ``SCORE_RANGE`` names; None if there is none."""
    found = None
    for node in tree.body:
        match node:
            case (
                ast.Assign(targets=[ast.Name(id=name)], value=ast.expr() as value)
                | ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value)
            ) if name == RANGE:
                found = _range_of(value)
    return found


def _range_of(value: ast.expr) -> ScoreRange:
    try:
        match ast.literal_eval(value):
            case [int() | float() as low, int() | float() as high] if -math.inf < float(low) < float(high) < math.inf:
                return float(low), float(high)
    except (ValueError, TypeError, OverflowError, RecursionError):
        pass  # not a constant, or too large a number: said below with the line
    raise _invalid(
        f"{RANGE} is {ast.unparse(value):.80}, not the lowest and the highest score as two numbers, like (-1.0, 1.0).",
        line=value.lineno,
    )


def _invalid(message: str, *, line: int | None = None) -> FwError:
    return FwError(
        "evaluator_invalid",
        message,
        not_done="The evaluator was not run.",
        hint=f"a Python file with {CONTRACT}",
        details={} if line is None else {"line": line},
    )


class EvaluatorProcess:
    """One evaluator, loaded in a confined process, that scores rows one after the other.

    A process that dies or exceeds ``row_timeout_s`` costs its row and is replaced; a row whose process died (it may
    have been killed from outside) gets a second chance in a new one. Safe to use from several threads.

    Raises ``evaluator_invalid`` from the first use if the file cannot be loaded, and ``cancelled`` soon after ``stop``
    was set.

    Attributes:
        score_range: the lowest and the highest score that its source declares; None if it declares none.
    """

    def __init__(
        self,
        path: Path,
        entry: str = "evaluate",
        row_timeout_s: float = 10.0,
        *,
        limits: Limits | None = None,
        launch: Launcher = launch_limited,
        stop: threading.Event | None = None,
    ) -> None:
        self._source = read_source(path)
        self.score_range = check_source(self._source, entry)
        self._entry = entry
        self._row_timeout_s = row_timeout_s
        self._limits = limits or Limits(cpu_row_s=2 * math.ceil(row_timeout_s))
        self._launch = launch
        self._stop = stop or threading.Event()
        self._process: SandboxedProcess | None = None
        self._buffer = b""
        self._next_id = 0
        self._lock = threading.Lock()

    def __enter__(self) -> EvaluatorProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pid(self) -> int | None:
        """The process that runs now, if one does."""
        return self._process.process.pid if self._process else None

    def close(self) -> None:
        """End the process; a later row starts a new one."""
        with self._lock:
            self._end()

    def score(
        self, messages: Sequence[Mapping[str, Any]], ground_truth: Any = None, row: Mapping[str, Any] | None = None
    ) -> Scored:
        """Score one row. ``messages`` ends with the answer; ``row`` has the row's other fields."""
        request = {"messages": list(messages), "ground_truth": ground_truth, "row": dict(row or {})}
        with self._lock:
            for chance in (1, 2):
                self._check_stopped()
                try:
                    self._start()
                    return self._score(request)
                except ProcessEnded as ended:
                    self._end()
                    if ended.timed_out or chance == 2:
                        return Scored(None, str(ended))
        raise AssertionError("unreachable")

    def _score(self, request: dict[str, Any]) -> Scored:
        self._next_id += 1
        reply = self._exchange({"id": self._next_id, **request}, self._row_timeout_s)
        if type(reply.get("id")) is not int or reply["id"] != self._next_id:
            raise ProcessEnded(FOREIGN)
        printed = {"printed": reply["printed"]} if reply.get("printed") else {}
        if reply.get("error"):
            return Scored(None, error_text(reply["error"]), printed)
        scored = read_value(reply.get("value"), self.score_range)
        return Scored(scored.score, scored.error, {**scored.details, **printed})

    def _start(self) -> None:
        """Launch and load, unless a process is ready. One that was killed meanwhile gets other chances."""
        for chance in range(1, LOAD_CHANCES + 1):
            if self._process is not None:
                return
            try:
                self._process, self._buffer = self._launch(self._limits), b""
            except OSError as no_process:
                raise _not_started(no_process) from None
            try:
                reply = self._exchange({"source": self._source, "entry": self._entry}, LOAD_TIMEOUT_S)
            except ProcessEnded as ended:
                words = self._end()
                if not ended.killed:
                    raise _not_loaded(f"{ended}." + (f" It said: {words}" if words else "")) from None
                if chance == LOAD_CHANCES:
                    raise _killed(ended) from None
                continue
            if reply.get("ready") is not True:
                self._end()
                error = reply.get("error") or {}
                raise _not_loaded(f"it {error_text(error)}.", line=error.get("line"))

    def _end(self) -> str:
        process, self._process = self._process, None
        return process.end() if process is not None else ""

    def _exchange(self, message: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        """Write one line and read one, within ``timeout_s`` together."""
        deadline = time.monotonic() + timeout_s
        self._write(json.dumps(message).encode() + b"\n", deadline, timeout_s)
        try:
            return parse_reply(self._read_line(deadline, timeout_s))
        except ForeignReply as foreign:
            raise ProcessEnded(str(foreign)) from None

    def _write(self, data: bytes, deadline: float, timeout_s: float) -> None:
        assert self._process is not None
        while data:
            self._wait(self._process.requests, select.POLLOUT, deadline, timeout_s)
            try:
                data = data[os.write(self._process.requests, data[:65536]) :]
            except BlockingIOError:
                continue
            except BrokenPipeError:
                raise self._ended() from None

    def _read_line(self, deadline: float, timeout_s: float) -> bytes:
        assert self._process is not None
        while b"\n" not in self._buffer:
            self._wait(self._process.replies, select.POLLIN, deadline, timeout_s)
            part = os.read(self._process.replies, 65536)
            self._buffer += part
            if not part:
                raise self._ended()
            if len(self._buffer) > MAX_REPLY_BYTES:
                raise ForeignReply
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def _check_stopped(self) -> None:
        if self._stop.is_set():
            raise FwError("cancelled", "The scoring was cancelled.", not_done="The rest was not scored.")

    def _wait(self, descriptor: int, event: int, deadline: float, timeout_s: float) -> None:
        poll = select.poll()
        poll.register(descriptor, event)
        while not poll.poll(min(STOP_POLL_S, max(0.0, deadline - time.monotonic())) * 1000):
            self._check_stopped()
            if time.monotonic() >= deadline:
                raise ProcessEnded(f"the evaluator took longer than {timeout_s:g} s", timed_out=True)

    def _ended(self) -> ProcessEnded:
        """The process closed its pipe: find out how it died."""
        assert self._process is not None
        try:
            status = self._process.process.wait(EXIT_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            return ProcessEnded("the evaluator closed its reply channel")
        if self._process.watch.excess:
            return ProcessEnded(f"the evaluator {self._process.watch.excess}")
        if status < 0:
            killed = -status in OUTER_SIGNALS
            return ProcessEnded(f"the evaluator's process was killed by {_signal_name(-status)}", killed=killed)
        return ProcessEnded(f"the evaluator ended its process with status {status}")


def _signal_name(number: int) -> str:
    return signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"


def _not_loaded(reason: str, *, line: int | None = None) -> FwError:
    return _invalid(f"Loading the evaluator: {reason}", line=line)


def _not_started(error: OSError) -> FwError:
    return FwError(
        "resource_exhausted",
        f"The evaluator's process could not be started: {error.strerror or error}.",
        not_done="No row was scored.",
        hint="free disk space or memory, then try again",
    )


def _killed(ended: ProcessEnded) -> FwError:
    return FwError(
        "worker_lost",
        f"Loading the evaluator failed {LOAD_CHANCES} times: {ended}.",
        not_done="No row was scored.",
        hint="try again; if nobody killed it, the machine is short of memory or loading takes too much processor time",
    )


def read_source(path: Path) -> str:
    """The text of an evaluator's file; ``evaluator_invalid`` if there is none."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise _invalid(f"The evaluator {path} cannot be read: {error}.") from None
