"""The worker process: load a model, listen, say that it is ready, serve until told to stop."""

from __future__ import annotations

import argparse
import asyncio
import errno
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fw_sdk.types import FwError

TOKEN_VARIABLE, KV_VARIABLE = "FW_WORKER_TOKEN", "FW_KV_GIB"
SHUTDOWN_GRACE_S = 5


@dataclass(frozen=True)
class Options:
    """The command line. ``adapters`` maps names to folders; port 0 takes a free one; no ``…_gib`` is the default."""

    model: Path
    name: str
    adapters: dict[str, str]
    host: str
    port: int
    ready_file: Path | None
    dtype: str
    device: str
    numerics: str
    kv_gib: float | None
    state_gib: float | None
    max_requests: int
    speculation: Literal["off", "lookup", "draft"]
    draft_model: Path | None
    draft_tokens: int


def main(argv: Sequence[str] | None = None) -> int:
    """Run a worker; returns the exit status: 0 after SIGTERM or SIGINT, else that of the error on stderr."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        options = _parse(argv)
        _run(options, _token())
    except FwError as error:
        print(f"error: {error.text()}", file=sys.stderr, flush=True)
        return error.exit_code
    return 0


def _parse(argv: Sequence[str] | None) -> Options:
    parser = argparse.ArgumentParser(prog="fw serve", description="Serve a model and its adapters over HTTP.")
    parser.add_argument("--model", type=Path, required=True, help="a model's folder or a .gguf file")
    parser.add_argument("--name", help="the base model's name in requests; default: the folder's name")
    parser.add_argument("--adapter", action="append", default=[], metavar="NAME=PATH", help="may be repeated")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--ready-file", type=Path, help="written once requests are answered")
    parser.add_argument("--dtype", default="auto", help="auto, stored, int8, int4, bfloat16 or float32")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--numerics", default="auto", help="auto, fast or exact")
    parser.add_argument(
        "--kv-gib", type=_gib, default=os.environ.get(KV_VARIABLE) or None, help="size of the key-value cache"
    )
    parser.add_argument("--state-gib", type=_gib, help="size of the recurrent states of a model that has them")
    parser.add_argument("--max-requests", type=int, default=512, help="running and waiting; more are refused")
    parser.add_argument("--speculation", help="off, lookup or draft; default: draft with a draft model, else off")
    parser.add_argument("--draft-model", type=Path, help="a smaller model with the same tokenizer")
    parser.add_argument("--draft-tokens", type=int, default=4, help="guesses per request and step at most")
    given = parser.parse_args(argv)
    name = given.name or given.model.name.removesuffix(".gguf")
    adapters: dict[str, str] = {}
    for item in given.adapter:
        adapter, separator, path = item.partition("=")
        if not (adapter and separator and path) or adapter in adapters or adapter == name:
            raise FwError(
                "invalid_argument",
                f"'{item}' is not NAME=PATH with a name of its own",
                not_done="no worker was started",
                param="--adapter",
            )
        adapters[adapter] = path
    where = (given.host, given.port, given.ready_file)
    how = (given.dtype, given.device, given.numerics, given.kv_gib, given.state_gib, max(1, given.max_requests))
    speculation: Any = given.speculation or ("draft" if given.draft_model else "off")  # the engine checks it
    guesses = (speculation, given.draft_model, given.draft_tokens)
    return Options(given.model, name, adapters, *where, *how, *guesses)


def _gib(value: str) -> float:
    number = float(value)
    if not 0 < number < float("inf"):
        raise ValueError(value)
    return number


def _size(gib: float | None) -> int | None:
    """In bytes."""
    return None if gib is None else max(1, int(gib * (1 << 30)))


def _token() -> str:
    token = os.environ.get(TOKEN_VARIABLE, "")
    if not token:
        raise FwError(
            "invalid_argument",
            f"the environment variable {TOKEN_VARIABLE} is not set",
            not_done="no worker was started",
            hint=f"set {TOKEN_VARIABLE} to a secret of your choice and send it as the bearer token",
        )
    return token


def _run(options: Options, token: str) -> None:
    from engine.catalog.embedding_config import EmbeddingConfig, read_any_config

    listener = _bind(options.host, options.port)
    # A wrong path or format is said before torch is imported, which takes seconds.
    if isinstance(read_any_config(options.model), EmbeddingConfig):
        _run_embeddings(options, token, listener)
    else:
        _run_generation(options, token, listener)


def _run_generation(options: Options, token: str, listener: socket.socket) -> None:
    import torch

    from engine.catalog import digest_model
    from engine.inference.config import EngineConfig
    from engine.inference.engine import Engine
    from engine.inference.loop import EngineLoop
    from engine.inference.request import Request, SamplingParams
    from engine.inference.runners import usual_running
    from engine.serving.app import create_app
    from engine.serving.served import Served

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    config = EngineConfig(
        kv_bytes=_size(options.kv_gib),
        state_bytes=_size(options.state_gib),
        max_running=usual_running(options.device),
        speculation=options.speculation,
        draft_tokens=options.draft_tokens,
    )
    held = {"dtype": options.dtype, "device": options.device, "numerics": options.numerics}
    engine = Engine.load(options.model, **held, config=config, draft_model=options.draft_model)
    if engine.packed:
        torch.set_num_threads(1)  # torch only draws tokens then; its idle threads would spin on the step's cores
    for name, path in options.adapters.items():
        engine.load_adapter(name, path)
    engine.generate([Request("warm-up", (0, 0), SamplingParams(max_tokens=2, temperature=0, ignore_eos=True))])
    print(engine.memory.text(), file=sys.stderr, flush=True)
    assert engine.renderer is not None
    facts = {
        "modelDigest": digest_model(options.model),
        "dtype": engine.format,
        "device": str(engine.device),
        "numerics": engine.numerics,
        "templateDigest": engine.renderer.template_digest,
    }
    loop = EngineLoop(engine, max_requests=options.max_requests)
    served = Served.of(options.name, loop, engine.renderer, facts["modelDigest"])
    for name, path in options.adapters.items():
        asyncio.run(served.digests.loaded(name, path))
    app = create_app(served, token=token, host=options.host)
    loop.start()
    try:
        _serve(app, listener, lambda: _announce(options, listener, facts))
    finally:
        loop.stop()


def _run_embeddings(options: Options, token: str, listener: socket.socket) -> None:
    if options.adapters:
        raise FwError(
            "invalid_argument",
            f"'{options.name}' is an embedding model, which takes no adapters",
            not_done="no worker was started",
            param="--adapter",
        )
    import torch

    from engine.catalog import digest_model
    from engine.inference import EmbeddingEngine, EmbeddingLoop
    from engine.serving.embeddings import ServedEmbeddings, create_embedding_app

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    engine = EmbeddingEngine.load(options.model, dtype=options.dtype, device=options.device)
    engine.embed(["warm-up"])
    print(f"memory: weights {engine.weight_bytes >> 20} MiB", file=sys.stderr, flush=True)
    assert engine.tokenizer is not None
    facts = {
        "modelDigest": digest_model(options.model),
        "dtype": engine.format,
        "device": str(engine.device),
        "numerics": engine.numerics,
        "templateDigest": engine.tokenizer.digest,
    }
    loop = EmbeddingLoop(engine)
    app = create_embedding_app(ServedEmbeddings.of(options.name, loop), token=token, host=options.host)
    loop.start()
    try:
        _serve(app, listener, lambda: _announce(options, listener, facts))
    finally:
        loop.stop()


def _bind(host: str, port: int) -> socket.socket:
    """A bound socket that does not listen yet.

    Raises:
        FwError: ``port_in_use``, or ``invalid_argument`` for an address that is not ours.
    """
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except (OSError, OverflowError) as error:
        listener.close()
        raise _cannot_listen(host, port, error) from error
    return listener


def _cannot_listen(host: str, port: int, error: Exception) -> FwError:
    not_done = "no worker was started"
    if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
        message = f"port {port} on {host} is in use"
        return FwError("port_in_use", message, not_done=not_done, hint="choose another --port, or 0 for a free one")
    return FwError("invalid_argument", f"cannot listen on {host} port {port}: {error}", not_done=not_done)


def _serve(app: Any, listener: socket.socket, announce: Callable[[], None]) -> None:
    """Serve until SIGTERM or SIGINT; requests in flight get a few seconds to end."""
    import uvicorn

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            announce()

    config = uvicorn.Config(
        app, log_level="warning", access_log=False, lifespan="off", timeout_graceful_shutdown=SHUTDOWN_GRACE_S
    )
    # uvicorn raises the signal again after its shutdown; by then it has done what it was for.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    host, port = listener.getsockname()[:2]
    try:
        asyncio.run(Server(config).serve(sockets=[listener]))
    except OSError as error:
        raise _cannot_listen(host, port, error) from error


def _announce(options: Options, listener: socket.socket, facts: dict[str, str]) -> None:
    from engine.jobs.files import write_json
    from engine.jobs.process import ProcessId

    host, port = listener.getsockname()[:2]
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    own = ProcessId.of(os.getpid())
    assert own is not None
    if options.ready_file is not None:
        write_json(options.ready_file, {"url": url, **own.to_json(), **facts})
    print(f"serving {options.name} at {url}", file=sys.stderr, flush=True)
