"""The command tree: which commands there are."""

from __future__ import annotations

import typer

from fw_sdk.cli.app import choose_globally, group
from fw_sdk.cli.commands import (
    comparisons,
    datasets,
    doctor,
    evaluations,
    examples,
    inference,
    jobs,
    loop,
    mcp,
    models,
    quickstart,
    server,
)


def build() -> typer.Typer:
    """The whole application."""
    app = group("Fine-tune, evaluate and deploy open models on this machine.")
    app.callback()(choose_globally)
    server.register(app)
    mcp.register(app)
    doctor.register(app)
    quickstart.register(app)
    examples.register(app)
    inference.register(app)
    models.register(app)
    datasets.register(app)
    evaluations.register(app)
    comparisons.register(app)
    loop.register(app)
    jobs.register(app)
    return app
