"""The first step of a pipeline: everything that can be known to be wrong is said before any time is spent."""

from __future__ import annotations

from engine.control.inventory.references import evaluator_of, ready_base, ready_dataset, rows_of
from engine.control.kinds.finetune import creation as finetunes
from engine.control.kinds.pipeline.plan import Plan
from engine.control.serving.context import ServingContext
from engine.evals.overlap import overlap
from engine.jobs.rows import Row
from fw_sdk.types import Estimate, FwError, Split


def check(services: ServingContext, plan: Plan) -> str:
    """One line on the rows and what training will take.

    Raises:
        FwError: ``failed_precondition`` if something is not ready, has no rows, or is on both sides of the split.
    """
    request = plan.request
    ready_base(services, request.base_model)
    evaluator = evaluator_of(services, request.evaluator)
    if evaluator.state != "ACTIVE":
        raise FwError("failed_precondition", f"Evaluator '{evaluator.id}' is {evaluator.state}.", param="evaluator")
    train = _rows(services, request.dataset, plan.training_split)
    scored = _rows(services, plan.scored_dataset, plan.scored_split)
    check_rows(plan, train, scored)
    _check_output(services, plan)
    finetunes.check_lengths(services, plan.finetune())
    estimated = finetunes.estimate_cost(services, plan.finetune())
    return f"{len(train)} rows to train on, {len(scored)} held out, none shared; {_words(estimated)}"


MAX_PAIRS_TOLD = 10


def check_rows(plan: Plan, train: list[Row], scored: list[Row]) -> None:
    """Raise unless both sides have rows and no question stands on both."""
    if not train or not scored:
        raise FwError(
            "failed_precondition",
            f"Dataset '{plan.request.dataset}' has {len(train)} rows to train on, and '{plan.scored_dataset}' "
            f"{len(scored)} rows to score.",
            not_done="nothing was trained",
            hint="add rows, create the dataset with a larger heldoutFraction, or name an evaluationDataset",
            param="evaluationDataset" if train else "dataset",
        )
    found = overlap(scored, train)
    if found.shared == 0:
        return
    pairs = ", ".join(f"{pair.line} and {pair.other_line}" for pair in found.pairs[:5])
    raise FwError(
        "failed_precondition",
        f"{found.shared} of the {found.rows} rows of '{plan.scored_dataset}' that would be scored ask what rows of "
        f"'{plan.request.dataset}' that would be trained on ask (lines {pairs}).",
        not_done="nothing was trained: a score on rows that were trained on measures memory",
        hint=_overlap_hint(plan),
        param="evaluationDataset" if plan.request.evaluation_dataset else "dataset",
        details={"overlap": found.model_copy(update={"pairs": found.pairs[:MAX_PAIRS_TOLD]}).to_wire()},
    )


def _overlap_hint(plan: Plan) -> str:
    if plan.request.evaluation_dataset:
        return "remove those rows from one of the two, or score the held-out rows of the dataset itself"
    return "their prompts differ only in case, spacing or system message: keep one row of each pair"


def _rows(services: ServingContext, name: str, split: Split) -> list[Row]:
    return rows_of(services.home, ready_dataset(services, name), split)


def _check_output(services: ServingContext, plan: Plan) -> None:
    taken = services.store.models.find(plan.output_model)
    job = services.store.jobs.find(plan.finetune_id)
    if taken is not None and (job is None or taken.job != job.name):
        raise FwError(
            "already_exists",
            f"There is already a model '{plan.output_model}'.",
            not_done="nothing was trained",
            hint="name another outputModel",
            param="outputModel",
        )


def _words(found: Estimate) -> str:
    seconds = f"about {found.seconds:.0f} s, " if found.seconds is not None else ""
    warnings = "".join(f"; {warning}" for warning in found.warnings)
    return f"training: {found.steps} steps, {seconds}{found.peak_memory_bytes / 2**30:.1f} GiB{warnings}"
