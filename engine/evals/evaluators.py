"""Evaluators: checking one before it is stored, and running one in its confined process, a row at a time."""

from __future__ import annotations

import ast
import json
import math
import os
import select
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.evals.sandbox import Launcher, Limits, SandboxedProcess, launch_limited
from fw_sdk.types import FwError, nearest

LOAD_TIMEOUT_S = 60.0
MAX_SOURCE_BYTES = 1 << 20
MAX_REPLY_BYTES = 1 << 20
RANGE = "SCORE_RANGE"
CONTRACT = "evaluate(messages, ground_truth=None, **row) -> float | {'score': float, …}"


ScoreRange = tuple[float, float]


@dataclass(frozen=True)
class Scored:
    """What came of one row: a finite score, or the reason why there is none; ``details`` is what else was returned."""

    score: float | None
    error: str | None = None
    details: dict[str, Any] = field(default_factory=dict)


class ProcessEnded(Exception):
    """The evaluator's process is gone, or silent for too long."""

    def __init__(self, reason: str, *, timed_out: bool = False) -> None:
        super().__init__(reason)
        self.timed_out = timed_out


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


def read_value(value: Any, score_range: ScoreRange | None = None) -> Scored:
    """The score in what an evaluator returned: a finite number or bool, alone or under ``score`` in a dict.

    A number outside the range that the evaluator declares is none.
    """
    details = {key: item for key, item in value.items() if key != "score"} if isinstance(value, dict) else {}
    if isinstance(value, dict) and "score" not in value:
        what = "is unusable: " + str(value["unusable"]) if set(value) == {"unusable"} else "has no 'score'"
        return Scored(None, f"the returned value {what}; return a number or a dict with 'score'", details)
    score = value["score"] if isinstance(value, dict) else value
    if not isinstance(score, bool | int | float):
        kind = "None" if score is None else f"{type(score).__name__} {score!r:.80}"
        return Scored(None, f"the score is {kind}, not a number", details)
    try:
        number = float(score)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        return Scored(None, f"the score is {number}, not a finite number", details)
    if score_range is not None and not score_range[0] <= number <= score_range[1]:
        low, high = score_range
        return Scored(None, f"the score is {number:g}, outside the {RANGE} ({low:g}, {high:g}) it declares", details)
    return Scored(number, None, details)


def _storable(value: Any) -> Any:
    """The same value with what JSON in UTF-8 has no word for, infinite numbers and lone surrogates, as plain text."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {_storable(key): _storable(item) for key, item in value.items()}
    return [_storable(item) for item in value] if isinstance(value, list) else value


class EvaluatorProcess:
    """One evaluator, loaded in a confined process, that scores rows one after the other.

    A process that dies or exceeds ``row_timeout_s`` costs its row and is replaced; a row whose process died (it may
    have been killed from outside) gets a second chance in a new one. Safe to use from several threads.

    Raises ``evaluator_invalid`` from the first use if the file cannot be loaded.

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
    ) -> None:
        self._source = read_source(path)
        self.score_range = check_source(self._source, entry)
        self._entry = entry
        self._row_timeout_s = row_timeout_s
        self._limits = limits or Limits(cpu_row_s=2 * math.ceil(row_timeout_s))
        self._launch = launch
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
        if reply.get("id") != self._next_id:
            raise ProcessEnded("the evaluator wrote to its reply channel")
        printed = {"printed": reply["printed"]} if reply.get("printed") else {}
        if "error" in reply:
            return Scored(None, _storable(error_text(reply["error"])), _storable(printed))
        scored = read_value(reply.get("value"), self.score_range)
        return Scored(scored.score, _storable(scored.error), _storable({**scored.details, **printed}))

    def _start(self) -> None:
        """Launch and load, unless a process is ready."""
        if self._process is not None:
            return
        self._process, self._buffer = self._launch(self._limits), b""
        try:
            reply = self._exchange({"source": self._source, "entry": self._entry}, LOAD_TIMEOUT_S)
        except ProcessEnded as ended:
            words = self._process.last_words()
            self._end()
            raise _invalid(f"Loading the evaluator: {ended}." + (f" It said: {words}" if words else "")) from None
        if not reply.get("ready"):
            self._end()
            error = reply.get("error") or {}
            raise _invalid(f"Loading the evaluator: it {error_text(error)}.", line=error.get("line"))

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.end()

    def _exchange(self, message: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        """Write one line and read one, within ``timeout_s`` together."""
        assert self._process is not None
        deadline = time.monotonic() + timeout_s
        self._write(json.dumps(message).encode() + b"\n", deadline, timeout_s)
        line = self._read_line(deadline, timeout_s)
        try:
            reply = json.loads(line)
        except (ValueError, RecursionError):
            reply = None
        if not isinstance(reply, dict):
            raise ProcessEnded("the evaluator wrote to its reply channel")
        return reply

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
            if not part or len(self._buffer) > MAX_REPLY_BYTES:
                raise self._ended()
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    @staticmethod
    def _wait(descriptor: int, event: int, deadline: float, timeout_s: float) -> None:
        poll = select.poll()
        poll.register(descriptor, event)
        if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
            raise ProcessEnded(f"the evaluator took longer than {timeout_s:g} s", timed_out=True)

    def _ended(self) -> ProcessEnded:
        """The process closed its pipe: find out how it died."""
        assert self._process is not None
        process = self._process.process
        for _ in range(100):
            if process.poll() is not None:
                break
            time.sleep(0.01)
        status = process.poll()
        if status is None:
            return ProcessEnded("the evaluator closed its reply channel")
        if status < 0:
            return ProcessEnded(f"the evaluator's process was killed by {signal.Signals(-status).name}")
        return ProcessEnded(f"the evaluator ended its process with status {status}")


def read_source(path: Path) -> str:
    """The text of an evaluator's file; ``evaluator_invalid`` if there is none."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise _invalid(f"The evaluator {path} cannot be read: {error}.") from None


def error_text(error: Mapping[str, Any]) -> str:
    """``raised ValueError at line 3: message``."""
    where = f" at line {error['line']}" if error.get("line") else ""
    what = f": {error['message']}" if error.get("message") else ""
    return f"raised {error.get('type', 'an error')}{where}{what}"
