"""The `fw` command."""

from __future__ import annotations

import sys


def main() -> None:
    """Entry point of the installed command; never returns."""
    from fw_sdk.cli.run import run

    sys.exit(run(sys.argv[1:]))
