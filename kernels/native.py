"""C kernels compiled on first use by the system's compiler, into a cache named by their content.

They share torch's OpenMP threads: the objects are linked without a runtime of their own and find torch's, so that two
pools never compete for the cores. Without a compiler, callers keep to torch operators.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import torch

COMPILE_FLAGS = ("-O3", "-march=native", "-ffast-math", "-fno-finite-math-only", "-fopenmp", "-fPIC", "-std=gnu11")
COMPILE_TIMEOUT_S = 120


def cache_dir() -> Path:
    """Where compiled kernels lie: ``$XDG_CACHE_HOME/fw/kernels``, else ``~/.cache/fw/kernels``."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "fw" / "kernels"


@functools.cache
def load(source: Path) -> ctypes.CDLL | None:
    """The compiled ``source``, or None if it cannot be compiled or loaded here."""
    compiler, runtime = shutil.which(os.environ.get("CC", "cc")), _openmp_of_torch()
    if compiler is None or runtime is None:
        return None
    try:
        ctypes.CDLL(str(runtime), mode=ctypes.RTLD_GLOBAL)
        return ctypes.CDLL(str(_compiled(compiler, source)))
    except (OSError, subprocess.SubprocessError):
        return None


def _openmp_of_torch() -> Path | None:
    libraries = Path(torch.__file__).parent / "lib"
    return next(iter(sorted(libraries.glob("libgomp*.so*"))), None)


def _compiled(compiler: str, source: Path) -> Path:
    facts = [source.read_text(), *COMPILE_FLAGS, _version(compiler), _processor()]
    name = hashlib.sha256("\0".join(facts).encode()).hexdigest()[:32]
    target = cache_dir() / f"{source.parent.name}-{name}.so"
    if not target.exists():
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            built, library = Path(folder) / "kernel.o", Path(folder) / "kernel.so"
            _run(compiler, *COMPILE_FLAGS, "-c", str(source), "-o", str(built))
            _run(compiler, "-shared", str(built), "-o", str(library), "-lm")
            library.replace(target)
    return target


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=COMPILE_TIMEOUT_S)


def _version(compiler: str) -> str:
    return subprocess.run([compiler, "--version"], check=True, capture_output=True, text=True, timeout=10).stdout


def _processor() -> str:
    """What ``-march=native`` depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")
