"""A trial compilation of a grammar in a process of its own, which can be stopped; a script that needs llguidance only.

llguidance bounds nearly all of its work itself, but not how long it looks for a text that several regular expressions
allow at once: a short schema can keep a thread busy for hours, and a thread cannot be stopped.
"""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import llguidance

TRIAL_S = 2.0
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
            command, input=source.encode(), timeout=TRIAL_S, check=False, stdout=subprocess.DEVNULL, stderr=sys.stderr
        )
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def main() -> None:
    """Compile what comes on the standard input."""
    resource.setrlimit(resource.RLIMIT_AS, (TRIAL_BYTES, TRIAL_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (int(TRIAL_S) + 1, int(TRIAL_S) + 1))
    llguidance.LLMatcher.validate_grammar(sys.stdin.buffer.read().decode(), limits=LIMITS)


if __name__ == "__main__":
    main()
