"""HTTP routes, one module per collection. Each module has a ``router``; jobs of every kind share theirs."""

from fastapi import APIRouter

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

MODULES = (health, datasets, evaluators, models, finetunes, evaluations, comparisons, jobs, deployments, inference)


def routers() -> list[APIRouter]:
    """Every router of the app, for the kinds of job that are registered now."""
    of_kinds = [job_kinds.kind_router(kind) for kind in KINDS.values() if kind.type.collection != jobs.COLLECTION]
    return [*(module.router for module in MODULES), job_kinds.kinds, *of_kinds]


__all__ = ["routers"]
