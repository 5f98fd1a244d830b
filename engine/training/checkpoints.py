"""Everything a resumed run needs, in one safetensors file that is whole or absent."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from engine.jobs.files import write_atomic

FILE_NAME = "checkpoint.safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """The state between two steps.

    Attributes:
        step: steps taken, which is also the data cursor.
        master: adapter weights, [n] f32.
        first: AdamW's first moment, [n] f32.
        second: AdamW's second moment, [n] f32.
        losses: (step, loss) of every step taken.
        seconds: training time so far, over all attempts.
    """

    step: int
    master: Tensor
    first: Tensor
    second: Tensor
    losses: list[tuple[int, float]] = field(default_factory=list)
    seconds: float = 0.0


def save_checkpoint(folder: Path, checkpoint: Checkpoint, fingerprint: dict[str, Any]) -> None:
    """Replace the folder's checkpoint; ``fingerprint`` says which run it belongs to."""
    facts = {"step": checkpoint.step, "losses": checkpoint.losses, "seconds": checkpoint.seconds}
    metadata = {"state": json.dumps(facts), "fingerprint": _canonical(fingerprint)}
    tensors = {"master": checkpoint.master, "first": checkpoint.first, "second": checkpoint.second}
    write_atomic(folder / FILE_NAME, save({name: value.cpu() for name, value in tensors.items()}, metadata))


def load_checkpoint(folder: Path, fingerprint: dict[str, Any]) -> Checkpoint | None:
    """The folder's checkpoint; None if there is none, if it cannot be read, or if it belongs to another run."""
    path = folder / FILE_NAME
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("fingerprint") != _canonical(fingerprint):
                return None
            facts = json.loads(metadata["state"])
            tensors = {name: file.get_tensor(name) for name in ("master", "first", "second")}
    except (SafetensorError, OSError, KeyError, ValueError):
        return None
    losses = [(int(step), float(loss)) for step, loss in facts["losses"]]
    return Checkpoint(step=int(facts["step"]), losses=losses, seconds=float(facts["seconds"]), **tensors)


def _canonical(value: dict[str, Any]) -> str:
    return json.dumps(value, sort_keys=True)
