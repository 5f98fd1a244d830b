"""The official suites against our server: all of it with fixtures, and the plain one with what it cannot have."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance import node

ROOT = Path(__file__).parents[2]
EXTENSIONS = (
    "tasks-lifecycle",
    "tasks-capability-negotiation",
    "tasks-wire-fields",
    "tasks-request-state-removal",
    "tasks-mrtr-input",
    "tasks-request-headers",
    "tasks-dispatch-and-envelope",
    "tasks-required-task-error",
    "tasks-mrtr-composition",
    "sep-2640-skills-enumeration",
    "sep-2640-skills-manifest",
)
UNSCORED = {"json-schema-2020-12", "http-header-validation", "http-custom-header-server-validation"}
"""Pending in the suite itself; docs/compatibility-mcp.md says why each fails."""


def serve(*flags: str) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "tests.conformance.server", str(port), *flags]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
    try:
        _wait_for(port, process)
        yield f"http://127.0.0.1:{port}/mcp"
    finally:
        process.terminate()
        process.wait(10)


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    for _ in range(600):
        assert process.poll() is None, "the server ended"
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise AssertionError("the server did not listen within a minute")


@pytest.fixture(scope="module")
def full() -> Iterator[str]:
    yield from serve("--fixtures")


@pytest.fixture(scope="module")
def plain() -> Iterator[str]:
    yield from serve()


def outcomes(output: str) -> dict[str, tuple[int, int]]:
    """Passed and failed checks by scenario, from the suite's summary."""
    lines = re.findall(r"^[✓✗] (\S+): (\d+) passed, (\d+) failed", output, re.MULTILINE)
    return {name: (int(passed), int(failed)) for name, passed, failed in lines}


def test_the_active_suite_passes_whole(full: str, tmp_path: Path) -> None:
    done = node.run("stable", "server", "--url", full, "-o", str(tmp_path))
    found = outcomes(done.stdout)
    assert done.returncode == 0 and len(found) == 30, done.stdout[-3000:]
    assert sum(passed for passed, _ in found.values()) == 40 and not any(failed for _, failed in found.values())


def test_the_plain_server_fails_nothing_but_fixtures(plain: str, tmp_path: Path) -> None:
    baseline = Path(__file__).with_name("expected_failures.yml")
    done = node.run("stable", "server", "--url", plain, "--expected-failures", str(baseline), "-o", str(tmp_path))
    assert done.returncode == 0, done.stdout[-3000:]


def test_everything_that_the_newest_revision_requires(full: str, tmp_path: Path) -> None:
    done = node.run("next", "server", "--url", full, "--requirements", "2026-07-28", "-o", str(tmp_path))
    failed = {name for name, (_, count) in outcomes(done.stdout).items() if count}
    assert done.returncode == 0 and failed <= UNSCORED, done.stdout[-3000:]
    assert len(outcomes(done.stdout)) >= 45


@pytest.mark.parametrize("scenario", EXTENSIONS)
def test_the_extensions(scenario: str, full: str, tmp_path: Path) -> None:
    done = node.run("next", "server", "--url", full, "--scenario", scenario, "-o", str(tmp_path))
    counts = re.search(r"Passed: (\d+)/(\d+), 0 failed", done.stdout)
    assert done.returncode == 0 and counts is not None, done.stdout[-3000:]
    assert counts[1] == counts[2] != "0"


def test_the_inspector_finds_no_schema_that_a_client_would_refuse(plain: str) -> None:
    over_http = node.run("inspector", "--cli", plain, "--method", "tools/list", "--strict", "--format", "json", "-q")
    assert over_http.returncode == 0, over_http.stderr
    assert len(json.loads(over_http.stdout)["result"]["tools"]) == 14
    command = [sys.executable, "-m", "fw_mcp.stdio", "--method", "tools/list", "--strict", "--format", "json", "-q"]
    over_stdio = node.run("inspector", "--cli", *command)
    assert over_stdio.returncode == 0, over_stdio.stderr
    assert len(json.loads(over_stdio.stdout)["result"]["tools"]) == 14


def test_the_inspector_verifies_the_skill(plain: str) -> None:
    done = node.run("inspector", "--cli", plain, "--protocol-era", "modern", "--method", "skills/list", "--verify")
    assert done.returncode == 0, done.stderr + done.stdout
