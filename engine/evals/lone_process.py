"""``multiprocessing``'s semaphores for a process that can have no others: they live in the process itself.

The real ones are files in ``/dev/shm``, where an evaluator may not write. ``ThreadPool`` and many libraries make one
though they only use threads.

Standard library only: it is read by ``evaluator_child.py``, which cannot import this package.
"""

from __future__ import annotations

import importlib
import threading
from contextlib import suppress
from typing import Any

RECURSIVE_MUTEX = 0


class SemLock:
    """``_multiprocessing.SemLock``, with the same methods, between threads."""

    SEM_VALUE_MAX = 2**31 - 1

    def __init__(self, kind: int, value: int, maxvalue: int, name: str, unlink: bool) -> None:
        self.kind, self.maxvalue, self.handle, self.name = kind, maxvalue, 0, None
        self._value = value
        self._changed = threading.Condition()
        self._owner, self._held = 0, 0

    def acquire(self, block: bool = True, timeout: float | None = None) -> bool:
        """Take one; false if there is none within ``timeout`` seconds (None: for ever)."""
        with self._changed:
            if self.kind == RECURSIVE_MUTEX and self._is_mine():
                self._held += 1
                return True
            limit_s = 0.0 if not block else None if timeout is None else max(0.0, timeout)
            if not self._changed.wait_for(lambda: self._value > 0, limit_s):
                return False
            self._value -= 1
            self._owner, self._held = threading.get_ident(), self._held + 1
            return True

    def release(self) -> None:
        """Give one back."""
        with self._changed:
            if self.kind == RECURSIVE_MUTEX and not self._is_mine():
                raise AssertionError("attempt to release recursive lock not owned by thread")
            if self.kind == RECURSIVE_MUTEX and self._held > 1:
                self._held -= 1
                return
            if self._value >= self.maxvalue:
                raise ValueError("semaphore or lock released too many times")
            self._value += 1
            self._held -= 1
            self._changed.notify()

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()

    def _count(self) -> int:
        return self._held

    def _is_mine(self) -> bool:
        return self._held > 0 and self._owner == threading.get_ident()

    def _get_value(self) -> int:
        return self._value

    def _is_zero(self) -> bool:
        return self._value == 0

    def _after_fork(self) -> None:
        """No process is ever forked."""


def install() -> None:
    """Let ``multiprocessing`` use these semaphores, in a process that has not imported it yet."""
    with suppress(ImportError):  # a Python that was built without them
        native: Any = importlib.import_module("_multiprocessing")
        native.SemLock = SemLock
