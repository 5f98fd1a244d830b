"""Every code block of the pages runs, page by page, against one real daemon with the real small model and few rows."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path

import pytest

from tests.e2e.place import BASE, Place

pytestmark = [pytest.mark.model, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```(bash|python)\n(.*?)^```", re.MULTILINE | re.DOTALL)
PAGES = (
    "quickstart",
    "concepts",
    "glossary",
    "datasets",
    "evaluators",
    "evaluation",
    "fine-tuning",
    "deployments",
    "inference",
    "models",
    "serving",
    "recipes",
    "sdk",
    "mcp",
    "troubleshooting",
    "security",
    "http",
    "data-protection",
    "cli",
    "kernels",
    "README",
)
ELSEWHERE = {
    "scripts/quickstart.sh": "installs an environment; what it starts then, fw quickstart, runs on the page of recipes",
    "scripts/test.sh": "runs these tests",
    " hf:": "needs a hub; tests/e2e has one",
    "fw model pull smollm2-135m": "the same model is here already, from a file of the test cache",
    "EmbeddingEngine": "needs an embedding model; engine/inference tests one",
    "python -m ": "measures for minutes; engine/inference runs the check with fewer tokens",
    "claude mcp add": "needs Claude Code; fw mcp doctor connects the same way",
}
"""Commands and programs that do not run here, by a part of them, and why."""
EXIT = re.compile(r"# exit (\d)\b")
"""What a command's comment says about its exit code; 0 where it says nothing."""
EXAMPLE_ROWS = {"train": 12, "heldout": 6}
BROKEN_ROWS = {"train": 32, "heldout": 6}
"""What is kept of an example that a page writes, so that what follows runs in seconds; all faults of the broken one."""
SMALLER = {"fw quickstart": "fw quickstart --smoke"}
"""Whole commands, and what runs here in their place."""
SERVES_S = 180.0


def blocks(page: str) -> list[tuple[str, str]]:
    folder = ROOT if page == "README" else ROOT / "docs"
    return BLOCK.findall((folder / f"{page}.md").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, starter_gguf: Path) -> Iterator[Place]:
    """A daemon, the starter under its own name, and the files that the pages speak of."""
    place = Place.prepare(tmp_path_factory.mktemp("docs"))
    try:
        rows = [_row(number) for number in range(88)]
        (place.workspace / "train.jsonl").write_text("".join(rows[:80]))
        (place.workspace / "heldout.jsonl").write_text("".join(rows[80:]))
        (place.workspace / "notes.csv").write_text('note,label\nThe box is wet.,returns\n"Late, again",delivery\n')
        (place.workspace / "evaluator.py").write_text(next(code for kind, code in blocks("evaluators")))
        for name in (
            "model.gguf",
            "my-model/m.gguf",
            "path/to/model/m.gguf",
            "folder-of-safetensors/m.gguf",
            "folder-or-file.gguf",
        ):
            (place.workspace / name).parent.mkdir(parents=True, exist_ok=True)
            (place.workspace / name).symlink_to(starter_gguf)
        (place.folder / "bin").mkdir()
        fw = place.folder / "bin" / "fw"
        fw.write_text(f'#!/bin/sh\nexec {sys.executable} -m fw_sdk.cli "$@"\n')
        fw.chmod(0o755)
        place.up()
        place.pull(starter_gguf)
        yield place
    finally:
        place.close()


def _row(number: int) -> str:
    """Only Tuesdays: what few rows can teach and a comparison can see. The model's own system message is longer."""
    day = date(2024, 3, 5) + timedelta(weeks=number)
    told, asked = {"role": "system", "content": "Say the day."}, {"role": "user", "content": f"Which day is {day}?"}
    return json.dumps({"messages": [told, asked, {"role": "assistant", "content": "Tuesday"}]}) + "\n"


@pytest.mark.parametrize("page", PAGES)
def test_the_blocks_of_a_page_run(page: str, home: Place) -> None:
    for kind, code in blocks(page):
        code = code.replace("127.0.0.1:8642", f"127.0.0.1:{home.port}").replace("~/.fw", str(home.home.root))
        if kind == "python" and not any(part in code for part in ELSEWHERE):
            _run(home, [sys.executable, "-c", code], code)
        elif kind == "bash":
            _run_shell(home, code)


def test_no_page_is_left_out() -> None:
    with_blocks = {path.stem for path in (ROOT / "docs").glob("*.md") if BLOCK.search(path.read_text())}
    assert with_blocks - set(PAGES) == {"benchmarks"}  # its commands measure for minutes each


def _run_shell(home: Place, code: str) -> None:
    """Command by command, as one types them; a server runs until it answers."""
    for command in code.replace("\\\n", " ").splitlines():
        command = SMALLER.get(command.strip(), command)
        if not command.strip() or any(part in command for part in ELSEWHERE):
            continue
        if " serve " in command:
            _run_server(home, command)
        else:
            said = EXIT.search(command)
            _run(home, ["bash", "-c", command], command, wanted=int(said[1]) if said else 0)
            if command.startswith("fw example "):
                _shorten(home.workspace / command.split()[2])


def _shorten(folder: Path) -> None:
    """Keep the first rows of an example's files."""
    if folder.is_dir():
        for side, count in (BROKEN_ROWS if folder.name == "broken-tickets" else EXAMPLE_ROWS).items():
            path = folder / f"{side}.jsonl"
            path.write_text(
                "".join(path.read_text(encoding="utf-8").splitlines(keepends=True)[:count]), encoding="utf-8"
            )


def _run(home: Place, words: list[str], shown: str, wanted: int = 0) -> None:
    done = subprocess.run(
        words,
        cwd=home.workspace,
        env=_environment(home),
        capture_output=True,
        text=True,
        timeout=300,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == wanted, f"{shown}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    assert "Traceback" not in done.stderr, shown


def _run_server(home: Place, command: str) -> None:
    server = subprocess.Popen(
        ["bash", "-c", f"exec env {command}"],
        cwd=home.workspace,
        env=_environment(home),
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        port = re.search(r"--port (\d+)", command)
        assert port is not None, command
        asked = ["bash", "-c", f"curl -sf http://127.0.0.1:{port[1]}/v1/models -H 'Authorization: Bearer secret'"]
        deadline = time.monotonic() + SERVES_S
        while subprocess.run(asked, capture_output=True).returncode:
            assert server.poll() is None and time.monotonic() < deadline, f"{command}\n{_said(server)}"
            time.sleep(0.5)
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(20)


def _said(server: subprocess.Popen[str]) -> str:
    server.kill()
    return server.communicate()[1][-2000:]


def _environment(home: Place) -> dict[str, str]:
    path = f"{home.folder / 'bin'}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**home.environment, "PATH": path, "PYTHONPATH": str(ROOT)}


assert BASE == "smollm2-135m", "the pages call the starter by its name"
