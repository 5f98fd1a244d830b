"""``fw doctor``: what this machine has, and how to mend what it lacks."""

from __future__ import annotations

import typer

from fw_sdk.cli.app import command
from fw_sdk.cli.output import emit_list

COLUMNS = {
    "id": lambda finding: finding.id,
    "status": lambda finding: finding.status,
    "message": lambda finding: finding.message,
    "fix": lambda finding: finding.fix,
}


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "doctor")(doctor)


def doctor() -> None:
    """Check this machine. Exit code 1 if something will not work."""
    from fw_sdk.doctor import run_checks
    from fw_sdk.types.home import Home

    findings = run_checks(Home.from_environment())
    emit_list(findings, COLUMNS)
    if any(finding.status == "fail" for finding in findings):
        raise typer.Exit(1)
