"""The check itself: sample under traffic, recompute, compare bits."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from engine.inference.engine import Engine
from engine.inference.exactness.recompute import Recomputation
from engine.inference.exactness.traffic import PHASES, Answer, Happened, Traffic
from engine.models import Adapter, CausalLM, PackedModel, load_adapter, new_adapter, save_adapter

RANKS = {"narrow": 3, "wide": 16}
"""Adapters of the check, by name; the wide one changes fewer projections."""
KV_BYTES = 64 << 20


@dataclass(frozen=True)
class Difference:
    """The first log-probability whose bits differ."""

    request: str
    adapter: str | None
    position: int
    token: int
    sampled: float
    recomputed: float

    def text(self) -> str:
        """One line for a person."""
        beside = f" (adapter {self.adapter})" if self.adapter else ""
        return (
            f"request {self.request}{beside}, position {self.position}, token {self.token}: "
            f"sampled {self.sampled!r} {_bits(self.sampled)}, recomputed {self.recomputed!r} {_bits(self.recomputed)}"
        )


@dataclass(frozen=True)
class Report:
    """What a check found.

    Attributes:
        model: its name.
        format: how its weights are held.
        numerics: of the engine.
        tokens: compared.
        different: of these, how many differ.
        first: the first that does.
        happened: the traffic.
    """

    model: str
    format: str
    numerics: str
    tokens: int
    different: int
    first: Difference | None
    happened: Happened


def check(model: CausalLM | PackedModel, name: str, tokens: int, *, seed: int = 0, numerics: str = "exact") -> Report:
    """Sample about ``tokens`` tokens from ``model`` and recompute their log-probabilities.

    Args:
        model: in full precision or packed.
        name: for the report.
        tokens: how many.
        seed: of the traffic.
        numerics: of a model in full precision; with ``fast`` there may be differences.
    """
    with _adapters(model) as adapters:
        traffic = Traffic(model.config.vocab_size, tuple(adapters), seed)
        recomputation = Recomputation(model, adapters, numerics)
        compared = different = 0
        first: Difference | None = None
        for planned in PHASES:
            # A recurrent state cannot go back to before a wrong guess.
            phase = replace(planned, guessed=planned.guessed and model.config.recurrence is None)
            page_bytes = Engine(model, None, phase.config(KV_BYTES), numerics=numerics).memory.page_bytes
            engine = Engine(model, None, phase.config(page_bytes), numerics=numerics)
            for adapter, (folder, _) in adapters.items():
                engine.load_adapter(adapter, folder)
            for answer in traffic.run(engine, -(-tokens // len(PHASES)), phase.batch):
                compared += len(answer.tokens)
                found = list(_differences(answer, recomputation))
                different += len(found)
                first = first or next(iter(found), None)
        return Report(name, engine.format, engine.numerics, compared, different, first, traffic.happened)


def _differences(answer: Answer, recomputation: Recomputation) -> Iterator[Difference]:
    request = answer.request
    again = recomputation.logprobs(request.prompt, answer.tokens, request.adapter)
    rows = zip(answer.tokens, answer.logprobs, again, strict=True)
    for place, (token, sampled, recomputed) in enumerate(rows, len(request.prompt)):
        if _bits(sampled) != _bits(recomputed):
            yield Difference(request.id, request.adapter, place, token, sampled, recomputed)


@contextmanager
def _adapters(model: CausalLM | PackedModel) -> Iterator[dict[str, tuple[Path, Adapter]]]:
    """Random adapters of the model in folders, strong enough to change every answer: name -> folder and weights."""
    config = model.config
    dtype = model.dtype if isinstance(model, CausalLM) else torch.float32
    found = {}
    with TemporaryDirectory() as root:
        for seed, (name, rank) in enumerate(RANKS.items(), 1):
            targets = config.targets if name == "narrow" else config.targets[:2]
            adapter = new_adapter(config, rank, 2.0 * rank, targets, seed)
            generator = torch.Generator().manual_seed(seed)
            with torch.no_grad():
                for _, up in adapter.weights.values():
                    up.copy_(torch.randn(up.shape, generator=generator) * 0.2)
            folder = Path(root) / name
            save_adapter(folder, adapter, "check")
            found[name] = folder, load_adapter(folder, config, dtype)
        yield found


def _bits(value: float) -> str:
    """A log-probability's bits: it is a float32."""
    return "0x" + struct.pack(">f", value).hex()
