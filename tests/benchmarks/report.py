"""Where figures go: a section of a page between two markers, with the machine and the command."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterable, Sequence
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"
PAGE = DOCS / "benchmarks.md"
CPU_PAGE = DOCS / "benchmarks-cpu.md"


def machine() -> str:
    """One line that names this machine: processor, cores given to us, memory, what its vector units can do."""
    info = Path("/proc/cpuinfo").read_text()
    model = re.search(r"model name\s*: (.*)", info)
    family = re.search(r"cpu family\s*: (\d+)", info)
    number = re.search(r"\nmodel\s*: (\d+)", info)
    flags = [flag for flag in ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16") if f" {flag} " in info]
    memory = re.search(r"MemTotal:\s*(\d+)", Path("/proc/meminfo").read_text())
    gib = int(memory[1]) / 2**20 if memory else 0
    name = model[1] if model else platform.processor()
    detail = f"family {family[1]} model {number[1]}" if family and number else "unknown family"
    cores = len(os.sched_getaffinity(0))
    return f"{name} ({detail}), {cores} cores, {gib:.0f} GiB, {', '.join(flags) or 'no AVX'}"


def versions(packages: Iterable[str]) -> str:
    """``Python x, package y, …`` for the packages that are installed."""
    found = [f"Python {platform.python_version()}"]
    for package in packages:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A markdown table."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def write_section(name: str, command: str, packages: Iterable[str], body: str, page: Path = PAGE) -> None:
    """Replace the section ``name`` of the page, or add it at the end."""
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    facts = f"{date.today().isoformat()}, {machine()}; {versions(packages)}.\nCommand: `{command}`"
    section = f"{begin}\n{facts}\n\n{body.strip()}\n{end}"
    text = page.read_text() if page.exists() else "# Benchmarks\n"
    if begin in text:
        text = re.sub(re.escape(begin) + ".*?" + re.escape(end), lambda _: section, text, flags=re.DOTALL)
    else:
        text = f"{text.rstrip()}\n\n{section}\n"
    page.write_text(text)
