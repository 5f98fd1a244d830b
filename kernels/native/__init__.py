"""C kernels compiled on first use by the system's compiler, into a cache named by their content.

Every source is compiled for each instruction set that the machine's architecture has, and all of it is linked into one
library; the best set that this processor offers is chosen when the library is loaded, so a cache may be shared between
machines. Steps run on a ``Team`` of threads of their own; the few kernels that stand among torch's operators run on
torch's OpenMP threads, without a second runtime. Without a compiler callers keep to torch; ``status`` says why.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
SOURCES = (
    "native/team.c",
    "block_matmul/pack.c",
    "block_matmul/cpu.c",
    "paged_attention/cpu.c",
    "decoder/cpu.c",
    "linear/cpu.c",
    "exact_attention/cpu.c",
    "pointwise/cpu.c",
    "rms_norm/cpu.c",
    "rope/cpu.c",
    "softmax/cpu.c",
    "gated_delta_net/cpu.c",
)
FLAGS = ("-O3", "-fopenmp", "-fPIC", "-std=gnu11", "-Wno-psabi")
COMPILE_TIMEOUT_S = 180


@dataclass(frozen=True)
class Variant:
    """One instruction set.

    Attributes:
        name: suffix of its functions.
        machine: architecture as ``platform.machine`` names it; empty for any.
        flags: for the compiler.
        needs: what ``/proc/cpuinfo`` must list.
    """

    name: str
    machine: str
    flags: tuple[str, ...]
    needs: tuple[str, ...]


VARIANTS = (
    Variant(
        "avx512",
        "x86_64",
        ("-march=x86-64-v4", "-mavx512vnni"),
        ("avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl", "avx512_vnni"),
    ),
    Variant(
        "avxvnni",
        "x86_64",
        ("-mavx2", "-mfma", "-mf16c", "-mavxvnni"),
        ("avx2", "fma", "f16c", "avx_vnni"),
    ),
    Variant("avx2", "x86_64", ("-mavx2", "-mfma", "-mf16c"), ("avx2", "fma", "f16c")),
    Variant("neon", "aarch64", ("-march=armv8.2-a+dotprod",), ("asimd", "asimddp")),
    Variant("portable", "", (), ()),
)
"""Best first."""


@dataclass(frozen=True)
class Library:
    """The compiled kernels, with the variant that this processor runs best."""

    handle: ctypes.CDLL
    variant: str

    def function(self, name: str, variant: str | None = None) -> Any:
        """The C function ``name`` of the variant (by default the best)."""
        return getattr(self.handle, f"{name}_{variant or self.variant}")


class Team:
    """Threads that compute a step together and sleep in between.

    Args:
        library: compiled kernels.
        threads: the caller's own included.
        variant: as for ``Library.function``.

    Attributes:
        address: what C functions get.
    """

    def __init__(self, library: Library, threads: int, variant: str | None = None) -> None:
        make = library.function("team_new", variant)
        make.restype = ctypes.c_void_p
        address = make(ctypes.c_int64(max(1, threads)))
        if not address:
            raise MemoryError("no memory for the threads of the kernels")
        self.address = ctypes.c_void_p(address)
        ended = weakref.finalize(self, library.function("team_free", variant), self.address)
        ended.atexit = False  # a daemon thread may still be in a step then; the system takes all of it anyway


class NativeUnavailableError(Exception):
    """Why there are no compiled kernels here."""


def cache_dir() -> Path:
    """Where compiled kernels lie: ``$XDG_CACHE_HOME/fw/kernels``, else ``~/.cache/fw/kernels``."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "fw" / "kernels"


def library() -> Library | None:
    """The compiled kernels, or None if they cannot be compiled or loaded here."""
    loaded = _load()
    return loaded if isinstance(loaded, Library) else None


def needed() -> Library:
    """The compiled kernels, for callers that have no other way.

    Raises:
        RuntimeError: if there are none here; ``status`` says why.
    """
    loaded = library()
    if loaded is None:
        raise RuntimeError(f"this needs compiled kernels: {status()}")
    return loaded


def status() -> str:
    """One line for a person: the variant in use, or why there is none."""
    loaded = _load()
    return f"compiled for {loaded.variant}" if isinstance(loaded, Library) else str(loaded)


def usable_variants() -> tuple[Variant, ...]:
    """What this processor can run, best first."""
    features = _features()
    return tuple(variant for variant in _compiled_variants() if features.issuperset(variant.needs))


@functools.cache
def _load() -> Library | NativeUnavailableError:
    try:
        path = _built()
        ctypes.CDLL(str(_openmp_of_torch()), mode=ctypes.RTLD_GLOBAL)
        return Library(ctypes.CDLL(str(path)), usable_variants()[0].name)
    except NativeUnavailableError as error:
        return error
    except (OSError, subprocess.SubprocessError) as error:
        return NativeUnavailableError(f"the kernels cannot be compiled or loaded: {_first_words(error)}")


def _first_words(error: Exception) -> str:
    said = getattr(error, "stderr", None) or str(error)
    return " ".join((said if isinstance(said, str) else said.decode(errors="replace")).split())[:300]


def _openmp_of_torch() -> Path:
    import importlib.util

    spec = importlib.util.find_spec("torch")
    folder = Path(spec.origin).parent / "lib" if spec and spec.origin else Path()
    found = next(iter(sorted(folder.glob("libgomp*.so*"))), None)
    if found is None:
        raise NativeUnavailableError("torch brings no libgomp, whose threads the kernels would share")
    return found


def _built() -> Path:
    """The library, compiled now unless it lies in the cache."""
    files = sorted([*ROOT.glob("*/*.c"), *ROOT.glob("*/*.h")])
    facts = [*(file.read_text() for file in files), repr((FLAGS, _compiled_variants()))]
    target = cache_dir() / f"kernels-{hashlib.sha256(chr(0).join(facts).encode()).hexdigest()[:32]}.so"
    if not target.exists():
        compiler = shutil.which(os.environ.get("CC", "cc"))
        if compiler is None:
            raise NativeUnavailableError("no C compiler (cc) is on the path")
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            build(compiler, Path(folder)).replace(target)
    return target


def build(compiler: str, folder: Path, extra: tuple[str, ...] = ()) -> Path:
    """Compile every source for every variant of this architecture into one library in ``folder``.

    Raises:
        subprocess.SubprocessError: what the compiler says is in its ``stderr``.
    """

    def compiled(source: str, variant: Variant) -> str:
        target = folder / f"{source.replace('/', '-')}-{variant.name}.o"
        _run(compiler, *FLAGS, *extra, *variant.flags, "-c", str(ROOT / source), "-o", str(target))
        return str(target)

    pairs = [(source, variant) for source in reversed(SOURCES) for variant in _compiled_variants()]
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        objects = list(pool.map(lambda pair: compiled(*pair), pairs))
    built = folder / "kernels.so"
    _run(compiler, "-shared", *extra, *objects, "-o", str(built), "-lm")
    return built


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=COMPILE_TIMEOUT_S)


def _compiled_variants() -> tuple[Variant, ...]:
    return tuple(variant for variant in VARIANTS if variant.machine in ("", platform.machine()))


def outruns_bf16() -> bool:
    """Whether products with 15-bit activations are faster here than torch's in bfloat16.

    Intel's cores without AMX multiply bfloat16 at half of their float32 rate: 42 GMAC/s on one core of Emerald Rapids,
    where packed weights give 125. AMD's bfloat16 is as fast as packed weights, AMX far faster.
    """
    features = _features()
    slow = "amx_bf16" not in features and "GenuineIntel" in _cpuinfo("vendor_id")
    return slow and {"avx512_bf16", "avx512_vnni"} <= features


def torch_multiplies_bf16_well() -> bool:
    """Whether torch has instructions for bfloat16 here that outrun products of the same numbers in float32."""
    features = _features()
    native = features & {"avx512_bf16", "amx_bf16", "bf16"}  # the last is ARM's
    return bool(native) and not outruns_bf16()


def _features() -> frozenset[str]:
    """What the processor's ``flags`` (x86) or ``Features`` (ARM) list."""
    return frozenset(_cpuinfo("flags", "Features").split())


def _cpuinfo(*names: str) -> str:
    """The first line of /proc/cpuinfo that begins with one of the names, without it; empty if there is none."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2] for line in lines if line.startswith(names)), "")
