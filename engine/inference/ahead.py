"""Steps launched before the one before them is read: the host's work on a step happens while the next one runs.

What a step draws stays on the device, where the next step finds it; to its sequences it is a placeholder token. The
host learns one step later what the token was, and that it was a sequence's last: what the next step drew for that
sequence is then dropped, with the request's pages. All of it needs requests whose tokens are drawn on the device alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from engine.inference.answer import Live
from engine.inference.drawing import Drawing, drawings
from engine.inference.gpu_runner import Launched
from engine.inference.scheduler import StepPlan
from engine.inference.shaping import Shaping


@runtime_checkable
class AheadRunner(Protocol):
    """A runner whose steps can be launched without being waited for.

    Attributes:
        ahead: whether they are to be.
    """

    ahead: bool

    def launch(self, plan: StepPlan, adapters: Mapping[int, Any], shapings: Mapping[str, Shaping]) -> Launched:
        """Queue the plan and its draws; ``shapings`` by request."""
        ...


@dataclass(frozen=True)
class PendingStep:
    """A step that was launched and whose tokens were not read yet.

    Attributes:
        launched: what it will have drawn.
        lives: the requests that it draws for, by id, as they were at its launch.
        versions: of the weights that each is computed with, by id.
    """

    launched: Launched
    lives: Mapping[str, Live]
    versions: Mapping[str, int]

    def collect(self, live: Mapping[str, Live]) -> list[Drawing]:
        """What it drew, for the requests of ``live`` that are still the same; waits for it."""
        drawn = self.launched.pending.read()
        return [
            drawing
            for drawing in drawings(self.launched.rows, drawn, self.versions)
            if live.get(drawing.sequence.id) is self.lives[drawing.sequence.id]
        ]


def launch_step(
    runner: AheadRunner,
    plan: StepPlan,
    adapters: Mapping[int, Any],
    live: Mapping[str, Live],
    version: Callable[[Live], int],
) -> PendingStep:
    """Launch ``plan`` with placeholders for its tokens; record it with ``Scheduler.advance`` as if it were computed."""
    shapings = {id_: one.shaping for id_, one in live.items() if one.shaping is not None}
    launched = runner.launch(plan, adapters, shapings)
    ids = [row.sequence.id for row in launched.rows]
    for row in launched.rows:
        row.sequence.placeholders += 1
    return PendingStep(launched, {id_: live[id_] for id_ in ids}, {id_: version(live[id_]) for id_ in ids})


def draws_on_device(live: Iterable[Live]) -> bool:
    """Whether no request needs the host between its logits and its token, or logits of its prompt."""
    return all((one.shaping is None or one.shaping.on_device) and one.scores is None for one in live)
