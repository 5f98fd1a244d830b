"""Command lines of job programs: control names them and never imports them."""

from __future__ import annotations

import sys


def python(module: str) -> tuple[str, ...]:
    """The command line that runs a module with this very interpreter."""
    return (sys.executable, "-m", module)
