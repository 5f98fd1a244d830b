"""How much memory the key-value cache gets, and the account of it that is shown at load."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from engine.catalog import ModelConfig
from engine.inference.checkpoints import CheckpointIndex
from engine.inference.config import EngineConfig
from engine.inference.pages import PagePool
from engine.inference.prefix import PrefixIndex
from fw_sdk.types import FwError

MIB = 1 << 20
CPU_KV_BYTES = 512 * MIB
CHECKPOINTS_PER_REQUEST = 8


@dataclass(frozen=True)
class MemoryAccount:
    """Where the engine's memory goes.

    Attributes:
        weight_bytes: the model's parameters.
        page_bytes: keys and values of one page, all layers.
        pages: pages in the cache.
        page_size: tokens per page.
        available_bytes: what was free on the device when the cache was sized.
        state_bytes: one recurrent state, all layers; 0 in a model without.
        states: room for so many, of running requests and of checkpoints.
    """

    weight_bytes: int
    page_bytes: int
    pages: int
    page_size: int
    available_bytes: int
    state_bytes: int = 0
    states: int = 0

    @property
    def kv_bytes(self) -> int:
        """The whole cache."""
        return self.pages * self.page_bytes

    @property
    def tokens(self) -> int:
        """Tokens that the cache has room for."""
        return self.pages * self.page_size

    def text(self) -> str:
        """One line for a person."""
        states = f"{self.states} recurrent states {self.states * self.state_bytes / MIB:.0f} MiB, "
        return (
            f"memory: weights {self.weight_bytes / MIB:.0f} MiB, key-value cache {self.kv_bytes / MIB:.0f} MiB "
            f"({self.tokens} tokens in {self.pages} pages of {self.page_size}), "
            f"{states if self.states else ''}"
            f"{self.available_bytes / MIB:.0f} MiB were free"
        )


def account(
    model: ModelConfig, config: EngineConfig, *, weight_bytes: int, dtype: torch.dtype, device: torch.device
) -> MemoryAccount:
    """Size the cache: the budget, but never more than ``max_running`` requests of full length could use.

    Raises:
        FwError: ``out_of_memory`` if the budget does not hold a single page, or is more than there is.
    """
    page_bytes = 2 * model.attention_layers * model.kv_size * config.page_size * dtype.itemsize
    available = available_bytes(device)
    useful = config.max_running * -(-model.max_context // config.page_size)
    rest = available * 2 // 3 if model.recurrence and device.type == "cuda" else available
    budget = config.kv_bytes or _default_budget(rest, device)
    pages = min(budget // page_bytes, useful)
    if pages * page_bytes > available:
        raise _does_not_fit(pages * page_bytes, available, page_bytes)
    if pages < 1:
        raise FwError(
            "out_of_memory",
            f"A page of {config.page_size} tokens takes {_gib(page_bytes)} of the key-value cache, its budget is "
            f"{_gib(budget)}; {_gib(available)} are free.",
            not_done="the model was not loaded for inference",
            hint=f"give it at least {_gib(page_bytes)}; {_gib(useful * page_bytes)} are the most it could use",
            param="kv_bytes",
        )
    state_bytes, states = _states(model, config, available - pages * page_bytes, device)
    return MemoryAccount(weight_bytes, page_bytes, pages, config.page_size, available, state_bytes, states)


def _states(model: ModelConfig, config: EngineConfig, available: int, device: torch.device) -> tuple[int, int]:
    """Bytes of one recurrent state and how many there is room for; more than a few per running request help nobody."""
    if model.recurrence is None:
        return 0, 0
    size = model.recurrent_layers * model.recurrence.state_bytes
    budget = config.state_bytes or (available // 2 if device.type == "cuda" else _default_budget(available, device))
    count = min(budget // size, CHECKPOINTS_PER_REQUEST * config.max_running)
    if count < 1 or count * size > available:
        raise FwError(
            "out_of_memory",
            f"A recurrent state takes {_gib(size)}, its budget is {_gib(budget)}; "
            f"{_gib(available)} are free beside the weights and the key-value cache.",
            not_done="the model was not loaded for inference",
            hint=f"give it at least {_gib(size)}, for each request that is to run at once, and no more than is free",
            param="state_bytes",
        )
    return size, count


def prefix_index(memory: MemoryAccount, *, enabled: bool) -> PrefixIndex:
    """The index over the account's pages, with the states of a model that has some."""
    pages = PagePool(memory.pages)
    if not memory.states:
        return PrefixIndex(pages, memory.page_size, enabled=enabled)
    return CheckpointIndex(pages, PagePool(memory.states), memory.page_size, enabled=enabled)


def _does_not_fit(wanted: int, available: int, page_bytes: int) -> FwError:
    possible = available * 9 // 10 // page_bytes * page_bytes
    hint = f"give it at most {_gib(possible)}, or free memory" if possible else "free memory, or use a smaller model"
    return FwError(
        "out_of_memory",
        f"A key-value cache of {_gib(wanted)} does not fit: {_gib(available)} are free beside the weights.",
        not_done="the model was not loaded for inference",
        hint=hint,
        param="kv_bytes",
    )


def _gib(size: int) -> str:
    """Three digits, as ``--kv-gib`` takes them."""
    return f"{size / (1 << 30):.3g} GiB"


def available_bytes(device: torch.device) -> int:
    """Memory that can still be taken on the device, the limit of the control group included."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    limits = [_meminfo_available(), _cgroup_available()]
    return min(limit for limit in limits if limit is not None) if any(limits) else CPU_KV_BYTES * 4


def _default_budget(available: int, device: torch.device) -> int:
    return available * 3 // 4 if device.type == "cuda" else min(CPU_KV_BYTES, available // 4)


def _meminfo_available() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    found = [int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    return found[0] * 1024 if found else None


def _cgroup_available() -> int | None:
    group = Path("/sys/fs/cgroup")
    try:
        limit = (group / "memory.max").read_text().strip()
        used = (group / "memory.current").read_text().strip()
    except OSError:
        return None
    return max(0, int(limit) - int(used)) if limit.isdigit() else None
