"""``compare``: is one model better than another, and what to do about it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from mcp.types import CallToolResult
from pydantic import Field

from fw_mcp.comparison_picture import address, image, png_of
from fw_mcp.platform import Platform
from fw_mcp.results import page, reply, untrusted
from fw_mcp.scored_rows import Row, ends, rows_of
from fw_mcp.server import AgentServer, hints
from fw_mcp.tools.arguments import Cursor, Detail, Grep, pattern_of
from fw_mcp.views import after_comparison, comparison_view, short
from fw_sdk.client import AsyncClient
from fw_sdk.patterns import Pattern
from fw_sdk.results.caveats import comparison_caveats, cut_warning, score_warning
from fw_sdk.results.next_steps import Setting, setting_among
from fw_sdk.types import Comparison, Evaluation, FwError, JobState, RowScore, Verdict

ROWS = 10
MEANING = {
    Verdict.BETTER: "the difference is above 0 beyond chance by {test}",
    Verdict.WORSE: "the difference is below 0 beyond chance by {test}",
    Verdict.INCONCLUSIVE: "these rows do not decide: by {test} it may be chance",
    Verdict.INVALID: "more than 2 % of a side's rows have no score, so that the others say nothing; no gate passes it",
}


def register(server: AgentServer, platform: Platform) -> None:
    """Add ``compare``."""

    @server.tool(annotations=hints("Compare", opens=True))
    async def compare(
        baseline: Annotated[str, Field(description="evaluation or model id")],
        candidate: Annotated[str, Field(description="evaluation or model id")],
        detail: Detail = "concise",
        grep: Grep = None,
        cursor: Cursor = 0,
    ) -> CallToolResult:
        """Compare two evaluations, or two models by their evaluations on the same rows and evaluator, row by row:
        difference with 95 % interval, wins/losses/ties, verdict (better, worse, inconclusive, invalid), what follows.
        Runs nothing: customize makes the evaluations. full adds a picture and the rows that differ, or match grep."""
        pattern = pattern_of(grep)
        async with platform.session() as client:
            one, other = await _pair(client, short(baseline) or baseline, short(candidate) or candidate)
            comparison = await _stored(client, one, other)
            if comparison is None:
                platform.check_may_write("make a comparison that is not stored yet")
                comparison = await client.comparisons.create(one.id, other.id)
            following = after_comparison(comparison, await _setting(client, comparison, one))
            fields = _fields(comparison, one, other, detail == "full")
            if detail == "concise" and pattern is None:
                return reply(fields, following)
            differing = await _differing(client, comparison, one, other, pattern)
            rows = await rows_of(client, other)
            pictures = [image(await png_of(client, comparison))] if detail == "full" and not cursor else []
        shown = page(differing, lambda pair: _row(pair, rows), cursor, ROWS)
        if shown.following is not None:
            again = f"compare(baseline='{one.id}', candidate='{other.id}', detail='full', cursor={shown.following})"
            following = f"{following}; {again} shows more rows"
        fields |= {"rows": shown.shown, "rows_in_all": shown.total, "picture": address(comparison)}
        return reply(fields, following, *pictures)


def _fields(comparison: Comparison, one: Evaluation, other: Evaluation, full: bool) -> dict[str, Any]:
    view = comparison_view(comparison, full) or {}
    for side, item in (("baseline", one), ("candidate", other)):
        examples = (item.configuration.few_shot or {}).get("count") if item.configuration else None
        view[side] = {**view[side], "model": short(item.model), **({"few_shot": examples} if examples else {})}
    said = {short(one.model): cut_warning(one.summary)} | {short(other.model): score_warning(other.summary)}
    warnings = [f"{name}: {words}" for name, words in said.items() if words] + comparison_caveats(comparison)
    return {**view, "meaning": _meaning(comparison), "warning": ". ".join(warnings) or None}


def _meaning(comparison: Comparison) -> str:
    test = "its 95 % interval" if comparison.p_value is None else "its 95 % interval and McNemar's test"
    return MEANING[comparison.verdict].format(test=test)


@dataclass(frozen=True)
class Scored:
    """One row as both models answered it, and what the candidate scored more, rows without a score as in the delta."""

    before: RowScore
    after: RowScore
    delta: float


async def _differing(
    client: AsyncClient, comparison: Comparison, one: Evaluation, other: Evaluation, pattern: Pattern | None
) -> list[Scored]:
    """Rows with another score, losses first; with a pattern, all rows of which an answer matches it."""
    before = {score.line: score async for score in client.evaluations.scores(one.id)}
    after = [(before[score.line], score) async for score in client.evaluations.scores(other.id)]
    pairs = [Scored(*pair, comparison.row_difference(*pair) or 0.0) for pair in after]
    if pattern is None:
        found = [pair for pair in pairs if pair.delta]
    else:
        texts = [f"{pair.before.output}\n{pair.after.output}" for pair in pairs]
        fits = await asyncio.to_thread(pattern.among, texts)
        found = [pair for pair, fit in zip(pairs, fits, strict=True) if fit]
    return sorted(found, key=lambda pair: (pair.delta, pair.after.line))


def _row(pair: Scored, rows: Mapping[int, Row]) -> dict[str, Any]:
    row = rows.get(pair.after.index)
    return {
        "line": pair.after.line,
        "scores": [pair.before.score, pair.after.score],
        "asked": untrusted(ends(row.asked, 200)) if row else None,
        "wanted": untrusted(row.wanted, 160) if row and row.wanted else None,
        "baseline_answer": untrusted(pair.before.output, 240),
        "candidate_answer": untrusted(pair.after.output, 240),
    }


async def _setting(client: AsyncClient, comparison: Comparison, one: Evaluation) -> Setting:
    """What is served of either side, and the examples in the baseline's prompt."""
    deployments = [item async for item in client.deployments.list()]
    examples = (one.configuration.few_shot or {}) if one.configuration else {}
    return setting_among(comparison, deployments, int(examples.get("count", 0)))


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
        hint="compare(baseline=..., candidate=...) with two of these" if ids else "customize(...) evaluates models",
        param=param,
    )


def _measured(evaluation: Evaluation) -> tuple[object, ...]:
    rows = evaluation.summary.n if evaluation.summary else None
    return evaluation.dataset_digest, evaluation.input_split, evaluation.evaluator_digest, rows
