"""Resource groups of both clients, side by side: each line names one definition in ``fw_sdk.operations``."""

from __future__ import annotations

from fw_sdk.methods import Group, asynchronous, sync
from fw_sdk.operations import (
    datasets,
    deployments,
    evaluations,
    evaluators,
    finetunes,
    inference,
    jobs,
    models,
    pipelines,
)


class Datasets(Group):
    """Validated rows."""

    create = sync(datasets.create)
    get = sync(datasets.get)
    list = sync(datasets.list_all)
    delete = sync(datasets.delete)
    check = sync(datasets.check)
    rows = sync(datasets.rows)
    overlap = sync(datasets.overlap)


class Evaluators(Group):
    """Code that scores rows."""

    create = sync(evaluators.create)
    get = sync(evaluators.get)
    list = sync(evaluators.list_all)
    delete = sync(evaluators.delete)
    check = sync(evaluators.check)


class Models(Group):
    """Base weights and adapters."""

    pull = sync(models.pull)
    estimate = sync(models.estimate)
    get = sync(models.get)
    list = sync(models.list_all)
    delete = sync(models.delete)


class Finetunes(Group):
    """Fine-tuning jobs."""

    create = sync(finetunes.create)
    plan = sync(finetunes.plan)
    estimate = sync(finetunes.estimate)
    preview = sync(finetunes.preview)
    get = sync(finetunes.get)
    list = sync(finetunes.list_all)
    cancel = sync(finetunes.cancel)
    resume = sync(finetunes.resume)
    delete = sync(finetunes.delete)


class Evaluations(Group):
    """Scores of a model."""

    create = sync(evaluations.create)
    plan = sync(evaluations.plan)
    get = sync(evaluations.get)
    list = sync(evaluations.list_all)
    cancel = sync(evaluations.cancel)
    resume = sync(evaluations.resume)
    delete = sync(evaluations.delete)
    scores = sync(evaluations.scores)


class Comparisons(Group):
    """Pairs of evaluations with a verdict."""

    create = sync(evaluations.create_comparison)
    get = sync(evaluations.get_comparison)
    list = sync(evaluations.list_comparisons)
    delete = sync(evaluations.delete_comparison)


class Deployments(Group):
    """Served models."""

    create = sync(deployments.create)
    get = sync(deployments.get)
    list = sync(deployments.list_all)
    delete = sync(deployments.delete)
    wait = sync(deployments.wait)


class Pipelines(Group):
    """The whole loop as one object."""

    create = sync(pipelines.create)
    plan = sync(pipelines.plan)
    get = sync(pipelines.get)
    list = sync(pipelines.list_all)
    cancel = sync(pipelines.cancel)
    resume = sync(pipelines.resume)
    wait = sync(pipelines.wait)


class Jobs(Group):
    """Jobs of every kind."""

    get = sync(jobs.get)
    list = sync(jobs.list_all)
    kinds = sync(jobs.kinds)
    start = sync(jobs.start)
    cancel = sync(jobs.cancel)
    resume = sync(jobs.resume)
    delete = sync(jobs.delete)
    logs = sync(jobs.logs)
    events = sync(jobs.events)
    past_events = sync(jobs.past_events)
    wait = sync(jobs.wait)


class Server(Group):
    """What the server itself answers."""

    chat = sync(inference.chat)
    answer = sync(inference.answer)
    chat_stream = sync(inference.chat_stream)
    complete = sync(inference.complete)
    health = sync(inference.health)
    overview = sync(inference.overview)
    shutdown = sync(inference.shutdown)


class AsyncDatasets(Group):
    """Validated rows, asynchronously."""

    create = asynchronous(datasets.create)
    get = asynchronous(datasets.get)
    list = asynchronous(datasets.list_all)
    delete = asynchronous(datasets.delete)
    check = asynchronous(datasets.check)
    rows = asynchronous(datasets.rows)
    overlap = asynchronous(datasets.overlap)


class AsyncEvaluators(Group):
    """Code that scores rows, asynchronously."""

    create = asynchronous(evaluators.create)
    get = asynchronous(evaluators.get)
    list = asynchronous(evaluators.list_all)
    delete = asynchronous(evaluators.delete)
    check = asynchronous(evaluators.check)


class AsyncModels(Group):
    """Base weights and adapters, asynchronously."""

    pull = asynchronous(models.pull)
    estimate = asynchronous(models.estimate)
    get = asynchronous(models.get)
    list = asynchronous(models.list_all)
    delete = asynchronous(models.delete)


class AsyncFinetunes(Group):
    """Fine-tuning jobs, asynchronously."""

    create = asynchronous(finetunes.create)
    plan = asynchronous(finetunes.plan)
    estimate = asynchronous(finetunes.estimate)
    preview = asynchronous(finetunes.preview)
    get = asynchronous(finetunes.get)
    list = asynchronous(finetunes.list_all)
    cancel = asynchronous(finetunes.cancel)
    resume = asynchronous(finetunes.resume)
    delete = asynchronous(finetunes.delete)


class AsyncEvaluations(Group):
    """Scores of a model, asynchronously."""

    create = asynchronous(evaluations.create)
    plan = asynchronous(evaluations.plan)
    get = asynchronous(evaluations.get)
    list = asynchronous(evaluations.list_all)
    cancel = asynchronous(evaluations.cancel)
    resume = asynchronous(evaluations.resume)
    delete = asynchronous(evaluations.delete)
    scores = asynchronous(evaluations.scores)


class AsyncComparisons(Group):
    """Pairs of evaluations with a verdict, asynchronously."""

    create = asynchronous(evaluations.create_comparison)
    get = asynchronous(evaluations.get_comparison)
    list = asynchronous(evaluations.list_comparisons)
    delete = asynchronous(evaluations.delete_comparison)


class AsyncDeployments(Group):
    """Served models, asynchronously."""

    create = asynchronous(deployments.create)
    get = asynchronous(deployments.get)
    list = asynchronous(deployments.list_all)
    delete = asynchronous(deployments.delete)
    wait = asynchronous(deployments.wait)


class AsyncPipelines(Group):
    """The whole loop as one object, asynchronously."""

    create = asynchronous(pipelines.create)
    plan = asynchronous(pipelines.plan)
    get = asynchronous(pipelines.get)
    list = asynchronous(pipelines.list_all)
    cancel = asynchronous(pipelines.cancel)
    resume = asynchronous(pipelines.resume)
    wait = asynchronous(pipelines.wait)


class AsyncJobs(Group):
    """Jobs of every kind, asynchronously."""

    get = asynchronous(jobs.get)
    list = asynchronous(jobs.list_all)
    kinds = asynchronous(jobs.kinds)
    start = asynchronous(jobs.start)
    cancel = asynchronous(jobs.cancel)
    resume = asynchronous(jobs.resume)
    delete = asynchronous(jobs.delete)
    logs = asynchronous(jobs.logs)
    events = asynchronous(jobs.events)
    past_events = asynchronous(jobs.past_events)
    wait = asynchronous(jobs.wait)


class AsyncServer(Group):
    """What the server itself answers, asynchronously."""

    chat = asynchronous(inference.chat)
    answer = asynchronous(inference.answer)
    chat_stream = asynchronous(inference.chat_stream)
    complete = asynchronous(inference.complete)
    health = asynchronous(inference.health)
    overview = asynchronous(inference.overview)
    shutdown = asynchronous(inference.shutdown)
