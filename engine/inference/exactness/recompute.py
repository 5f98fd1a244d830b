"""Log-probabilities of given tokens, computed without a cache, a batch, a scheduler or neighbours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from engine.inference.config import EngineConfig
from engine.inference.engine import Engine
from engine.inference.request import Request, SamplingParams
from engine.inference.sampler import score
from engine.models import Adapter, CausalLM, PackedCausalAttention, PackedModel, SingleAdapter
from kernels.numerics import numerics as computing


@torch.inference_mode()
def plain_logprobs(
    model: CausalLM, prompt: Sequence[int], answer: Sequence[int], adapter: Adapter | None, numerics: str
) -> list[float]:
    """Of the answer's tokens, from one forward over prompt and answer."""
    ids = torch.tensor([*prompt, *answer[:-1]])
    rows = torch.arange(len(prompt) - 1, len(ids))
    with computing(numerics):
        applied = None if adapter is None else SingleAdapter(adapter)
        hidden = model(ids, torch.arange(len(ids)), PackedCausalAttention([len(ids)]), applied)
        found = score(model.logits(hidden[rows]), answer, [0] * len(answer))
    return [item.logprob for item in found if item is not None]


def lone_logprobs(
    model: PackedModel, prompt: Sequence[int], answer: Sequence[int], adapter: tuple[str, Path] | None
) -> list[float]:
    """Of the answer's tokens, as parts of a prompt of an engine that has nothing else to do.

    In one step, or in as few as the rows of logits that a step may have allow. ``adapter``: name and folder.
    """
    known = (*prompt, *answer)
    config = EngineConfig(max_batched_tokens=len(known), max_running=1, prefix_cache=False)
    engine = Engine(model, None, config)
    if adapter is not None:
        engine.load_adapter(*adapter)
    params = SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=0, ignore_eos=True)
    request = Request("alone", known, params, adapter[0] if adapter else None)
    scores = engine.generate([request])[0].prompt_logprobs or ()
    return [item.logprob for item in scores[len(prompt) :] if item is not None]


class Recomputation:
    """Recomputes for one model with its adapters.

    Args:
        model: of the engine that sampled.
        adapters: name -> folder and weights.
        numerics: of a model in full precision.
    """

    def __init__(
        self, model: CausalLM | PackedModel, adapters: Mapping[str, tuple[Path, Adapter]], numerics: str
    ) -> None:
        self._model, self._adapters, self._numerics = model, adapters, numerics

    def logprobs(self, prompt: Sequence[int], answer: Sequence[int], name: str | None) -> list[float]:
        """Log-probabilities of the answer's tokens."""
        if isinstance(self._model, PackedModel):
            folder = None if name is None else (name, self._adapters[name][0])
            return lone_logprobs(self._model, prompt, answer, folder)
        weights = None if name is None else self._adapters[name][1]
        return plain_logprobs(self._model, prompt, answer, weights, self._numerics)
