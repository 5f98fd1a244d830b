"""A trial compilation of a grammar in a process of its own, which can be stopped; a script that needs llguidance only.

llguidance bounds nearly all of its work itself, but not how long it looks for a text that several regular expressions
allow at once: a short schema can keep a thread busy for hours, and a thread cannot be stopped.
"""

from __future__ import annotations

import contextlib
import resource
import subprocess
import sys
from pathlib import Path

import llguidance

TRIAL_S = 2
"""Of the processor's time; on a busy machine that may be several times as long."""
PATIENCE_S = 10.0
TRIAL_BYTES = 2 << 30
LIMITS = llguidance.LLParserLimits(
    initial_lexer_fuel=500_000,
    step_lexer_fuel=200_000,
    step_max_items=50_000,
    max_lexer_states=50_000,
    max_grammar_size=250_000,
    precompute_large_lexemes=False,
    verbose_errors=False,
)


def compiles_in_time(source: str) -> bool:
    """Whether llguidance comes to a verdict about ``source``, good or bad, within the budget of time and memory."""
    command = [sys.executable, "-P", str(Path(__file__).resolve())]
    try:
        done = subprocess.run(
            command,
            input=source.encode(),
            timeout=PATIENCE_S,
            check=False,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def main() -> None:
    """Compile what comes on the standard input."""
    for limit, value in ((resource.RLIMIT_AS, TRIAL_BYTES), (resource.RLIMIT_CPU, TRIAL_S)):
        with contextlib.suppress(ValueError, OSError):  # not every system has every limit
            resource.setrlimit(limit, (value, value))
    llguidance.LLMatcher.validate_grammar(sys.stdin.buffer.read().decode(), limits=LIMITS)


if __name__ == "__main__":
    main()
