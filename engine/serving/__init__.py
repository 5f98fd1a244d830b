"""A worker's HTTP: an OpenAI-compatible server for one base model and its adapters. `main` is the process."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run a worker until it is told to stop; returns its exit status."""
    from engine.serving.worker import main as run

    return run(argv)
