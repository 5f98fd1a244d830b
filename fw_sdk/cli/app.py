"""The command tree's own pieces: a Typer application whose every command takes ``--format``."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any

import typer

from fw_sdk.cli.output import FORMATS, choose_format, settings

FORMAT_HELP = "auto, human, agent, json or quiet; FW_FORMAT sets the default."


def _known_format(value: str | None) -> str | None:
    if value is not None and value not in FORMATS:
        raise typer.BadParameter(f"'{value}' is not one of {', '.join(FORMATS)}")
    return value


FormatOption = Annotated[
    str | None, typer.Option("--format", metavar="FORMAT", callback=_known_format, help=FORMAT_HELP)
]


def group(text: str) -> typer.Typer:
    """A noun: a group of verbs."""
    return typer.Typer(help=text, rich_markup_mode=None, no_args_is_help=True, pretty_exceptions_enable=False)


def command(app: typer.Typer, name: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a function as the command ``name`` and give it the option ``--format``."""

    def register(function: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(function, eval_str=True)

        @wraps(function)
        def wrapper(*arguments: Any, **named: Any) -> None:
            requested = named.pop("output_format")
            if requested:
                settings.format = choose_format(requested)
            function(*arguments, **named)

        kind = inspect.Parameter.KEYWORD_ONLY
        option = inspect.Parameter("output_format", kind, default=None, annotation=FormatOption)
        parameters = [*signature.parameters.values(), option]
        wrapper.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        wrapper.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        app.command(name)(wrapper)
        return function

    return register


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"fw {version('fw')}")
        raise typer.Exit


VersionOption = Annotated[
    bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
]


def choose_globally(output_format: FormatOption = None, version: VersionOption = False) -> None:
    """Fine-tune, evaluate and deploy open models on this machine."""
    settings.format = choose_format(output_format)
