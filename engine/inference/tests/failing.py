"""A runner that fails or hangs when it is told to: a real one otherwise."""

from __future__ import annotations

import threading

from engine.inference import Engine, EngineConfig
from engine.inference.runner import Logits
from engine.inference.torch_runner import TorchRunner
from engine.models import CausalLM


class FailingRunner(TorchRunner):
    """Fails as often as ``failures`` says; waits for ``proceed`` in each step; ``steps`` has the requests of each."""

    def __init__(self, model: CausalLM, config: EngineConfig) -> None:
        super().__init__(model, config)
        self.failures = 0
        self.steps: list[set[str]] = []
        self.proceed = threading.Event()
        self.proceed.set()

    def compute(self, plan, adapters) -> Logits:
        self.steps.append({item.sequence.id for item in plan.slices})
        self.proceed.wait()
        if self.failures:
            self.failures -= 1
            self.pages.fill_(float("nan"))
            raise IndexError("broken on purpose")
        return super().compute(plan, adapters)


def make_failing(engine: Engine) -> FailingRunner:
    """Put a failing runner into an engine with a model in full precision."""
    assert isinstance(engine.model, CausalLM)
    engine._runner = FailingRunner(engine.model, engine._config)
    return engine._runner
