"""The evaluation program: ask the model for an answer to every row, score the answers, summarise.

``python -m engine.evals.job JOB_DIR`` with an ``EvaluateSpec``. A restarted attempt keeps the rows that are scored.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from engine.evals.asking import Answer, Identity, ServedModel
from engine.evals.constant import constant_baseline, distinct_answers
from engine.evals.evaluators import EvaluatorProcess
from engine.evals.prompts import FewShotExamples, build_prompt, row_seed
from engine.evals.replies import Scored, ScoreRange
from engine.evals.score_log import ScoredRow, ScoreLog
from engine.evals.statistics import mean_score, summarise
from engine.jobs.program import JobContext, main
from engine.jobs.rows import Row, referenced_rows
from engine.jobs.specs import EvaluateResult, EvaluateSpec, FewShotRows
from fw_sdk.types import ConstantAnswer, FwError, RowScore, ServedConfiguration

POLL_S = 0.1
PROGRESS_EVERY_S = 0.5
REHEARSED_ROWS = 3


class ModelChanged(Exception):
    """Another model answered than the one that answered before."""

    def __init__(self, before: Identity, after: Identity) -> None:
        super().__init__(f"{before} became {after}")
        self.before, self.after = before, after


def run(context: JobContext[EvaluateSpec]) -> EvaluateResult:
    """Evaluate; raises ``evaluator_failed`` if no row could be scored, or the reason why the model does not answer."""
    spec = context.spec
    rows = referenced_rows(spec.rows)[: spec.limit]
    if not rows:
        raise FwError(
            "invalid_argument",
            f"Dataset {spec.rows.name} has no rows in its split '{spec.rows.split}'.",
            not_done="Nothing was evaluated.",
            hint="choose another split or dataset",
        )
    few_shot = spec.few_shot
    examples = FewShotExamples(referenced_rows(few_shot.rows), few_shot.count, few_shot.seed) if few_shot else None
    with EvaluatorProcess(Path(spec.evaluator_path), spec.entry_function, spec.row_timeout_s) as evaluator:
        _rehearse(evaluator, rows)
        log = ScoreLog(context.dir, spec)
        try:
            asyncio.run(Evaluation(context, log, evaluator, examples, rows).run())
        except ModelChanged as change:
            log.clear()
            raise _model_changed(spec.model, change) from None
        constant = constant_baseline(evaluator, rows)
    return _result(spec, log, evaluator.score_range, constant, examples)


def _rehearse(evaluator: EvaluatorProcess, rows: Sequence[Row]) -> None:
    """Score a few rows' own answers first: an evaluator that cannot score those would waste the model's time."""
    with_answer = [row for row in rows if len(row.prompt) < len(row.messages)][:REHEARSED_ROWS]
    errors = []
    for row in with_answer:
        error = evaluator.score(row.messages, row.ground_truth, row.data).error
        if error is None:
            return
        errors.append((row.line, error))
    if errors:
        raise evaluator_failed("even on the rows' own answers", *errors[0])


def _shown(few_shot: FewShotRows, examples: FewShotExamples) -> dict[str, Any]:
    """Which examples stood in the prompt, in full: another draw from the same rows is another measurement."""
    drawn = {"count": few_shot.count, "seed": few_shot.seed, "lines": examples.lines}
    return {**drawn, "dataset": few_shot.rows.name, "digest": few_shot.rows.digest}


def evaluator_failed(when: str, line: int, error: str) -> FwError:
    """The error of an evaluation in which no row could be scored."""
    return FwError(
        "evaluator_failed",
        f"The evaluator fails {when}; the first time on line {line}: {error}.",
        not_done="The evaluation has no result.",
        hint="repair the evaluator, check it on a few rows, and start again",
        details={"line": line, "error": error},
    )


def _model_changed(model: str, change: ModelChanged) -> FwError:
    return FwError(
        "failed_precondition",
        f"'{model}' changed while it was evaluated: from {change.before} to {change.after}.",
        not_done="The evaluation has no result; its scores of two models were thrown away.",
        hint="start the evaluation again while the model stays as it is",
    )


def _require_asked(spec: EvaluateSpec, identity: Identity) -> None:
    """Raise unless the weights that answer are those that were to be scored."""
    if spec.model_digest not in (None, identity.model_digest):
        raise FwError(
            "failed_precondition",
            f"'{spec.model}' answers with weights {identity.model_digest[:19]}; this evaluation is of "
            f"{str(spec.model_digest)[:19]}.",
            not_done="Nothing was scored.",
            hint="evaluate what that name stands for now as a new evaluation",
        )


def _result(
    spec: EvaluateSpec,
    log: ScoreLog,
    score_range: ScoreRange | None,
    constant: ConstantAnswer | None,
    examples: FewShotExamples | None,
) -> EvaluateResult:
    scores = log.finish()
    failures = log.failures()
    if all(score.score is None for score in scores):
        kind, first = next(iter(failures.items()))
        if kind != "evaluator":
            raise FwError(
                kind, f"No row could be answered; the first: {first['error']}.", not_done="Nothing was scored."
            )
        raise evaluator_failed("on every row", first["line"], first["error"])
    identity = log.identity or Identity()
    few_shot = spec.few_shot
    same = {"distinct_answers": distinct_answers(scores), "constant": constant}
    return EvaluateResult(
        summary=summarise(scores, score_range).model_copy(update=same),
        configuration=ServedConfiguration(
            model=spec.model,
            model_digest=identity.model_digest,
            base_digest=identity.base_digest,
            dtype=identity.dtype,
            numerics=identity.numerics,
            template_digest=identity.template_digest,
            serving_digest=identity.serving_digest,
            sampling=spec.inference.to_wire(),
            few_shot=few_shot and examples and _shown(few_shot, examples),
        ),
        tokens_generated=sum(row.generated_tokens for row in log.rows.values()),
        tokens_prompt=sum(row.prompt_tokens for row in log.rows.values()),
        seconds=log.clock_s,
        failures=failures,
    )


class Evaluation:
    """One attempt: ``concurrency`` askers take rows from a queue, one evaluator process scores the answers.

    Its clock starts when the model has answered a request that is no row, and stands still while its server is away:
    what a worker's start takes is no cost of the work.
    """

    def __init__(
        self,
        context: JobContext[EvaluateSpec],
        log: ScoreLog,
        evaluator: EvaluatorProcess,
        examples: FewShotExamples | None,
        rows: Sequence[Row],
    ) -> None:
        self._context, self._spec, self._log = context, context.spec, log
        self._evaluator, self._examples, self._rows = evaluator, examples, rows
        self._earlier_s, self._started = log.clock_s, 0.0
        key = os.environ.get("FW_API_KEY")
        self._model = ServedModel(self._spec.base_url, self._spec.model, key, connections=self._spec.concurrency)
        self._reported = 0.0
        self._scoring = ThreadPoolExecutor(max_workers=1, thread_name_prefix="scoring")

    async def run(self) -> None:
        """Ask and score every row that is not scored yet; stops for a cancelled job."""
        work = asyncio.create_task(self._work())
        try:
            while not (await asyncio.wait({work}, timeout=POLL_S))[0]:
                self._context.check_cancelled()
            await work
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
            self._scoring.shutdown(cancel_futures=True)

    async def _work(self) -> None:
        async with self._model:
            if len(self._log.rows) < len(self._rows):
                await self._model.warm_up()
            self._start_clock()
            if self._log.rows:
                await self._resume()
            pending = [index for index, row in enumerate(self._rows) if row.line not in self._log.rows]
            queue = iter(pending)
            self._report(force=True)
            count = min(self._spec.concurrency, len(pending))
            askers = [asyncio.create_task(self._ask_all(queue)) for _ in range(count)]
            try:
                await asyncio.gather(*askers)
            finally:
                for asker in askers:
                    asker.cancel()
                await asyncio.gather(*askers, return_exceptions=True)
        self._report(force=True)

    async def _resume(self) -> None:
        """Go on with kept scores only if the first row that is left is answered by the model that earned them."""
        left = [index for index, row in enumerate(self._rows) if row.line not in self._log.rows]
        self._context.message(f"{len(self._log.rows)} rows were scored by an earlier attempt, {len(left)} are left")
        try:
            if left:
                await self._one(left[0])
        except ModelChanged as change:
            self._context.warning(f"the model changed since the earlier attempt; all rows are asked again ({change})")
            self._log.clear()
            self._earlier_s = 0.0
            self._start_clock()

    async def _ask_all(self, queue: Iterator[int]) -> None:
        for index in queue:
            await self._one(index)
            self._report()

    async def _one(self, index: int) -> None:
        """Ask and score one row, and keep the score."""
        row, seed = self._rows[index], row_seed(self._spec.inference.seed, self._rows[index].line)
        try:
            answer = await self._model.ask(build_prompt(row, self._examples), self._spec.inference, seed, row.tools)
        except FwError as error:
            if error.code != "context_length_exceeded":
                raise
            failed = RowScore(index=index, line=row.line, error=error.message)
            self._log.add(ScoredRow(failed, error.code, clock_s=self._clock_s()))
            return
        if self._log.identity is None:
            _require_asked(self._spec, answer.identity)
            self._log.identify(answer.identity)
        elif answer.identity != self._log.identity:
            raise ModelChanged(self._log.identity, answer.identity)
        scored = await asyncio.get_running_loop().run_in_executor(self._scoring, self._score, row, answer)
        self._keep(index, row, answer, scored)

    def _score(self, row: Row, answer: Answer) -> Scored:
        message: dict[str, Any] = {"role": "assistant", "content": answer.text}
        if answer.calls:
            message["tool_calls"] = answer.calls
        return self._evaluator.score([*row.prompt, message], row.ground_truth, row.data)

    def _keep(self, index: int, row: Row, answer: Answer, scored: Scored) -> None:
        score = RowScore(
            index=index,
            line=row.line,
            score=scored.score,
            output="\n".join(filter(None, (answer.text, *map(json.dumps, answer.calls)))),
            error=scored.error,
            finish_reason=answer.finish_reason,
            details=scored.details,
        )
        kind = "evaluator" if scored.score is None else None
        self._log.add(ScoredRow(score, kind, answer.prompt_tokens, answer.generated_tokens, self._clock_s()))

    def _start_clock(self) -> None:
        self._started = time.monotonic() - self._model.down_s

    def _clock_s(self) -> float:
        return self._earlier_s + time.monotonic() - self._started - self._model.down_s

    def _report(self, *, force: bool = False) -> None:
        """Progress with the running mean, at most twice a second."""
        now, done = time.monotonic(), len(self._log.rows)
        if force or now - self._reported > PROGRESS_EVERY_S:
            self._reported = now
            self._context.progress(done, len(self._rows), self._so_far(), unit="rows")

    def _so_far(self) -> str:
        scores = [row.score.score for row in self._log.rows.values()]
        if not scores:
            return ""
        failed = scores.count(None)
        mean = mean_score(scores, self._evaluator.score_range)
        return f"mean {mean:.3f} of {len(scores)} rows" + (f", {failed} of them without a score" if failed else "")


if __name__ == "__main__":
    sys.exit(main(EvaluateSpec, run))
