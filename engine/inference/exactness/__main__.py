"""``python -m engine.inference.exactness``: fails if one sampled log-probability differs from its recomputation."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from engine.inference.exactness.check import Report, check
from engine.inference.exactness.tiny import KINDS, tiny_model
from engine.models import CausalLM, PackedModel, load_for_inference, pick_dtype, pick_numerics
from fw_sdk.types import FwError

CPU = torch.device("cpu")
COLUMNS = (
    *("model", "format", "tokens", "different", "requests", "steps", "cancelled", "preempted", "cached", "chunked"),
    *("adapted", "drafted"),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Check, print a table, return the exit status: 0, 1 if bits differ, 2 if there was nothing to check."""
    given = _parser().parse_args(arguments)
    reports = []
    try:
        for name in [given.model] if given.model else [*KINDS]:
            model, numerics = _model(name, given.dtype, given.numerics)
            reports.append(check(model, Path(name).name, given.tokens, seed=given.seed, numerics=numerics))
    except FwError as error:
        print(error, file=sys.stderr)
        return 2
    print(_table([COLUMNS, *map(_row, reports)]))
    for report in reports:
        if report.first is not None:
            print(f"{report.model}: first difference: {report.first.text()}")
    wrong = any(report.different for report in reports)
    print(
        "FAILED: not every log-probability has the same bits" if wrong else "all log-probabilities have the same bits"
    )
    return 1 if wrong else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m engine.inference.exactness", description=__doc__)
    parser.add_argument("--tokens", type=int, default=20_000, help="to sample from each model")
    parser.add_argument(
        "--model", help=f"a folder, a .gguf file or one of {', '.join(KINDS)}; all of these unless given"
    )
    parser.add_argument("--dtype", default="float32", help="float32, bfloat16; for files also stored, int8, int4")
    parser.add_argument("--numerics", default="exact", choices=("exact", "fast"), help="fast shows what can differ")
    parser.add_argument("--seed", type=int, default=0, help="of the traffic")
    return parser


def _model(name: str, dtype: str, numerics: str) -> tuple[CausalLM | PackedModel, str]:
    if name in KINDS:
        held = pick_dtype(CPU, dtype)
        return tiny_model(name, held), pick_numerics(CPU, held, numerics)
    return load_for_inference(Path(name), dtype=dtype, device=CPU, numerics=numerics), numerics


def _row(report: Report) -> tuple[str, ...]:
    seen = report.happened
    counts = (report.tokens, report.different, seen.requests, seen.steps, seen.cancels, seen.preemptions)
    more = (seen.cached_tokens, seen.chunked, seen.adapted, seen.drafted)
    return report.model, f"{report.format} {report.numerics}", *map(str, (*counts, *more))


def _table(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in rows]
    return "\n".join("  ".join(line).rstrip() for line in lines)


if __name__ == "__main__":
    sys.exit(main())
