"""The engine on a GPU, with an 8B model's shapes and random weights, beside transformers in the same run.

    python -m tests.benchmarks.gpu [--write] [--only ours theirs exact training]

Nothing is downloaded. ``--tiny`` runs every line on a CPU instead, Triton's kernels in the interpreter, to show that
they run; its figures mean nothing and are not written.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch

from fw_sdk.types import FwError
from kernels.arguments import interpreting
from kernels.registry import preferring
from tests.benchmarks.gpu_sides import FULL, SMALL, Decoded, OurSide, Size, TheirSide, random_model, release, train
from tests.benchmarks.report import table, write_section

PARTS = ("ours", "theirs", "exact", "training")
HEADER = ("work", "unit", "fw", "transformers, static cache", "must", "goal")
COSTS = ("≤ 1.35", "≤ 1.25")
PACKAGES = ("torch", "triton", "transformers", "numpy")
Figures = dict[str, float | str]


def measure(size: Size, device: str, parts: Sequence[str]) -> dict[str, Figures]:
    """Figures by part; a part that cannot be had says why."""
    found: dict[str, Figures] = {}
    if "theirs" in parts:
        found["theirs"] = _guarded(lambda: _side(TheirSide(size, device), size))
        release()
    model = random_model(size.fields, device)
    for part, kind in (("ours", "fast"), ("exact", "exact")):
        if part in parts:
            found[part] = _guarded(lambda kind=kind: _side(OurSide(model, size, kind), size))  # type: ignore[misc]
            release()
    if "training" in parts:
        found["training"] = _guarded(lambda: _training(train(model, size)))
    return found


def _guarded(work: Callable[[], Figures]) -> Figures:
    try:
        return work()
    except (FwError, RuntimeError, LookupError, torch.OutOfMemoryError) as error:
        return {"failed": f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"}


def _side(side: Any, size: Size) -> Figures:
    figures: Figures = {}
    for streams in size.batches:
        decoded: Decoded = side.decode(streams)
        figures[f"token {streams}"] = decoded.token_s
        if decoded.gap_s is not None:
            figures[f"gap {streams}"] = decoded.gap_s
    figures["prefill"] = side.prefill()
    return figures


def _training(trained: Any) -> Figures:
    figures: Figures = {"tokens": trained.tokens_s}
    if trained.peak_gib is not None:
        figures["peak"] = trained.peak_gib
    return figures


def body(found: dict[str, Figures], size: Size, where: str) -> str:
    """The section's table, and what failed."""
    ours, theirs, exact = (found.get(part, {}) for part in ("ours", "theirs", "exact"))
    few, many = size.batches[0], size.batches[-1]
    training = found.get("training", {})
    rows = [
        (f"latency between tokens, {few} stream", "ms", *_both(ours, theirs, f"token {few}", 1e3), "≤ 7.3", "≤ 5.6"),
        (f"latency between tokens, {many} streams", "ms", *_both(ours, theirs, f"token {many}", 1e3), "", ""),
        (f"decode, {many} streams after {size.context} tokens", "tok/s", _rate(ours, many), _rate(theirs, many),
         "≥ 8500", ""),
        (f"host gap: of a step outside its recording, {few} stream", "ms", _of(ours, f"gap {few}", 1e3), "", "", ""),
        (f"host gap, {many} streams", "ms", _of(ours, f"gap {many}", 1e3), "", "", ""),
        (f"prefill, {size.prompt} tokens", "tok/s", *_both(ours, theirs, "prefill"), "≥ 40000", "≥ 50000"),
        (f"exact ÷ fast, decode, {few} stream", "times", _times(exact, ours, f"token {few}"), "", *COSTS),
        (f"exact ÷ fast, decode, {many} streams", "times", _times(exact, ours, f"token {many}"), "", *COSTS),
        ("exact ÷ fast, prefill", "times", _times(ours, exact, "prefill"), "", *COSTS),
        ("LoRA training, rank 16, all projections", "tok/s", _of(training, "tokens"), "", "", ""),
        ("its peak memory", "GiB", _of(training, "peak"), "", "", ""),
    ]  # fmt: skip
    failed = [f"{part} failed: {figures['failed']}" for part, figures in found.items() if "failed" in figures]
    layers = size.fields["num_hidden_layers"]
    facts = f"{where}. {layers} layers, random weights, medians of {size.rounds - 1} rounds after a warm-up; greedy."
    return "\n\n".join([table(HEADER, rows), facts, *failed])


def _both(ours: Figures, theirs: Figures, name: str, factor: float = 1.0) -> tuple[str, str]:
    return _of(ours, name, factor), _of(theirs, name, factor)


def _of(figures: Figures, name: str, factor: float = 1.0) -> str:
    value = figures.get(name)
    return f"{value * factor:.4g}" if isinstance(value, float) else "–"


def _rate(figures: Figures, streams: int) -> str:
    value = figures.get(f"token {streams}")
    return f"{streams / value:.0f}" if isinstance(value, float) else "–"


def _times(above: Figures, below: Figures, name: str) -> str:
    one, other = above.get(name), below.get(name)
    return f"{one / other:.2f}" if isinstance(one, float) and isinstance(other, float) else "–"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and with ``--write`` put the section into the page; 1 without a GPU."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.gpu", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--write", action="store_true", help="into docs/benchmarks.md")
    parser.add_argument("--tiny", action="store_true", help="every line, on a CPU, to see that it runs")
    given = parser.parse_args(arguments)
    if not given.tiny and not torch.cuda.is_available():
        print("there is no CUDA GPU here: nothing was measured, and nothing was written", file=sys.stderr)
        return 1
    size, device = (SMALL, "cpu") if given.tiny else (FULL, "cuda")
    if given.tiny and interpreting():
        from kernels.testing.interpreter import install

        install()
    with preferring("triton") if given.tiny and interpreting() else nullcontext():
        found = measure(size, device, given.only)
    where = "a CPU, which shows nothing but that it runs" if given.tiny else torch.cuda.get_device_name()
    text = body(found, size, where)
    print(text)
    if given.write and not given.tiny:
        write_section("gpu", "python -m tests.benchmarks.gpu --write", PACKAGES, text)
    return 1 if any("failed" in figures for figures in found.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
