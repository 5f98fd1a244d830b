"""What exact numerics cost: tokens per second exact and fast, in one process, round by round, same weights and format.

    python -m tests.benchmarks.exactness_cost MODEL --dtype bfloat16 --threads 2

A ratio above 1 is how many times slower exact is. Each cell is the best of the rounds, in which the two take turns.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from engine.inference import Engine, EngineConfig, Request, SamplingParams


@dataclass(frozen=True)
class Load:
    """What is asked: so many streams with prompts and answers of these lengths, in tokens."""

    streams: int
    prompt: int
    answer: int

    @property
    def counted(self) -> int:
        """Tokens that the figure is about: of the answers, or of the prompts if there is nothing else."""
        return self.streams * (self.answer if self.answer > 1 else self.prompt)


LOADS = {"decode, 1 stream": Load(1, 16, 64), "decode, 32 streams": Load(32, 16, 32), "prefill 512": Load(1, 512, 1)}


def measure(engine: Engine, load: Load, seed: int) -> float:
    """Tokens per second, the prompts' own time left out where answers are counted."""
    dice = random.Random(seed)
    vocabulary = engine.model.config.vocab_size
    params = SamplingParams(max_tokens=load.answer, temperature=0, ignore_eos=True)
    for number in range(load.streams):
        prompt = tuple(dice.choices(range(vocabulary), k=load.prompt))
        engine.add(Request(f"{seed}-{number}", prompt, params))
    started, counted = time.perf_counter(), load.counted
    if load.answer > 1:
        first = set[str]()
        while len(first) < load.streams:
            first |= {output.request_id for output in engine.step()}
            counted = 0
        started = time.perf_counter()
    while engine.has_work:
        counted += len(engine.step()) * (load.answer > 1)
    return counted / (time.perf_counter() - started)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print a table, or JSON."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.exactness_cost", description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    config = EngineConfig(prefix_cache=False)
    engines = {
        kind: Engine.load(given.model, dtype=given.dtype, device="cpu", numerics=kind, config=config)
        for kind in ("fast", "exact")
    }
    best = {(name, kind): 0.0 for name in LOADS for kind in engines}
    for turn in range(given.rounds + 1):  # the first warms up
        for name, load in LOADS.items():
            for kind, engine in engines.items():
                speed = measure(engine, load, turn)
                best[name, kind] = max(best[name, kind], speed if turn else 0.0)
    rows = [
        {"load": name, **{kind: round(best[name, kind], 1) for kind in engines},
         "exact_costs": round(best[name, "fast"] / best[name, "exact"], 3)}
        for name in LOADS
    ]  # fmt: skip
    facts = {"format": engines["exact"].format, "threads": given.threads, "torch": torch.__version__, "rows": rows}
    if given.json:
        print(json.dumps(facts))
        return
    print(f"{facts['format']}, {given.threads} threads, torch {torch.__version__}; tokens per second")
    for row in rows:
        print(f"{row['load']:20} fast {row['fast']:9} exact {row['exact']:9} fast/exact {row['exact_costs']}")


if __name__ == "__main__":
    main()
