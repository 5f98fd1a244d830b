"""HTTP routes, one module per collection. Each module has a ``router``; the app includes those listed here."""

from engine.control.http.routes import (
    comparisons,
    datasets,
    deployments,
    evaluations,
    evaluators,
    finetunes,
    health,
    inference,
    jobs,
    models,
    pipelines,
)

ROUTERS = tuple(
    module.router
    for module in (
        health,
        datasets,
        evaluators,
        models,
        finetunes,
        evaluations,
        comparisons,
        jobs,
        deployments,
        pipelines,
        inference,
    )
)

__all__ = ["ROUTERS"]
