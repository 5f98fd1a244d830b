"""``fw up``, ``down``, ``status``, ``logs`` and ``serve``: starting and stopping the rooms."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fw_sdk.cli.app import command
from fw_sdk.cli.connect import connect
from fw_sdk.cli.output import emit_one, hint, short_id

if TYPE_CHECKING:
    from fw_sdk.daemon import Daemon

STOP_TIMEOUT_S = 60.0


def register(app: typer.Typer) -> None:
    """Add the commands."""
    command(app, "up")(up)
    command(app, "down")(down)
    command(app, "status")(status)
    command(app, "logs")(logs)
    command(app, "serve")(serve)


def up(
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Run in the background.")] = False,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="By default FW_PORT or 8642; 0 takes a free one.")
    ] = None,
) -> None:
    """Start the daemon. With --detach it prints the url once it answers; one that runs already is left as it is."""
    from fw_sdk.daemon import default_port, ensure_daemon, find_daemon
    from fw_sdk.types import FwError
    from fw_sdk.types.home import Home

    home = Home.from_environment()
    if detach:
        url = ensure_daemon(home, port=port)
        emit_one(_described(find_daemon(home), url), url)
        hint("fw status; fw logs -f; fw down")
        return
    running = find_daemon(home)
    if running is not None:
        raise FwError(
            "failed_precondition",
            f"a daemon of {home.root} already runs at {running.url} (pid {running.pid})",
            not_done="no second one was started",
            hint="fw status, or fw down",
        )
    from fw_sdk.cli.rooms import open_room

    serve_daemon = open_room("engine.control.http.daemon", "serve")
    serve_daemon(home, port=default_port() if port is None else port, mounts=(open_room("fw_mcp.http", "mount"),))


def down(
    stop_jobs: Annotated[bool, typer.Option("--stop-jobs", help="Cancel running jobs too.")] = False,
) -> None:
    """Stop the daemon and its workers. Running jobs live on, and the next daemon adopts them."""
    from fw_sdk.daemon import find_daemon
    from fw_sdk.types import FwError
    from fw_sdk.types.home import Home

    daemon = find_daemon(Home.from_environment())
    if daemon is None:
        hint("no daemon runs")
        return
    connect().shutdown(keep_jobs=not stop_jobs)
    deadline = time.monotonic() + STOP_TIMEOUT_S
    while daemon.alive:
        if time.monotonic() > deadline:
            raise FwError(
                "deadline_exceeded",
                f"the daemon (pid {daemon.pid}) is still stopping after {STOP_TIMEOUT_S:g} s",
                hint=f"fw logs; kill {daemon.pid}",
            )
        time.sleep(0.1)
    hint("stopped" if stop_jobs else "stopped; running jobs live on")


def status() -> None:
    """Show the daemon, the machine, and how much of everything there is. Exit code 9 if no daemon runs."""
    from fw_sdk.results.hints import SHELL, in_words_of

    client = connect()
    health, overview = client.health(), client.overview()
    emit_one(
        {
            "url": client.base_url,
            "version": health.version,
            "pid": health.pid,
            "evaluatorIsolation": health.evaluator_isolation,
            "device": overview.device.to_wire(),
            **overview.counts,
            "next": in_words_of(SHELL, overview.next),
        },
        client.base_url,
    )


def logs(
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, help="Show the last N lines.")] = 50,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Follow the log as it grows.")] = False,
) -> None:
    """The daemon's log."""
    from fw_sdk.types import FwError
    from fw_sdk.types.home import Home

    log = Home.from_environment().logs / "daemon.log"
    if not log.exists():
        raise FwError("not_found", f"there is no {log} yet", hint="fw up --detach writes it")
    for line in _tail(log, lines, follow):
        typer.echo(line)


def serve(
    model: Annotated[str, typer.Argument(help="A folder, a .gguf file, or the id of a model of the daemon's.")],
    adapter: Annotated[list[str] | None, typer.Option(help="NAME=PATH of a PEFT folder; repeatable.")] = None,
    name: Annotated[str | None, typer.Option(help="Name in requests; the model's own by default.")] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    dtype: Annotated[str, typer.Option(help="auto, stored, int8, int4, bfloat16 or float32.")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    numerics: Annotated[str, typer.Option(help="auto, fast, or exact: the same bits in any batch.")] = "auto",
    kv_gib: Annotated[
        float | None, typer.Option(help="Size of the key-value cache; FW_KV_GIB or by what is free.")
    ] = None,
    state_gib: Annotated[
        float | None, typer.Option(help="Size of the recurrent states, in models that have some.")
    ] = None,
    max_requests: Annotated[int, typer.Option(min=1, help="Running and waiting; more are refused with 429.")] = 512,
    speculation: Annotated[str | None, typer.Option(help="Guess tokens, same text: off, lookup or draft.")] = None,
    draft_model: Annotated[str | None, typer.Option(help="A smaller model with the same tokens; it guesses.")] = None,
    draft_tokens: Annotated[int, typer.Option(min=1, help="Guesses per request and step at most.")] = 4,
) -> None:
    """Serve one model alone: an OpenAI-compatible server without the daemon.

    The token is FW_WORKER_TOKEN, else the one in FW_HOME/token.
    """
    from fw_sdk.cli.rooms import open_room
    from fw_sdk.files import local_path
    from fw_sdk.types.home import Home

    path, default_name = _model_path(model)
    home = Home.from_environment().prepare()
    os.environ.setdefault("FW_WORKER_TOKEN", home.token())
    arguments = ["--model", str(path), "--name", name or default_name, "--host", host, "--port", str(port)]
    for pair in adapter or []:
        label, equals, folder = pair.partition("=")
        if not equals or not label:
            raise typer.BadParameter(f"'{pair}' is not NAME=PATH", param_hint="--adapter")
        arguments += ["--adapter", f"{label}={local_path(folder, 'adapter', not_done='nothing was served')}"]
    arguments += ["--dtype", dtype, "--device", device, "--numerics", numerics]
    arguments += ["--max-requests", str(max_requests), *(["--kv-gib", str(kv_gib)] if kv_gib is not None else [])]
    arguments += ["--state-gib", str(state_gib)] if state_gib is not None else []
    arguments += ["--draft-tokens", str(draft_tokens)]
    if speculation is not None:
        arguments += ["--speculation", speculation]
    if draft_model is not None:
        arguments += ["--draft-model", str(_model_path(draft_model)[0])]
    hint(f"token: {home.token_file}" if os.environ["FW_WORKER_TOKEN"] == home.token() else "token: FW_WORKER_TOKEN")
    raise typer.Exit(open_room("engine.serving", "main")(arguments))


def _described(daemon: Daemon | None, url: str) -> dict[str, object]:
    return {"url": url, "pid": daemon.pid, "version": daemon.version} if daemon else {"url": url}


def _model_path(model: str) -> tuple[Path, str]:
    """(path, name) of a local path, else of a READY base model that the daemon knows."""
    from fw_sdk.daemon import find_daemon
    from fw_sdk.files import local_path
    from fw_sdk.types import FwError
    from fw_sdk.types.home import Home

    path = Path(model).expanduser()
    names_a_file = path.exists() or "/" in model or path.suffix == ".gguf"
    if names_a_file or find_daemon(Home.from_environment()) is None:
        return local_path(path, "model", not_done="nothing was served"), path.stem if path.is_file() else path.name
    known = connect().models.get(model)
    if known.peft_details or not known.path:
        raise FwError(
            "failed_precondition",
            f"'{known.id}' is not a base model that is here",
            not_done="nothing was served",
            hint=f"fw serve {short_id(known.peft_details.base_model)} --adapter {known.id}={known.path}"
            if known.peft_details
            else f"fw model show {known.id}",
        )
    return Path(known.path), known.id


def _tail(log: Path, lines: int, follow: bool) -> Iterator[str]:
    with log.open(encoding="utf-8", errors="replace") as file:
        yield from [line.rstrip("\n") for line in file.readlines()[-lines:]]
        while follow:
            line = file.readline()
            if line:
                yield line.rstrip("\n")
            else:
                time.sleep(0.3)
