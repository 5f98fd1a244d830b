"""Supervised fine-tuning of an adapter: steps, their loss and gradient, and what is kept between them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.models import CausalLM
from engine.training.batch import PackedRows, pack
from engine.training.checkpoints import Checkpoint
from engine.training.examples import Example
from engine.training.lanes import Lanes
from engine.training.optimizer import FlatAdamW, clip_gradient
from engine.training.packing import plan_lanes, plan_passes, plan_steps
from engine.training.schedule import learning_rate
from engine.training.trainable import TrainableAdapter
from fw_sdk.types import FwError, TrainingConfig
from kernels.linear_cross_entropy import linear_cross_entropy


@dataclass(frozen=True)
class StepReport:
    """What one optimiser step did.

    Attributes:
        step: its number, from 1.
        loss: mean negative log-probability of its trained tokens, before the step.
        learning_rate: of the step.
        gradient_norm: before clipping.
        tokens: tokens of its rows.
        trained_tokens: those that the loss counts.
        seconds: wall time.
    """

    step: int
    loss: float
    learning_rate: float
    gradient_norm: float
    tokens: int
    trained_tokens: int
    seconds: float


class Trainer:
    """Trains ``adapter`` on ``examples``; ``run`` can be left at any step and continued from a checkpoint.

    Attributes:
        adapter: what is trained.
        total_steps: of the whole run.
        done_steps: taken so far, over all attempts.
        losses: (step, loss) of each of them.
        seconds: time spent in them.
    """

    def __init__(
        self, model: CausalLM, adapter: TrainableAdapter, examples: Sequence[Example], config: TrainingConfig
    ) -> None:
        self.adapter = adapter
        self.done_steps = 0
        self.losses: list[tuple[int, float]] = []
        self.seconds = 0.0
        self._model = model
        self._device = model.device
        self._examples = examples
        self._lengths = [len(example.tokens) for example in examples]
        self._config = config
        self._optimizer = FlatAdamW(adapter.master, weight_decay=config.optimizer_weight_decay)
        threads = torch.get_num_threads() if model.device.type == "cpu" else 1
        self._lane_count = plan_lanes(threads, config.batch_size)
        self._lanes = Lanes(self._lane_count, threads)
        self._plan = plan_steps(self._lengths, batch_size=config.batch_size, epochs=config.epochs, seed=config.seed)
        self.total_steps = len(self._plan)

    def run(self, after_step: Callable[[StepReport], None]) -> None:
        """Take the steps that are left, calling ``after_step`` after each.

        Raises:
            FwError: ``training_diverged`` if the loss or its gradient is not finite; the weights keep the last step.
        """
        while self.done_steps < self.total_steps:
            after_step(self._step())

    def evaluate(self, examples: Sequence[Example]) -> float:
        """Mean loss over all trained tokens of ``examples``."""
        lengths = [len(example.tokens) for example in examples]
        passes = plan_passes(range(len(examples)), lengths, lanes=self._lane_count)
        sums = self._lanes.map(lambda rows: self._loss_sum(pack([examples[row] for row in rows], self._device)), passes)
        return sum(sums) / sum(example.trained_tokens for example in examples)

    def checkpoint(self) -> Checkpoint:
        """The state after the last step; its tensors are this object's own."""
        optimizer = self._optimizer
        return Checkpoint(
            self.done_steps, self.adapter.master, optimizer.first, optimizer.second, list(self.losses), self.seconds
        )

    def restore(self, checkpoint: Checkpoint) -> None:
        """Continue behind ``checkpoint``."""
        self.adapter.master.copy_(checkpoint.master)
        self.adapter.refresh()
        self._optimizer.first.copy_(checkpoint.first)
        self._optimizer.second.copy_(checkpoint.second)
        self._optimizer.steps = self.done_steps = checkpoint.step
        self.losses = list(checkpoint.losses)
        self.seconds = checkpoint.seconds

    def loss_and_gradient(self, rows: Sequence[int]) -> tuple[float, Tensor]:
        """Mean loss of the trained tokens of ``rows``, and its gradient in the adapter's master weights, [n] f32.

        The passes are added in their own order, so the result does not depend on which of them ended first.
        """
        trained = sum(self._examples[row].trained_tokens for row in rows)
        passes = plan_passes(rows, self._lengths, lanes=self._lane_count)
        parts = self._lanes.map(lambda chosen: self._pass(chosen, trained), passes)
        gradient = parts[0][1]
        for _, more in parts[1:]:
            gradient += more
        # Losses are read last: reading one waits for the device, and the next pass would begin only then.
        return sum(float(loss) for loss, _ in parts), gradient

    def _pass(self, rows: Sequence[int], trained: int) -> tuple[Tensor, Tensor]:
        """What ``rows`` contribute to a step's loss over ``trained`` tokens, [] f32, and to its gradient, [n] f32."""
        batch = pack([self._examples[row] for row in rows], self._device)
        loss = self._losses(batch).sum() / trained
        return loss.detach(), self.adapter.gradient(loss)

    def _step(self) -> StepReport:
        started = time.perf_counter()
        rows = self._plan[self.done_steps].rows
        rate = learning_rate(
            self.done_steps,
            self.total_steps,
            peak=self._config.learning_rate,
            warmup_steps=self._config.learning_rate_warmup_steps,
        )
        loss, gradient = self.loss_and_gradient(rows)
        norm = clip_gradient(gradient, self._config.max_gradient_norm)
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise _diverged(self.done_steps + 1, loss, norm, self._config)
        self._optimizer.step(self.adapter.master, gradient, rate)
        self.adapter.refresh()
        self.done_steps += 1
        self.losses.append((self.done_steps, loss))
        seconds = time.perf_counter() - started
        self.seconds += seconds
        tokens = sum(self._lengths[row] for row in rows)
        trained = sum(self._examples[row].trained_tokens for row in rows)
        return StepReport(self.done_steps, loss, rate, norm, tokens, trained, seconds)

    @torch.no_grad()
    def _loss_sum(self, batch: PackedRows) -> float:
        return float(self._losses(batch).sum())

    def _losses(self, batch: PackedRows) -> Tensor:
        """[N] f32: the loss of every trained token."""
        hidden = self._model(batch.token_ids, batch.positions, batch.attention, self.adapter, batch.predictors)
        return linear_cross_entropy(hidden, self._model.head, batch.targets)


def _diverged(step: int, loss: float, norm: float, config: TrainingConfig) -> FwError:
    return FwError(
        "training_diverged",
        f"In step {step} the loss is {loss} and its gradient's length {norm}.",
        not_done="No adapter was written.",
        hint=f"lower learningRate (it is {config.learning_rate:g}), for example to {config.learning_rate / 4:g}",
        details={"step": step, "learningRate": config.learning_rate},
    )
