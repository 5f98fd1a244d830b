"""The inside of an evaluator's process: ``python -I evaluator_child.py READ_FD WRITE_FD LIMITS``.

Standard library only, and run by its path: the evaluator must not depend on what fw has installed. JSON lines come in
and go out over two pipes of their own, so that nothing the evaluator prints can be taken for a reply::

    in   {"source": …, "entry": "evaluate"}                        out  {"ready": true} | {"error": …}
    in   {"id": 1, "messages": […], "ground_truth": …, "row": {}}  out  {"id": 1, "value": …} | {"id": 1, "error": …}
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import inspect
import io
import json
import numbers
import os
import resource
import select
import signal
import struct
import sys
import threading
import traceback
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

FILE = "evaluator.py"
CAPABILITIES_VERSION = 0x20080522
PR_SET_PDEATHSIG = 1
MAX_PRINTED = 2_000
MAX_MESSAGE = 2_000
MAX_REPLY = 64_000


class Printed(io.TextIOBase):
    """Keeps the first ``MAX_PRINTED`` characters that are written to it."""

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> int:
        """Keep what fits; say that all was written."""
        self.text += text[: MAX_PRINTED - len(self.text)]
        return len(text)

    def writable(self) -> bool:
        """Always."""
        return True


def confine(limits: dict[str, Any]) -> None:
    """Take rights away, for good: this thread and those it starts will not get them back. No other may run yet."""
    hard = {
        resource.RLIMIT_AS: limits["memory_bytes"],
        resource.RLIMIT_FSIZE: limits["file_bytes"],
        resource.RLIMIT_NOFILE: limits["open_files"],
        resource.RLIMIT_CORE: 0,
    }
    for kind, most in hard.items():
        limit(kind, most)
    load_sibling("lone_process").install()
    drop_capabilities()
    load_sibling("landlock").restrict(limits["hidden"], str(Path.cwd()))
    if not load_sibling("syscall_filter").install():
        resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))


def limit(kind: int, most: int) -> None:
    """Lower a limit for good, unless it is lower already; systems other than Linux refuse some."""
    before = resource.getrlimit(kind)[1]
    least = most if before == resource.RLIM_INFINITY else min(most, before)
    with contextlib.suppress(*((ValueError, OSError) if sys.platform != "linux" else ())):
        resource.setrlimit(kind, (least, least))


def drop_capabilities() -> None:
    """Give up what root may do beyond its own files, raising limits among it; nothing where there is no such call."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "capset"):
        libc.capset(struct.pack("=Ii", CAPABILITIES_VERSION, 0), bytes(24))


def die_with_parent(parent: int) -> bool:
    """Let the kernel kill this process when the one that started it dies; false where it does not do that."""
    if sys.platform != "linux" or ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL)) != 0:
        return False
    if os.getppid() != parent:
        os._exit(1)
    return True


def end_with_parent(requests: int) -> None:
    """End this process, even in the middle of a row, once nobody holds the other end of its request pipe."""
    poll = select.poll()
    poll.register(requests, 0)
    poll.poll()
    os._exit(1)


def load_sibling(name: str) -> Any:
    """A module from this file's folder, which is not on the path."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    del sys.modules[name]
    return module


def allow_cpu(seconds: int) -> None:
    """Let the process use ``seconds`` more of processor time before the kernel ends it."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    used = int(usage.ru_utime + usage.ru_stime)
    resource.setrlimit(resource.RLIMIT_CPU, (used + 1 + seconds, resource.RLIM_INFINITY))


def load(source: str, entry: str) -> Callable[..., Any]:
    """Run the evaluator's file as a module and return its entry function."""
    module = types.ModuleType("evaluator")
    module.__file__ = FILE
    sys.modules["evaluator"] = module
    exec(compile(source, FILE, "exec"), module.__dict__)
    function = getattr(module, entry, None)
    if not callable(function):
        raise TypeError(f"there is no function '{entry}'")
    return function  # type: ignore[no-any-return]


def accepted(function: Callable[..., Any], row: dict[str, Any]) -> dict[str, Any]:
    """The fields of the row that the function takes: all of them if it has ``**row``."""
    parameters = inspect.signature(function).parameters
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
        return row
    return {key: value for key, value in row.items() if key in parameters}


def plain(value: Any, depth: int = 0) -> Any:
    """A value as JSON can carry it; numbers of any library become int or float, the unknown becomes its repr."""
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real) or type(value).__name__ == "Decimal":
        return float(value)
    if type(value).__name__ in ("bool_", "bool"):
        return bool(value)
    if isinstance(value, dict) and depth < 20:
        return {str(key): plain(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple) and depth < 20:
        return [plain(item, depth + 1) for item in value]
    return {"unusable": f"{type(value).__name__} {value!r:.100}"}


def describe(error: BaseException) -> dict[str, Any]:
    """Type, message and the last line of the evaluator's own file that the error came through."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == FILE]
    line = error.lineno if isinstance(error, SyntaxError) else (lines[-1] if lines else None)
    try:
        message = str(error)[:MAX_MESSAGE]
    except BaseException:  # noqa: BLE001  an exception of the evaluator's own may raise here again
        message = ""
    return {"type": type(error).__name__, "message": message, "line": line}


def answer(function: Callable[..., Any], request: dict[str, Any]) -> dict[str, Any]:
    """Score one row; whatever the evaluator raises, exits and interrupts included, becomes an error."""
    ground_truth = accepted(function, {"ground_truth": request["ground_truth"]})
    row = {key: value for key, value in request["row"].items() if key not in ("messages", "ground_truth")}
    printed = Printed()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        try:
            value = function(request["messages"], **ground_truth, **accepted(function, row))
            reply = {"id": request["id"], "value": plain(value), "printed": printed.text}
            if len(json.dumps(reply)) > MAX_REPLY:
                raise ValueError(f"the returned value is longer than {MAX_REPLY} bytes as JSON")
        except BaseException as error:  # noqa: BLE001  the evaluator may raise anything at all
            reply = {"id": request["id"], "error": describe(error), "printed": printed.text}
    return reply


def serve(requests: Iterator[str], replies: Any, limits: dict[str, Any]) -> None:
    """Load the evaluator, then answer requests until there are no more."""
    first = json.loads(next(requests))
    function, failure = None, None
    with contextlib.redirect_stdout(Printed()), contextlib.redirect_stderr(Printed()):
        try:
            function = load(first["source"], first["entry"])
        except BaseException as error:  # noqa: BLE001  the evaluator's file may raise anything at all
            failure = describe(error)
    send(replies, {"error": failure} if function is None else {"ready": True})
    if function is None:
        return
    for line in requests:
        allow_cpu(limits["cpu_row_s"])
        send(replies, answer(function, json.loads(line)))


def send(replies: Any, value: dict[str, Any]) -> None:
    """Write one line."""
    replies.write(json.dumps(value) + "\n")
    replies.flush()


def main() -> None:
    """Confine this process, then serve. It ends without running the evaluator's exit handlers."""
    limits = json.loads(sys.argv[3])
    requests = os.fdopen(int(sys.argv[1]), encoding="utf-8")
    replies = os.fdopen(int(sys.argv[2]), "w", encoding="utf-8")
    sys.argv[1:] = []
    allow_cpu(limits["cpu_row_s"])
    mortal = die_with_parent(limits["parent"])
    confine(limits)
    if not mortal:
        threading.Thread(target=end_with_parent, args=(requests.fileno(),), daemon=True).start()
    serve(iter(requests), replies, limits)
    os._exit(0)


if __name__ == "__main__":
    main()
