"""The sizes an engine runs with, checked once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from fw_sdk.types import FwError

Speculation = Literal["off", "lookup", "draft"]

MAX_DRAFTS = 16
SPARE_ROWS = 64
"""Rows of logits that a step may have besides one per running request: for a prompt's log-probabilities and drafts."""


@dataclass(frozen=True)
class EngineConfig:
    """How much an engine may hold and how much it does in one step.

    Attributes:
        page_size: tokens per page of the key-value cache.
        kv_bytes: budget of the key-value cache; None takes a quarter of the memory that is free, at most 512 MiB on a
            CPU and three quarters of the free memory on a GPU.
        state_bytes: budget of the recurrent states of a model that has them, of running requests and of checkpoints;
            None takes half as much as for the keys and values on a GPU, as much on a CPU.
        max_batched_tokens: tokens computed in one step, over all requests; None takes 512 on a CPU, 8192 on a GPU.
        max_running: requests that hold pages at the same time.
        prefix_cache: whether requests share the pages of equal prefixes.
        max_adapters: adapters and combinations of them whose weights stay in memory while no request uses them.
        adapter_bytes: and how large they may be together. What goes is read again when it is asked for.
        speculation: who guesses tokens that a step then verifies, see ``engine.inference.speculation``: nobody,
            ``lookup`` (what followed the same tokens before) or ``draft`` (a second model).
        draft_tokens: guesses per request and step at most.
    """

    page_size: int = 16
    kv_bytes: int | None = None
    state_bytes: int | None = None
    max_batched_tokens: int | None = None
    max_running: int = 64
    prefix_cache: bool = True
    max_adapters: int = 64
    adapter_bytes: int = 1 << 30
    speculation: Speculation = "off"
    draft_tokens: int = 4

    def __post_init__(self) -> None:
        if self.speculation not in get_args(Speculation):
            named = ", ".join(get_args(Speculation))
            message = f"speculation must be one of {named}, got {self.speculation!r:.40}"
            raise FwError("invalid_argument", message, param="speculation")
        if not 1 <= self.draft_tokens <= MAX_DRAFTS:
            message = f"draft_tokens must be from 1 to {MAX_DRAFTS}, got {self.draft_tokens}"
            raise FwError("invalid_argument", message, param="draft_tokens")
        for name in (
            "page_size",
            "kv_bytes",
            "state_bytes",
            "max_batched_tokens",
            "max_running",
            "max_adapters",
            "adapter_bytes",
        ):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise FwError("invalid_argument", f"{name} must be at least 1, got {value}", param=name)
        if self.max_batched_tokens is not None and self.max_batched_tokens < self.max_running:
            raise FwError(
                "invalid_argument",
                f"max_batched_tokens ({self.max_batched_tokens}) is below max_running ({self.max_running}): "
                "every running request must get at least one token per step",
                param="max_batched_tokens",
                hint="raise max_batched_tokens or lower max_running",
            )
