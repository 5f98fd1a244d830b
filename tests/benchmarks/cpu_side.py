"""The driver's end of a side of the CPU benchmark: a process that lives across rounds and computes only when asked."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

PROGRAM = Path(__file__).with_name("cpu_commands.py")
SAMPLE_S = 0.02
CLOSE_TIMEOUT_S = 30


def rss_bytes(pid: int) -> int:
    """Memory of a process that is resident now."""
    found = re.search(r"^VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


class Side:
    """A running side; a context manager that ends its process.

    Args:
        module: the file beside this one that it runs, without its ending.
        python: of the environment it runs in.
        options: what its ``commands`` gets.
        environment: variables beside ours.
    """

    def __init__(
        self, module: str, python: str, options: Mapping[str, Any], environment: Mapping[str, str] | None = None
    ) -> None:
        self._module = module
        self._started = time.perf_counter()
        self._process = subprocess.Popen(
            [python, str(PROGRAM), module, json.dumps(options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **(environment or {})},
        )

    def __enter__(self) -> Side:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(CLOSE_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()

    def ask(self, do: str, **arguments: Any) -> Any:
        """Send a command and wait for its result."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"{self._module} ended with status {self._process.wait()} when asked to {do}")
        return json.loads(answer)

    def first_answer_s(self, prompt: list[int]) -> float:
        """Seconds from the start of the process to the first token after ``prompt``; only the first call means it."""
        self.ask("generate", prompts=[prompt], tokens=1)
        return time.perf_counter() - self._started

    def peak_rss_bytes(self, do: str, **arguments: Any) -> int:
        """The most resident memory that the side's process has while it answers a command."""
        pid = self.ask("facts")["pid"]
        peak = 0
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(self.ask, do, **arguments)
            while not answer.done():
                peak = max(peak, rss_bytes(pid))
                time.sleep(SAMPLE_S)
            answer.result()
        return peak
