"""What ``fw doctor`` looks at: a registry of small checks, each with a status and a fix. Imports no torch.

Add one with::

    @check("my-check")
    def my_check(home: Home) -> Finding:
        return ok("all is well")
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fw_sdk.daemon import default_port, find_daemon, read_health
from fw_sdk.types import LoopState
from fw_sdk.types.home import Home

GIB = 1024**3
MEMORY_WANTED_GIB = 3
DISK_WANTED_GIB = 3
CPU_BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})


@dataclass(frozen=True)
class Finding:
    """What a check found. ``status`` is ok, warn or fail; ``fix`` is what to do about it."""

    status: str
    message: str
    fix: str = ""
    id: str = ""

    def to_wire(self) -> dict[str, Any]:
        """JSON-ready mapping."""
        return {"id": self.id, "status": self.status, "message": self.message, "fix": self.fix}


Check = Callable[[Home], Finding]
CHECKS: dict[str, Check] = {}


def check(identifier: str) -> Callable[[Check], Check]:
    """Register a check; checks run in the order of their registration."""

    def register(function: Check) -> Check:
        CHECKS[identifier] = function
        return function

    return register


def ok(message: str) -> Finding:
    """All is well."""
    return Finding("ok", message)


def warn(message: str, fix: str) -> Finding:
    """It works, but not well."""
    return Finding("warn", message, fix)


def fail(message: str, fix: str) -> Finding:
    """Something will not work."""
    return Finding("fail", message, fix)


def run_checks(home: Home) -> list[Finding]:
    """Every finding. A check that itself breaks is a finding too."""
    findings = []
    for identifier, function in CHECKS.items():
        try:
            found = function(home)
        except Exception as error:  # noqa: BLE001 - a broken check must not hide the others
            found = fail(f"the check broke: {type(error).__name__}: {error}", "report this as a bug of fw")
        findings.append(Finding(found.status, found.message, found.fix, identifier))
    return findings


@check("python")
def python(home: Home) -> Finding:
    """The interpreter's version."""
    version = platform.python_version()
    return ok(version) if sys.version_info >= (3, 11) else fail(version, "use Python 3.11 or newer")


@check("torch")
def torch(home: Home) -> Finding:
    """Torch's version, and whether its build suits the machine."""
    try:
        distribution = importlib.metadata.distribution("torch")
    except importlib.metadata.PackageNotFoundError:
        return fail("torch is not installed", "pip install 'torch>=2.11'")
    version, cuda = distribution.version, cuda_build(distribution)
    described = f"{version} ({'CUDA' if cuda else 'CPU'} build)"
    if tuple(int(part) for part in version.split("+")[0].split(".")[:2]) < (2, 11):
        return fail(described, "pip install 'torch>=2.11'")
    if nvidia_gpu() and not cuda:
        return warn(f"{described}, though this machine has an NVIDIA GPU", "install torch's CUDA build")
    return ok(described)


def cuda_build(distribution: importlib.metadata.Distribution) -> bool:
    """Whether an installed torch was built for CUDA: by its version's suffix, else by what it requires."""
    suffix = distribution.version.partition("+")[2]
    if suffix:
        return suffix.startswith("cu")
    return any(requirement.startswith(("nvidia-", "cuda-")) for requirement in distribution.requires or [])


def nvidia_gpu() -> bool:
    """Whether the NVIDIA driver shows a device."""
    return any(Path("/dev").glob("nvidia[0-9]*"))


@check("bf16")
def bf16(home: Home) -> Finding:
    """Whether the machine multiplies bfloat16 natively."""
    if nvidia_gpu():
        return ok("by the GPU")
    found = cpu_flags() & CPU_BF16_FLAGS
    if found:
        return ok(f"by the CPU ({', '.join(sorted(found))})")
    return warn("not by this CPU: models run in float32", "nothing to do; twice the memory and about half the speed")


def cpu_flags() -> set[str]:
    """Feature flags of the first core, as the kernel names them."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return set()
    return next((set(line.split(":", 1)[1].split()) for line in lines if line.startswith(("flags", "Features"))), set())


@check("memory")
def memory(home: Home) -> Finding:
    """Memory that is free for a model and its training."""
    import psutil  # only here, since it would slow down every command

    available = psutil.virtual_memory().available
    described = f"{available / GIB:.1f} GiB available"
    if available < MEMORY_WANTED_GIB * GIB:
        return warn(described, f"close something: the quickstart wants {MEMORY_WANTED_GIB} GiB")
    return ok(described)


@check("disk")
def disk(home: Home) -> Finding:
    """Space where ``FW_HOME`` is."""
    folder = home.root
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    described = f"{free / GIB:.1f} GiB free at {folder}"
    if free < DISK_WANTED_GIB * GIB:
        return warn(described, f"free some, or set FW_HOME to a place with {DISK_WANTED_GIB} GiB")
    return ok(described)


@check("home")
def permissions(home: Home) -> Finding:
    """That only the owner can read what fw keeps."""
    if not home.root.exists():
        return ok(f"{home.root} (made on first use)")
    if not os.access(home.root, os.W_OK):
        return fail(
            f"{home.root} is not writable", f"chown it to you, or set FW_HOME; owner is uid {home.root.stat().st_uid}"
        )
    open_paths = [
        path
        for path in (home.root, home.token_file, home.reading_token_file)
        if path.exists() and stat.S_IMODE(path.stat().st_mode) & (stat.S_IRWXG | stat.S_IRWXO)
    ]
    if open_paths:
        shown = " ".join(map(str, open_paths))
        return warn(f"others may read {shown}", f"chmod go-rwx {shown}")
    return ok(str(home.root))


@check("daemon")
def daemon(home: Home) -> Finding:
    """Whether the daemon runs and is of this version."""
    found = find_daemon(home)
    if found is None:
        return warn("not running", "fw up --detach")
    health = read_health(found.url)
    if health is None:
        return fail(f"pid {found.pid} does not answer at {found.url}", f"fw logs; then fw down, or kill {found.pid}")
    ours = importlib.metadata.version("fw")
    if health.version != ours:
        return warn(f"fw {health.version} at {found.url}, but this is fw {ours}", "fw down && fw up --detach")
    return ok(f"fw {health.version} at {found.url}, pid {found.pid}")


@check("supervision")
def supervision(home: Home) -> Finding:
    """Whether the daemon's background loops run, as it says itself."""
    found = find_daemon(home)
    health = read_health(found.url) if found else None
    if health is None:
        return warn("known when the daemon runs", "fw up --detach")
    ill = [loop for loop in health.supervision if loop.state is not LoopState.OK]
    if not ill:
        return ok(" ".join(loop.name for loop in health.supervision))
    told = "; ".join(
        f"{loop.name} is {loop.state}" + (f" ({loop.last_error})" if loop.last_error else "") for loop in ill
    )
    hangs = any(loop.state is not LoopState.FAILING for loop in ill)
    return warn(told, "fw logs; then fw down && fw up --detach" if hangs else "fw logs: it is tried again by itself")


@check("port")
def port(home: Home) -> Finding:
    """Whether the daemon's port is free, or its own."""
    found, number = find_daemon(home), default_port()
    if found is not None:
        return ok(f"{found.url} is the daemon's")
    with socket.socket() as probe:
        probe.settimeout(1)
        taken = probe.connect_ex(("127.0.0.1", number)) == 0
    if taken:
        return fail(f"something else listens on {number}", "stop it, or use fw up --port N (or FW_PORT=N)")
    return ok(f"{number} is free")


@check("pip")
def pip(home: Home) -> Finding:
    """Whether starters can be pulled, which is done by pip."""
    if importlib.util.find_spec("pip") is None:
        return warn("not in this environment", f"{sys.executable} -m ensurepip (pulling a starter needs it)")
    return ok(f"pip {importlib.metadata.version('pip')}")


@check("kernels")
def kernels(home: Home) -> Finding:
    """Whether the CPU kernels are compiled, compiling them if they are not yet."""
    from fw_sdk.cli.rooms import open_room

    said, usable = open_room("kernels.native", "status")(), open_room("kernels.native", "library")() is not None
    if usable:
        return ok(said)
    return warn(
        f"{said}: models run in torch operators, dequantised and several times slower",
        "install a C compiler (Debian, Ubuntu: apt-get install gcc libc6-dev) and run fw doctor again",
    )


@check("evaluators")
def evaluators(home: Home) -> Finding:
    """How evaluator code is confined, as the daemon says it."""
    found = find_daemon(home)
    health = read_health(found.url) if found else None
    if health is None:
        return warn("known when the daemon runs", "fw up --detach")
    if health.evaluator_isolation == "none":
        return warn("not confined at all", "run only evaluators that you trust")
    return ok(health.evaluator_isolation)


@check("gpu")
def gpu(home: Home) -> Finding:
    """What the NVIDIA driver says, where there is one."""
    if not nvidia_gpu():
        return ok("none: models run on the CPU")
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return warn("an NVIDIA device without nvidia-smi", "install the driver's tools")
    query = [tool, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    reply = subprocess.run(query, capture_output=True, text=True, timeout=20, check=False)
    return ok(reply.stdout.strip()) if reply.returncode == 0 else fail(reply.stderr.strip(), "check the driver")
