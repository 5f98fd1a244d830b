"""Guessed tokens with and without: ``python -m tests.benchmarks.speculation MODEL [--draft-model M] [--rounds N]``.

One stream at a time, greedy. Two prompts: one asks for a table to be repeated with one word changed, which is what
guesses are for; one asks for something new, which shows what they cost where they do not help. Every way runs in every
round, in turn, after a round that does not count; a line is the median of the rounds. In numerics where a row has the
same bits in any batch (weights in 4 or 8 bits) the text must be the same in all ways, or the script fails; elsewhere it
says so if rounding moved a token.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from engine.inference import Engine, EngineConfig, SamplingParams
from engine.inference.config import Speculation
from tests.benchmarks.report import machine, table

ROWS = "\n".join(
    f"{number:03d};{city};{'open' if number % 3 else 'closed'};{number * 37 % 101} seats"
    for number, city in enumerate(["Rome", "Oslo", "Lima", "Cairo", "Kyoto", "Quito", "Riga", "Accra"] * 3)
)
PROMPTS = {
    "copying": f"Repeat this table exactly as it is, but write 'shut' for 'closed'.\n\n{ROWS}",
    "new text": "Write a short story about a lighthouse keeper who collects old maps.",
}
HEADER = ("prompt", "speculation", "tokens/s", "against off", "guesses that held")


@dataclass(frozen=True)
class Run:
    """One answer: its tokens, seconds from the first token to the last, and the guesses computed and held."""

    tokens: tuple[int, ...]
    seconds: float
    drafted: int
    accepted: int

    @property
    def speed(self) -> float:
        """Tokens per second after the first."""
        return (len(self.tokens) - 1) / self.seconds


def answer(engine: Engine, text: str, max_tokens: int) -> Run:
    """Generate greedily from one user's message; the prompt's own time does not count."""
    assert engine.renderer is not None
    prompt = tuple(engine.renderer.render([{"role": "user", "content": text}]))
    sampling = SamplingParams(max_tokens=max_tokens, temperature=0, ignore_eos=True)
    before = engine.stats
    engine.generate([prompt], SamplingParams(max_tokens=1, temperature=0))  # its pages are in the cache now
    started = time.perf_counter()
    found = engine.generate([prompt], sampling)[0]
    seconds, after = time.perf_counter() - started, engine.stats
    drafted = after.drafted_tokens - before.drafted_tokens
    return Run(found.token_ids, seconds, drafted, after.accepted_tokens - before.accepted_tokens)


def measure(engines: dict[str, Engine], text: str, rounds: int, max_tokens: int) -> dict[str, list[Run]]:
    """Runs by way, all ways in every round."""
    runs: dict[str, list[Run]] = {way: [] for way in engines}
    for number in range(rounds + 1):
        for way, engine in engines.items():
            run = answer(engine, text, max_tokens)
            if number:
                runs[way].append(run)
    answers = {run.tokens for found in runs.values() for run in found}
    if len(answers) > 1:
        text = "the text differs between ways"
        sys.exit(f"{text}: guesses must not change it") if engines["off"].packed else print(f"note: {text}")
    return runs


def lines(prompt: str, runs: dict[str, list[Run]]) -> list[list[str]]:
    """Rows of the table."""
    plain = statistics.median(run.speed for run in runs["off"])
    rows = []
    for way, found in runs.items():
        speed = statistics.median(run.speed for run in found)
        drafted, accepted = sum(run.drafted for run in found), sum(run.accepted for run in found)
        held = f"{accepted / drafted:.0%} of {drafted // len(found)}" if drafted else "–"
        rows.append([prompt, way, f"{speed:.1f}", f"{speed / plain:.2f}x", held])
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--draft-model", type=Path)
    parser.add_argument("--draft-tokens", type=int, default=4)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--max-tokens", type=int, default=256)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    ways: list[Speculation] = ["off", "lookup", "draft"] if given.draft_model else ["off", "lookup"]
    engines: dict[str, Engine] = {
        way: Engine.load(
            given.model,
            dtype=given.dtype,
            config=EngineConfig(speculation=way, draft_tokens=given.draft_tokens),
            draft_model=given.draft_model if way == "draft" else None,
        )
        for way in ways
    }
    print(f"{machine()}, {given.threads} threads, {engines['off'].format}, {given.rounds} rounds")
    rows = [
        line
        for prompt, text in PROMPTS.items()
        for line in lines(prompt, measure(engines, text, given.rounds, given.max_tokens))
    ]
    print(table(HEADER, rows))


if __name__ == "__main__":
    main()
