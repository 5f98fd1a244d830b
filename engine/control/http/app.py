"""The composition of the control plane: services, background components, middleware and routes of one app."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache

from fastapi import Depends, FastAPI
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response

from engine.control.access.authentication import AccessMiddleware
from engine.control.gateway.relay import Gateway
from engine.control.http.errors import ErrorMiddleware, install_handlers
from engine.control.http.head import HeadMiddleware
from engine.control.http.idempotency import IdempotencyMiddleware
from engine.control.http.lock import HomeLock
from engine.control.http.openapi import openapi_json
from engine.control.http.queries import known_query
from engine.control.http.routes import own_routers, routers
from engine.control.http.services import Component, Services
from engine.control.inventory.files import clean_up
from engine.control.jobs.service import JobService
from engine.control.kinds import KINDS
from engine.control.kinds.pull.creation import fail_abandoned
from engine.control.serving.deployments import Deployments
from engine.control.serving.workers import Workers
from engine.control.settings import Settings
from engine.control.store import Store
from engine.control.workflows.pipelines import Pipelines
from fw_sdk.types.home import Home

log = logging.getLogger("fw.app")

Mount = Callable[[FastAPI, Callable[[], str], Home], None]
"""Adds another server to the app, given a function that tells the daemon's url, and the home with its tokens."""


@dataclass
class Ending:
    """What is to live on when the app ends. A plain end keeps everything; ``:shutdown`` may say otherwise."""

    keep_jobs: bool = True
    keep_workers: bool = True


def create_app(home: Home, settings: Settings | None = None, mounts: tuple[Mount, ...] = ()) -> FastAPI:
    """The control plane of one home, as an app that any ASGI server can run.

    Raises:
        FwError: ``failed_precondition`` if another daemon holds the home or its database cannot be used.
    """
    settings = settings or Settings()
    home.prepare()
    lock = HomeLock(home)
    try:
        services = _services(home, settings)
    except BaseException:
        lock.release()
        raise
    components = _components(services)
    ending = Ending()

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        await services.store.run(fail_abandoned, services)
        await asyncio.to_thread(clean_up, services)
        started: list[Component] = []
        try:
            for component in components:
                started.append(component)
                await component.start()
            yield
        finally:
            await _stop(started, ending)
            await asyncio.to_thread(services.store.close)
            lock.release()

    app = FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    app.state.services, app.state.ending = services, ending
    others, own = routers(), own_routers()
    app.state.loops = tuple(component.loop for component in components)
    for router in others:
        app.include_router(router)
    for router in own:
        app.include_router(router, dependencies=[Depends(known_query)])
    routes = [one for router in (*others, *own) for one in router.routes if isinstance(one, APIRoute)]
    _serve_document(app, routes)
    install_handlers(app, routes)
    app.add_middleware(IdempotencyMiddleware, replies=services.store.replies, limit_bytes=settings.max_json_bytes)
    app.add_middleware(HeadMiddleware)
    app.add_middleware(AccessMiddleware, token=home.token(), reading_token=home.reading_token())
    app.add_middleware(ErrorMiddleware)
    for mount in mounts:
        mount(app, lambda: settings.base_url, home)
    return app


def _serve_document(app: FastAPI, routes: list[APIRoute]) -> None:
    """``/openapi.json``: the same on every machine of one version, so it needs no token."""
    document = cache(lambda: openapi_json(app, routes))

    def openapi(_request: Request) -> Response:
        return Response(document(), media_type="application/json")

    app.add_route("/openapi.json", openapi)


def _services(home: Home, settings: Settings) -> Services:
    store = Store(home.database)
    workers = Workers(home)
    deployments = Deployments(store, workers, settings.base_url)
    return Services(
        home=home,
        settings=settings,
        store=store,
        jobs=JobService(home, store, settings, KINDS),
        workers=workers,
        deployments=deployments,
        gateway=Gateway(store, workers, deployments),
    )


def _components(services: Services) -> tuple[Component, ...]:
    """What runs in the background, in the order in which it starts; it stops in the opposite order."""
    return (services.workers, services.deployments, services.jobs, Pipelines(services))


async def _stop(components: list[Component], ending: Ending) -> None:
    for component in reversed(components):
        keep = ending.keep_jobs if isinstance(component, JobService) else ending.keep_workers
        try:
            await component.stop(keep_processes=keep)
        except Exception:
            log.exception("stopping %s failed", type(component).__name__)
