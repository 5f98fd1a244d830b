"""How long rows are in a model's tokens: counting, statistics, and renderers that are loaded once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from engine.catalog.reading import read_config
from engine.control.store import Store
from engine.jobs.rows import Row
from engine.text.renderer import Renderer
from fw_sdk.types import FwError, Model, ModelKind, ModelState, TokenStats

BOUNDS = (32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 131072)


@dataclass(frozen=True)
class TokenLengths:
    """Tokens of one rendered row and how many of them the loss counts; or why it cannot be rendered."""

    total: int = 0
    trained: int = 0
    problem: str = ""


class LengthCounter:
    """Renders rows with one model's renderer and remembers how long they are.

    Attributes:
        model: the model's id.
        context: the longest row that fits, in tokens.
        asked_for: whether rows are to fit this very model; else it is only one that is here to count with.
    """

    def __init__(self, model: str, context: int, renderer: Renderer, *, asked_for: bool) -> None:
        self.model = model
        self.context = context
        self.asked_for = asked_for
        self._renderer = renderer
        self.lengths: list[int] = []

    def count(self, row: Row) -> TokenLengths:
        """The row's lengths as it would be trained on, or as a prompt if it has no answer."""
        try:
            found = self._measure(row)
        except FwError as error:
            return TokenLengths(problem=error.message)
        self.lengths.append(found.total)
        return found

    def _measure(self, row: Row) -> TokenLengths:
        if row.messages[-1]["role"] == "assistant":
            ids, trained = self._renderer.render_training(row.messages, row.tools)
            return TokenLengths(len(ids), sum(trained))
        return TokenLengths(len(self._renderer.render(row.messages, tools=row.tools)))

    def stats(self) -> TokenStats | None:
        """Statistics of what was counted; None if nothing was."""
        lengths = sorted(self.lengths)
        if not lengths:
            return None
        bounds = [bound for bound in BOUNDS if bound < lengths[-1]]
        bounds.append(next((bound for bound in BOUNDS if bound >= lengths[-1]), lengths[-1]))
        counts = [sum(low < n <= high for n in lengths) for low, high in zip([0, *bounds], bounds, strict=False)]
        return TokenStats(
            model=self.model,
            total=sum(lengths),
            min=lengths[0],
            median=lengths[(len(lengths) - 1) // 2],
            p95=lengths[(95 * len(lengths) + 99) // 100 - 1],
            max=lengths[-1],
            histogram=list(zip(bounds, counts, strict=True)),
        )


@lru_cache(maxsize=4)
def load_renderer(path: str) -> Renderer:
    """The renderer of a model folder; model folders never change."""
    return Renderer.load(Path(path))


def counter_for(model: Model, *, asked_for: bool = True) -> LengthCounter:
    """A counter with the tokenizer, template and context of a READY base model."""
    assert model.path is not None
    context = model.context_length or read_config(Path(model.path)).max_context
    return LengthCounter(model.id, context, load_renderer(model.path), asked_for=asked_for)


def any_counter(store: Store) -> LengthCounter | None:
    """A counter for the oldest READY base model that can be used; None if there is none yet."""
    for model in store.models.all():
        if model.kind is ModelKind.BASE and model.state is ModelState.READY and model.path:
            try:
                return counter_for(model, asked_for=False)
            except (FwError, OSError):
                continue
    return None
