"""fw's side of the CPU benchmark: the engine in process, weights as ``auto`` has them. Commands: see ``commands``."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from engine.inference import Engine, Request, SamplingParams
from engine.inference.runner import Logits
from engine.inference.scheduler import StepPlan


class Ours:
    """An engine that answers the benchmark's commands."""

    def __init__(self, model: str, threads: int, numerics: str = "auto") -> None:
        torch.set_num_threads(threads)
        self._engine = Engine.load(model, numerics=numerics)

    def facts(self) -> dict[str, Any]:
        """What runs here and as which process."""
        engine = self._engine
        held = f"{engine.format}, numerics {engine.numerics}"
        versions = f"{held}, Python {platform.python_version()}, torch {torch.__version__}"
        return {"pid": os.getpid(), "versions": versions}

    def generate(self, prompts: list[list[int]], tokens: int) -> dict[str, float]:
        """Seconds to the first token of any prompt and to the last of all."""
        params = SamplingParams(max_tokens=tokens, temperature=0, ignore_eos=True)
        arrivals = list[float]()
        started = time.perf_counter()
        for index, prompt in enumerate(prompts):
            self._engine.add(Request(str(index), tuple(prompt), params))
        while self._engine.has_work:
            found = self._engine.step()
            arrivals += [time.perf_counter()] * len(found)
        assert len(arrivals) == tokens * len(prompts)
        return {"first_s": arrivals[0] - started, "total_s": arrivals[-1] - started}

    def logits(self, tokens: list[int], path: str) -> None:
        """Save ``[len(tokens), vocabulary]`` f32: what comes after each token, given all up to it."""
        runner: Any = self._engine._runner
        record = _Record(runner.compute)
        runner.compute = record
        params = SamplingParams(max_tokens=1, temperature=0)
        for end in range(1, len(tokens) + 1):
            self._engine.add(Request(str(end), tuple(tokens[:end]), params))
        while self._engine.has_work:
            self._engine.step()
        runner.compute = record.inner
        np.save(path, np.stack([record.rows[str(end)] for end in range(1, len(tokens) + 1)]))


class _Record:
    """A runner's ``compute`` that keeps the logits of every request: beginnings of one text share their pages."""

    def __init__(self, inner: Callable[[StepPlan, Mapping[int, Any]], Logits]) -> None:
        self.inner = inner
        self.rows: dict[str, Any] = {}

    def __call__(self, plan: StepPlan, adapters: Mapping[int, Any]) -> Logits:
        logits = self.inner(plan, adapters)
        for row, values in zip(logits.rows, logits.values, strict=True):
            self.rows[row.sequence.id] = values.float().cpu().numpy().copy()
        return logits


def commands(model: str, threads: int, numerics: str = "auto") -> dict[str, Callable[..., Any]]:
    """``facts``, ``generate`` and ``logits`` of the GGUF file or folder ``model``."""
    side = Ours(model, threads, numerics)
    return {"facts": side.facts, "generate": side.generate, "logits": side.logits}
