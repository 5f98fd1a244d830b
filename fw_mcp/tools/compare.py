"""``compare``: is one model better than another, and what to do about it."""

from __future__ import annotations

from typing import Annotated

from mcp.types import CallToolResult
from pydantic import Field

from fw_mcp.platform import Platform
from fw_mcp.results import reply
from fw_mcp.server import AgentServer, hints
from fw_mcp.views import after_comparison, comparison_view, short
from fw_sdk.client import AsyncClient
from fw_sdk.types import Comparison, Evaluation, FwError, JobState, Verdict

MEANING = {
    Verdict.BETTER: "the difference is above 0 beyond chance: 95 % interval, and McNemar's test for 0/1 scores",
    Verdict.WORSE: "the difference is below 0 beyond chance: 95 % interval, and McNemar's test for 0/1 scores",
    Verdict.INCONCLUSIVE: "these rows do not decide: a difference of either sign is possible",
}


def register(server: AgentServer, platform: Platform) -> None:
    """Add ``compare``."""

    @server.tool(annotations=hints("Compare"))
    async def compare(
        baseline: Annotated[str, Field(description="evaluation or model id")],
        candidate: Annotated[str, Field(description="evaluation or model id")],
    ) -> CallToolResult:
        """Compare two evaluations, or two models by their evaluations on the same rows and evaluator, row by row:
        difference with 95 % interval, wins/losses/ties, verdict (better, worse, inconclusive) and what it asks for.
        Runs nothing: customize makes the evaluations."""
        async with platform.session() as client:
            one, other = await _pair(client, short(baseline) or baseline, short(candidate) or candidate)
            comparison = await _stored(client, one, other)
            if comparison is None:
                platform.check_may_write("make a comparison that is not stored yet")
                comparison = await client.comparisons.create(one.id, other.id)
        return reply(_fields(comparison, one, other), after_comparison(comparison))


def _fields(comparison: Comparison, one: Evaluation, other: Evaluation) -> dict[str, object]:
    view = comparison_view(comparison) or {}
    view["baseline"] = {**view["baseline"], "model": short(one.model)}
    view["candidate"] = {**view["candidate"], "model": short(other.model)}
    return {**view, "meaning": MEANING[comparison.verdict]}


async def _stored(client: AsyncClient, one: Evaluation, other: Evaluation) -> Comparison | None:
    """The comparison of this very pair, if there is one, so that asking again adds nothing."""
    async for known in client.comparisons.list():
        if (short(known.baseline), short(known.candidate)) == (one.id, other.id):
            return known
    return None


async def _pair(client: AsyncClient, baseline: str, candidate: str) -> tuple[Evaluation, Evaluation]:
    """The evaluations that two names stand for, on the same rows with the same evaluator.

    A model stands for its newest evaluation that fits; as the baseline, for its best one, so that a few-shot
    baseline is not left out.
    """
    done = [item for item in await _evaluations(client) if item.state is JobState.COMPLETED and item.summary]
    ones, others = _named(done, baseline, "baseline"), _named(done, candidate, "candidate")
    for other in others:
        fitting = [one for one in ones if _measured(one) == _measured(other) and one.id != other.id]
        if fitting:
            return max(fitting, key=lambda item: item.summary.mean if item.summary else 0.0), other
    raise FwError(
        "failed_precondition",
        f"'{baseline}' and '{candidate}' have no finished evaluations on the same rows with the same evaluator.",
        not_done="Nothing was compared.",
        hint="customize(...) evaluates base and tuned model on the same rows",
    )


async def _evaluations(client: AsyncClient) -> list[Evaluation]:
    found = [item async for item in client.evaluations.list()]
    return sorted(found, key=lambda item: item.create_time, reverse=True)


def _named(evaluations: list[Evaluation], name: str, param: str) -> list[Evaluation]:
    exact = [item for item in evaluations if item.id == name]
    found = exact or [item for item in evaluations if short(item.model) == name]
    if found:
        return found
    models = sorted({short(item.model) or "" for item in evaluations})
    ids = ", ".join(item.id for item in evaluations[:6])
    raise FwError(
        "not_found",
        f"No finished evaluation is called '{name}', and no model of that name was evaluated."
        + (f" Models: {', '.join(models)}. Newest evaluations: {ids}." if ids else " There is no evaluation yet."),
        not_done="Nothing was compared.",
        hint="customize(...) evaluates models",
        param=param,
    )


def _measured(evaluation: Evaluation) -> tuple[object, ...]:
    rows = evaluation.summary.n if evaluation.summary else None
    return evaluation.dataset_digest, evaluation.input_split, evaluation.evaluator_digest, rows
