"""How far a side's distributions are from those of the same weights in float32, over windows of our pages."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from engine.models import CausalLM, PackedCausalAttention, load_model
from engine.text.tokenizer import Tokenizer
from tests.benchmarks.cpu_side import Side

PAGES = Path(__file__).parents[2] / "docs"
TEXT = ("architecture.md", "evaluation.md", "fine-tuning.md")
WINDOWS, WIDTH = 4, 500


@dataclass(frozen=True)
class Distance:
    """Between a side and float32, over all positions.

    Attributes:
        rms: of the difference between the log-probabilities of the next token of the text, in nats.
        mean: of that difference's absolute value.
        divergence: mean Kullback-Leibler divergence from float32 to the side, in nats.
        agreement: share of positions where both find the same token most likely.
    """

    rms: float
    mean: float
    divergence: float
    agreement: float


def text_windows(model: Path) -> list[list[int]]:
    """``WINDOWS`` beginnings of the pages' text, ``WIDTH`` tokens each."""
    text = "\n\n".join((PAGES / page).read_text() for page in TEXT)
    tokens = Tokenizer.load(model).encode(text)
    assert len(tokens) >= WINDOWS * WIDTH
    return [tokens[start : start + WIDTH] for start in range(0, WINDOWS * WIDTH, WIDTH)]


@torch.inference_mode()
def true_logprobs(model: CausalLM, tokens: list[int]) -> Tensor:
    """``[len(tokens), vocabulary]`` f32 of what comes after each token."""
    hidden = model(torch.tensor(tokens), torch.arange(len(tokens)), PackedCausalAttention([len(tokens)]))
    return model.logits(hidden).log_softmax(1)


def side_logprobs(side: Side, tokens: list[int], folder: Path) -> Tensor:
    """The same by a side."""
    path = folder / "logits.npy"
    side.ask("logits", tokens=tokens, path=str(path))
    return torch.from_numpy(np.load(path)).log_softmax(1)


def compare(following: Tensor, truth: Tensor, found: Tensor) -> Tensor:
    """``[n, 3]`` by position: difference at the token that follows, divergence, whether the best token is the same.

    Args:
        following: ``[n]``, the text's next tokens.
        truth: ``[n, vocabulary]``, log-probabilities in float32.
        found: as ``truth``, a side's.
    """
    difference = (found - truth)[torch.arange(len(following)), following]
    divergence = (truth.exp() * (truth - found)).sum(1)
    same = found.argmax(1) == truth.argmax(1)
    return torch.stack([difference, divergence, same], 1).double()


def distance(compared: Tensor) -> Distance:
    """Over all positions that ``compare`` gave."""
    difference, divergence, same = compared.unbind(1)
    rms, mean = difference.square().mean().sqrt(), difference.abs().mean()
    return Distance(float(rms), float(mean), float(divergence.mean()), float(same.mean()))


def measure(model: Path, sides: Mapping[str, Side]) -> dict[str, Distance]:
    """The distance of each side, over the same windows."""
    exact = load_model(model, dtype=torch.float32)
    compared: dict[str, list[Tensor]] = {name: [] for name in sides}
    with tempfile.TemporaryDirectory(prefix="fw-bench-") as name:
        for tokens in text_windows(model):
            truth, following = true_logprobs(exact, tokens)[:-1], torch.tensor(tokens[1:])
            for label, side in sides.items():
                compared[label].append(compare(following, truth, side_logprobs(side, tokens, Path(name))[:-1]))
    return {label: distance(torch.cat(found)) for label, found in compared.items()}
