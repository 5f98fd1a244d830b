"""llama.cpp's side of the CPU benchmark; needs llama-cpp-python, built for this machine, and nothing of fw.

It runs at its best: flash attention, which llama.cpp itself takes by default and the binding does not, and tokens drawn
by llama.cpp's own greedy sampler.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from typing import Any

import llama_cpp  # type: ignore[import-not-found]
import numpy as np

CONTEXT = 2048


class LlamaCpp:
    """A llama.cpp context that answers the benchmark's commands."""

    def __init__(self, model: str, threads: int) -> None:
        self._model, self._threads = model, threads
        self._llm = self._load(CONTEXT, logits_all=False)

    def facts(self) -> dict[str, Any]:
        """What runs here and as which process."""
        versions = f"llama-cpp-python {llama_cpp.__version__}, Python {platform.python_version()}"
        return {"pid": os.getpid(), "versions": versions}

    def generate(self, prompts: list[list[int]], tokens: int) -> dict[str, float]:
        """Seconds to the first token and to the last, for one prompt."""
        (prompt,) = prompts
        self._llm.reset()
        arrivals = list[float]()
        started = time.perf_counter()
        for _ in self._llm.generate(prompt, temp=0.0, top_k=1, repeat_penalty=1.0):
            arrivals.append(time.perf_counter())
            if len(arrivals) == tokens:
                break
        return {"first_s": arrivals[0] - started, "total_s": arrivals[-1] - started}

    def logits(self, tokens: list[int], path: str) -> None:
        """Save ``[len(tokens), vocabulary]`` f32: what comes after each token, given all up to it."""
        llm = self._load(len(tokens), logits_all=True)
        llm.eval(tokens)
        np.save(path, llm.scores[: len(tokens)])
        llm.close()

    def _load(self, context: int, *, logits_all: bool) -> Any:
        return llama_cpp.Llama(
            self._model,
            n_ctx=context,
            n_threads=self._threads,
            n_threads_batch=self._threads,
            logits_all=logits_all,
            flash_attn=True,
            verbose=False,
        )


def commands(model: str, threads: int) -> dict[str, Callable[..., Any]]:
    """``facts``, ``generate`` and ``logits`` of the GGUF file ``model``."""
    side = LlamaCpp(model, threads)
    return {"facts": side.facts, "generate": side.generate, "logits": side.logits}
