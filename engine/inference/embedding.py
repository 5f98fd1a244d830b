"""Texts in, vectors out: batches by a budget of tokens, pooling, and a thread that serves many callers at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeGuard, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from engine.catalog.embedding_config import EmbeddingConfig, EncoderConfig, read_embedding_config
from engine.models import CausalLM, PackedCausalAttention, load_body, pick_device, pick_dtype
from engine.models.bert import Encoder, load_encoder
from engine.text import Tokenizer
from fw_sdk.types import FwError

Floats = NDArray[np.float32]
NOT_DONE = "Nothing was embedded."
MAX_BATCHED_TOKENS = 8192


@dataclass(frozen=True)
class Embeddings:
    """Vectors and what they cost.

    Attributes:
        vectors: [n, dimensions] float32, in the order of the inputs.
        token_counts: tokens of each input, special tokens included, after truncation.
    """

    vectors: Floats
    token_counts: tuple[int, ...]


class EmbeddingEngine:
    """One embedding model. Not thread-safe; ``EmbeddingLoop`` gives it a thread.

    Args:
        model: a BERT encoder, or a decoder of which the last token's state is taken.
        config: pooling and limits.
        tokenizer: its tokenizer; without one, inputs must be token ids.
        max_batched_tokens: in one forward pass; a longer single input is a batch of its own.

    Attributes:
        width: length of a vector unless fewer ``dimensions`` are asked for.
        context: longest input in tokens, special tokens included.
        device: where it computes.
        format: how the weights are held: bfloat16 or float32.
        max_batched_tokens: in one forward pass.
        numerics: ``fast``.
    """

    numerics = "fast"

    def __init__(
        self,
        model: Encoder | CausalLM,
        config: EmbeddingConfig,
        tokenizer: Tokenizer | None = None,
        *,
        max_batched_tokens: int = MAX_BATCHED_TOKENS,
    ) -> None:
        self.model, self.config, self.tokenizer = model, config, tokenizer
        self.width, self.context = config.width, config.max_context
        self.device, self.format = torch.device(model.device), str(model.dtype).removeprefix("torch.")
        self.max_batched_tokens = max_batched_tokens
        self._vocabulary = config.model.vocab_size

    @classmethod
    def load(
        cls,
        path: Path | str,
        *,
        dtype: str = "auto",
        device: str = "auto",
        max_batched_tokens: int = MAX_BATCHED_TOKENS,
    ) -> EmbeddingEngine:
        """The embedding model in a folder (see ``engine.catalog.embedding_config``).

        Args:
            path: the folder.
            dtype: ``float32`` or ``bfloat16``; ``auto`` is float32 for an encoder, which is small.
            device: ``auto``, ``cpu`` or ``cuda``.
            max_batched_tokens: tokens of one forward pass.

        Raises:
            FwError: ``not_found``, ``model_unsupported``, ``invalid_argument`` for an unknown dtype or device.
        """
        path = Path(path)
        config, target = read_embedding_config(path), pick_device(device)
        encoder = isinstance(config.model, EncoderConfig)
        wanted = pick_dtype(target, "float32" if encoder and dtype == "auto" else dtype)
        load = load_encoder if encoder else load_body
        model: Encoder | CausalLM = load(path, dtype=wanted, device=target)
        return cls(model, config, Tokenizer.load(path), max_batched_tokens=max_batched_tokens)

    @property
    def weight_bytes(self) -> int:
        """Memory of the weights."""
        buffers = {tensor.data_ptr(): tensor.nbytes for tensor in self.model.buffers()}
        return sum(buffers.values())

    def tokenize(self, inputs: Sequence[str] | Sequence[Sequence[int]], *, truncate: bool = False) -> list[list[int]]:
        """Each input as the model sees it. Texts get the model's special tokens; token ids are taken as they are.

        Args:
            inputs: texts, or token ids with the special tokens that the model wants.
            truncate: cut what is longer than ``context`` (a text keeps its special tokens) instead of refusing it.

        Raises:
            FwError: ``context_length_exceeded``; ``invalid_argument`` for no input, an empty one, ids outside the
                vocabulary, or texts without a tokenizer.
        """
        if not inputs:
            raise _invalid("There is no input.", "send at least one text")
        limit = self.context if truncate else None
        if _all_texts(inputs):
            ids = self._encode(inputs, limit)
        else:
            ids = [[int(token) for token in item][:limit] for item in cast(Sequence[Sequence[int]], inputs)]
        for number, item in enumerate(ids):
            self._check(number, item)
        return ids

    def embed(
        self,
        inputs: Sequence[str] | Sequence[Sequence[int]],
        *,
        truncate: bool = False,
        dimensions: int | None = None,
    ) -> Embeddings:
        """One vector per input.

        Args:
            inputs: as ``tokenize``.
            truncate: as ``tokenize``.
            dimensions: keep only so many leading numbers, scaled to length 1 again; good for models trained for it
                (Matryoshka).

        Raises:
            FwError: as ``tokenize`` and ``check_dimensions``.
        """
        self.check_dimensions(dimensions)
        ids = self.tokenize(inputs, truncate=truncate)
        vectors = np.empty((len(ids), self.width), np.float32)
        for batch in batches([len(item) for item in ids], self.max_batched_tokens):
            vectors[batch] = self.compute([ids[number] for number in batch])
        return Embeddings(cut(vectors, dimensions), tuple(map(len, ids)))

    def check_dimensions(self, dimensions: int | None) -> None:
        """Raise ``invalid_argument`` unless a vector can be cut to so many numbers."""
        if dimensions is not None and not 1 <= dimensions <= self.width:
            raise FwError(
                "invalid_argument",
                f"'dimensions' must be 1 to {self.width}, got {dimensions}.",
                not_done=NOT_DONE,
                param="dimensions",
            )

    @torch.inference_mode()
    def compute(self, ids: Sequence[Sequence[int]]) -> Floats:
        """The vectors of checked inputs, [n, width], in one forward pass; neighbours of equal length are fastest."""
        lengths = [len(item) for item in ids]
        tokens = torch.tensor([token for item in ids for token in item], device=self.device)
        positions = torch.cat([torch.arange(length) for length in lengths]).to(self.device)
        ends = torch.tensor(lengths, device=self.device).cumsum(0)
        if isinstance(self.model, Encoder):
            pooled = self._pooled(self.model(tokens, positions, lengths), lengths, ends)
        else:
            rows = ends - 1 if self.config.pooling == "last" else None
            hidden = self.model(tokens, positions, PackedCausalAttention(lengths), rows=rows).float()
            pooled = hidden if rows is not None else self._pooled(hidden, lengths, ends)
        if self.config.normalise:
            pooled = functional.normalize(pooled, dim=-1)
        return np.asarray(pooled.cpu().numpy(), np.float32)

    def _pooled(self, hidden: Tensor, lengths: list[int], ends: Tensor) -> Tensor:
        """hidden: [T, width] -> [n, width] float32."""
        counts = torch.tensor(lengths, device=self.device)
        if self.config.pooling == "last":
            return hidden.index_select(0, ends - 1).float()
        if self.config.pooling == "cls":
            return hidden.index_select(0, ends - counts).float()
        owners = torch.repeat_interleave(torch.arange(len(lengths), device=self.device), counts)
        sums = torch.zeros(len(lengths), hidden.shape[-1], device=self.device).index_add_(0, owners, hidden.float())
        return sums / counts.unsqueeze(1)

    def _encode(self, texts: Sequence[str], limit: int | None) -> list[list[int]]:
        if self.tokenizer is None:
            raise _invalid("This engine has no tokenizer.", "send token ids")
        end = self._missing_end()
        if end is None:
            return self.tokenizer.encode_whole(texts, limit)
        room = None if limit is None else limit - 1
        return [[*item, end] for item in self.tokenizer.encode_whole(texts, room)]

    def _missing_end(self) -> int | None:
        """The end-of-text id if the last token's state is wanted and the tokenizer does not add one itself."""
        assert self.tokenizer is not None
        if self.config.pooling != "last":
            return None
        (empty,) = self.tokenizer.encode_whole([""])
        token = self.tokenizer.special_tokens.get("eos_token")
        ends = empty and empty[-1] != self.tokenizer.bos_id
        return None if ends or token is None else self.tokenizer.id_of(token)

    def _check(self, number: int, ids: Sequence[int]) -> None:
        if not ids:
            raise _invalid(f"Input {number} is empty.", "leave it out")
        if len(ids) > self.context:
            raise FwError(
                "context_length_exceeded",
                f"Input {number} has {len(ids)} tokens; this model reads at most {self.context}.",
                not_done=NOT_DONE,
                hint="shorten it, split it, or ask for truncation",
                param="input",
            )
        wrong = [token for token in ids if not 0 <= token < self._vocabulary]
        if wrong:
            raise _invalid(f"Input {number} holds the token id {wrong[0]}.", f"ids are below {self._vocabulary}")


def batches(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Numbers of inputs, shortest first, so that equal lengths are neighbours; each batch within the budget."""
    batch: list[int] = []
    tokens = 0
    for number in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batch and tokens + lengths[number] > budget:
            yield batch
            batch, tokens = [], 0
        batch.append(number)
        tokens += lengths[number]
    if batch:
        yield batch


def cut(vectors: Floats, dimensions: int | None) -> Floats:
    """The leading ``dimensions`` of each vector, scaled to length 1; all of them unchanged for None."""
    if dimensions is None or dimensions == vectors.shape[1]:
        return vectors
    short = vectors[:, :dimensions]
    norms = np.linalg.norm(short, axis=1, keepdims=True)
    return np.ascontiguousarray(short / np.maximum(norms, 1e-12))


def _all_texts(inputs: Sequence[object]) -> TypeGuard[Sequence[str]]:
    return all(isinstance(item, str) for item in inputs)


def _invalid(message: str, hint: str) -> FwError:
    return FwError("invalid_argument", message, not_done=NOT_DONE, hint=hint, param="input")
