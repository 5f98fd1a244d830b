"""The whole loop as its user runs it: ``python -m tests.benchmarks.loop --seeds 0 1 2 [--write]``.

Each seed is one ``fw quickstart`` in a home of its own, to a deployed model that answered. The model is pulled before,
since downloads do not count; memory is the sum over all processes of that home.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.benchmarks.memory import PeakMemory
from tests.benchmarks.report import table, write_section

PACKAGES = ("torch", "tokenizers")
STARTER = "smollm2-135m"


def run_seed(seed: int, extra: list[str]) -> dict[str, Any]:
    """One quickstart; the result object with its scores by label, wall seconds and peak memory."""
    with tempfile.TemporaryDirectory(prefix="fw-loop-") as folder:
        home = Path(folder) / "home"
        environment = {**os.environ, "FW_HOME": str(home), "FW_PORT": str(18642 + seed)}
        fw = [sys.executable, "-m", "fw_sdk.cli"]
        pull = [*fw, "model", "pull", STARTER]
        subprocess.run([*fw, "up", "--detach"], env=environment, cwd=folder, stdout=subprocess.DEVNULL, check=True)
        subprocess.run(pull, env=environment, cwd=folder, stdout=subprocess.DEVNULL, check=True)
        command = [*fw, "--format", "json", "quickstart", "--seed", str(seed), *extra]
        started = time.monotonic()
        with PeakMemory(home) as memory:
            done = subprocess.run(command, env=environment, cwd=folder, stdout=subprocess.PIPE, text=True, check=False)
        wall_s = time.monotonic() - started
        down = [*fw, "down", "--stop-jobs"]
        subprocess.run(down, env=environment, cwd=folder, stdout=subprocess.DEVNULL, check=False)
        if not done.stdout.strip():
            sys.exit(f"quickstart with seed {seed} printed no result (status {done.returncode})")
        result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    scores = {item["label"]: item["summary"] for item in result["baselines"]} | {"tuned": result["tuned"]}
    return {**result, "seed": seed, "scores": scores, "loop_s": wall_s, "peak_bytes": memory.peak_bytes}


def row(result: dict[str, Any]) -> list[str]:
    """One line of the table."""
    base, tuned = result["scores"]["base"], result["scores"]["tuned"]
    few = result["scores"].get("few_shot")
    against = result["comparison"]
    return [
        str(result["seed"]),
        f"{base['mean']:.2f}",
        f"{few['mean']:.2f}" if few else "–",
        f"{tuned['mean']:.2f} [{tuned['ci']['low']:.2f}, {tuned['ci']['high']:.2f}]",
        f"{against['delta']:+.2f} [{against['ci']['low']:+.2f}, {against['ci']['high']:+.2f}]",
        f"{against['wins']}/{against['losses']}/{against['ties']}",
        str(against["verdict"]),
        f"{result['timings']['finetune']:.0f}",
        f"{result['loop_s']:.0f}",
        f"{result['peak_bytes'] / 2**30:.2f}",
    ]


def report(results: list[dict[str, Any]]) -> str:
    """The table and its one-line summary."""
    header = ["seed", "base", "few-shot", "tuned [95 %]", "tuned − best baseline [95 %]", "wins/losses/ties"]
    header += ["verdict", "training s", "loop s", "peak GiB"]
    rise = statistics.mean(item["scores"]["tuned"]["mean"] - item["scores"]["base"]["mean"] for item in results)
    slowest = max(item["loop_s"] for item in results)
    n = results[0]["comparison"]["n"]
    summary = (
        f"Held-out exact calls, n = {n}. Mean rise over the base with the same prompt: **{rise:+.2f}** over "
        f"{len(results)} seeds; slowest loop {slowest:.0f} s."
    )
    return f"{table(header, [row(item) for item in results])}\n\n{summary}"


def main() -> None:
    """Run the seeds one after the other and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--write", action="store_true", help="put the table into docs/benchmarks.md")
    options, extra = parser.parse_known_args()
    results = []
    for seed in options.seeds:
        results.append(run_seed(seed, extra))
        print(" | ".join(row(results[-1])), file=sys.stderr, flush=True)
    body = report(results)
    print(body)
    if options.write:
        seeds = " ".join(str(seed) for seed in options.seeds)
        write_section("loop", f"python -m tests.benchmarks.loop --seeds {seeds} --write", PACKAGES, body)


if __name__ == "__main__":
    main()
