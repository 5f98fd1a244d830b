"""Time to first token of an agent's turn: a long prompt of which all but the last message was computed before.

    python -m tests.benchmarks.agent_turn --model MODEL [--prompt 6000] [--new 200] [--repeats 5] [--write]

Three times are compared in turns: the whole turn, the new tokens as a prompt of their own (the floor), and looking the
turn up in the prefix index, which is all that a hit adds besides attention over the longer context.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

from engine.inference import Engine, EngineConfig, Request, SamplingParams
from engine.inference.pages import PagePool
from engine.inference.prefix import PrefixIndex, root_key
from engine.inference.sequence import Sequence
from tests.benchmarks.report import table, write_section

FIRST = SamplingParams(max_tokens=1, temperature=0, ignore_eos=True)


@dataclass(frozen=True)
class Turn:
    """What was measured, in seconds, one figure per repeat."""

    whole: list[float]
    alone: list[float]
    lookup: list[float]
    cached_tokens: int

    @property
    def ratio(self) -> float:
        """Median of the turn over the median of the new tokens alone."""
        return statistics.median(self.whole) / statistics.median(self.alone)


def measure(engine: Engine, prompt: int, new: int, repeats: int) -> Turn:
    """Alternate a turn and its new tokens alone; the beginning is computed once before."""
    choose = random.Random(0)
    size = engine.model.config.vocab_size

    def draw(count: int) -> tuple[int, ...]:
        return tuple(choose.randrange(size) for _ in range(count))

    beginning = draw(prompt - new)
    first_token(engine, "warm", beginning)
    first_token(engine, "warm", draw(new))
    whole, alone, lookup, cached = list[float](), list[float](), list[float](), 0
    for _ in range(repeats):
        message = draw(new)
        seconds, cached = first_token(engine, "turn", beginning + message)
        whole.append(seconds)
        alone.append(first_token(engine, "alone", draw(new))[0])
        lookup.append(look_up(beginning + message, engine.memory.page_size))
    return Turn(whole, alone, lookup, cached)


def first_token(engine: Engine, name: str, prompt: tuple[int, ...]) -> tuple[float, int]:
    """Seconds from the request to its first token, and how much of it was cached."""
    start = time.perf_counter()
    engine.add(Request(name, prompt, FIRST))
    while not (outputs := engine.step()):
        pass
    return time.perf_counter() - start, outputs[0].usage.cached_tokens


def look_up(prompt: tuple[int, ...], page_size: int) -> float:
    """Seconds to find a prompt of which every full page is known."""
    index = PrefixIndex(PagePool(len(prompt) // page_size + 1), page_size)
    tokens = Sequence(Request("known", prompt), arrival=0, limit=len(prompt)).tokens
    first = index.match(tokens, root_key(0))
    first.pages.extend(index.take(len(prompt) // page_size))
    index.register(tokens, first.pages, first.chain)
    start = time.perf_counter()
    found = index.match(tokens, root_key(0))
    seconds = time.perf_counter() - start
    assert len(found.pages) == len(prompt) // page_size
    return seconds


def milliseconds(values: list[float]) -> str:
    """Median and range."""
    low, middle, high = (1e3 * value for value in (min(values), statistics.median(values), max(values)))
    return f"{middle:.2f} ({low:.2f}–{high:.2f})"


def main() -> None:
    """Measure and print; with ``--write`` the figures become a section of the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--prompt", type=int, default=6000, help="tokens of the turn")
    parser.add_argument("--new", type=int, default=200, help="of these, tokens that are new")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    engine = Engine.load(given.model, dtype=given.dtype, config=EngineConfig())
    turn = measure(engine, given.prompt, given.new, given.repeats)
    rows = [
        (f"turn of {given.prompt} tokens, {turn.cached_tokens} of them cached", milliseconds(turn.whole)),
        (f"its {given.new} new tokens alone", milliseconds(turn.alone)),
        ("of the turn: looking it up", milliseconds(turn.lookup)),
    ]
    body = table(("time to the first token", "ms, median (range)"), rows)
    body += f"\n\nThe turn takes {turn.ratio:.2f} times its new tokens alone ({given.model.name}, {engine.format})."
    print(body)
    if given.write:
        command = f"python -m tests.benchmarks.agent_turn --model MODEL --repeats {given.repeats} --write"
        write_section("agent turn", command, ("torch", "numpy"), f"## An agent's turn\n\n{body}")


if __name__ == "__main__":
    main()
