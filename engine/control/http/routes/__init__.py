"""HTTP routes, one module per collection. Each module has a ``router``; jobs of every kind share theirs."""

from fastapi import APIRouter

from engine.control.http import paths as paths  # registers ``{…:id}`` before the routes are made
from engine.control.http.routes import (
    comparisons,
    datasets,
    deployments,
    evaluations,
    evaluators,
    finetunes,
    health,
    inference,
    job_kinds,
    jobs,
    models,
)
from engine.control.kinds import KINDS

OF_PROTOCOLS = (inference,)
OWN = (health, datasets, evaluators, models, finetunes, evaluations, comparisons, jobs, deployments)


def routers() -> list[APIRouter]:
    """The routers of protocols that others shaped."""
    return [module.router for module in OF_PROTOCOLS]


def own_routers() -> list[APIRouter]:
    """The routers of our own API, for the kinds of job that are registered now."""
    of_kinds = [job_kinds.kind_router(kind) for kind in KINDS.values() if kind.type.collection != jobs.COLLECTION]
    return [*(module.router for module in OWN), job_kinds.kinds, *of_kinds]


__all__ = ["own_routers", "routers"]
