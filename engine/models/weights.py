"""Where a model's tensors come from, one at a time, under Hugging Face's names."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from engine.catalog import GgufFile, ModelConfig, OpenModel
from engine.catalog.quantisation import Quantisation
from engine.models.gguf_names import Stored, stored_as, unpermuted
from engine.models.scaled import FP8, fp8_to_float, mxfp4_to_float
from fw_sdk.types import FwError
from kernels.block_matmul import FLOAT, GGUF_FORMATS, Rows

FLOATS = (torch.float32, torch.float16, torch.bfloat16)
TEXT_PARTS = ("language_model.model.", "model.language_model.")
"""What stands in place of ``model.`` where the language model is a part of a larger one."""
PLAIN = {"F32": np.float32, "F16": np.float16, "F64": np.float64}
SCALE_SUFFIXES = ("_scale_inv", "_scale")
"""What DeepSeek's files and compressed-tensors call the factor that makes fp8 numbers whole again."""


class Weights(Protocol):
    """A source of tensors."""

    def get(self, name: str) -> Tensor:
        """The tensor of that Hugging Face name, on the CPU, in the file's format or float32; FwError if missing."""
        ...

    def rows(self, name: str, columns: int) -> Rows:
        """The matrix of that name for packing, [n, columns], as it is stored; FwError if missing or of other width."""
        ...

    def kind(self, name: str) -> int | None:
        """The ``ggml_type`` number of the tensor of that name in a GGUF file; None if it is not stored as such."""
        ...

    def divisors(self) -> Tensor | None:
        """What the rotary frequencies are divided by, [head_dim / 2] f32, if the file holds it."""
        ...


def open_weights(model: OpenModel) -> Weights:
    """The tensors of an opened model."""
    if model.gguf is not None:
        return GgufWeights(model.gguf, model.config)
    return SafetensorsWeights(model.files.weights, model.quantisation)


class SafetensorsWeights:
    """Tensors of one or several safetensors files; fp8 and MXFP4 are turned into floats one by one.

    Args:
        paths: the files.
        quantisation: what the configuration says about them.

    Raises:
        FwError: ``model_unsupported`` if a file is damaged.
    """

    def __init__(self, paths: tuple[Path, ...], quantisation: Quantisation | None = None) -> None:
        self._block = quantisation.block if quantisation else None
        try:
            self._files = [safe_open(path, framework="pt") for path in paths]
        except (SafetensorError, OSError) as error:
            raise damaged(f"its safetensors cannot be read: {error}") from error
        self._file_of = {name: file for file in self._files for name in file.keys()}  # noqa: SIM118  not a dict
        self._text = next((text for text in TEXT_PARTS if any(name.startswith(text) for name in self._file_of)), "")

    def has(self, name: str) -> bool:
        """Whether there is a tensor of that name."""
        return name in self._file_of

    def get(self, name: str) -> Tensor:
        """The tensor, dequantised; a decoder saved without its head has no ``model.`` before its names."""
        if self._text:
            name = name.replace("model.", self._text, 1)
        elif not self.has(name) and not self.has(f"{name}_blocks"):
            name = name.removeprefix("model.")
        try:
            if self.has(f"{name}_blocks"):
                numbers = mxfp4_to_float(self._stored(f"{name}_blocks"), self._stored(f"{name}_scales"))
                return numbers.transpose(-1, -2)  # the same name in full precision holds [experts, in, out]
            tensor = self._stored(name)
            if tensor.dtype in FP8:
                return fp8_to_float(tensor, self._scale(name), self._block)
        except ValueError as error:
            raise damaged(f"the tensor {name} is not whole: {error}") from error
        if tensor.dtype not in FLOATS:
            raise damaged(f"the tensor {name} is {tensor.dtype}; supported are bfloat16, float16, float32 and fp8")
        return tensor

    def rows(self, name: str, columns: int) -> Rows:
        """The matrix as rows of floats for packing."""
        return _float_rows(self.get(name), name, columns)

    def kind(self, name: str) -> None:
        """None: no safetensors tensor has a GGUF type."""
        return None

    def divisors(self) -> None:
        """None: no safetensors hold them."""
        return None

    def _stored(self, name: str) -> Tensor:
        if name not in self._file_of:
            raise damaged(f"the tensor {name} is missing")
        tensor: Tensor = self._file_of[name].get_tensor(name)
        return tensor

    def _scale(self, name: str) -> Tensor:
        """The scales beside an fp8 tensor, under whichever name."""
        for suffix in SCALE_SUFFIXES:
            if self.has(name + suffix):
                return self._stored(name + suffix)
        raise damaged(f"the tensor {name} is fp8 and has no scale beside it")


class GgufWeights:
    """Tensors of a GGUF file, dequantised to float32 one by one; query and key rows in Hugging Face's order."""

    def __init__(self, file: GgufFile, config: ModelConfig) -> None:
        self._file = file
        self._bytes = np.memmap(file.path, dtype=np.uint8, mode="r")
        self._config = config

    def get(self, name: str) -> Tensor:
        """The tensor of that Hugging Face name, dequantised, query and key rows in Hugging Face's order."""
        stored = self._stored_as(name)
        tensors = [self.stored(part, stored.expert) for part in stored.names]
        return tensors[0] if stored.turned is None else stored.turned(*tensors)

    def rows(self, name: str, columns: int) -> Rows:
        """The matrix for packing, in its GGUF type where that can be packed, or else in floats."""
        stored = self._stored_as(name)
        entry = self._file.tensors.get(stored.names[0])
        if entry is None or entry.type not in GGUF_FORMATS or not stored.verbatim:
            return _float_rows(self.get(name), name, columns)
        _check_width(entry.shape, name, columns)
        raw = self._bytes[entry.offset : entry.offset + entry.nbytes].reshape(entry.shape[0], -1)
        order = unpermuted(torch.arange(entry.shape[0]), stored.heads).numpy() if stored.heads else None
        return Rows(raw, entry.type, order)

    def kind(self, name: str) -> int | None:
        """The tensor's GGUF type; None where it is not stored row by row as it is."""
        stored = self._stored_as(name)
        entry = self._file.tensors.get(stored.names[0])
        return entry.type if entry and stored.verbatim else None

    def _stored_as(self, name: str) -> Stored:
        try:
            return stored_as(self._config, name)
        except KeyError:
            raise damaged(f"GGUF files of its kind have no tensor {name}") from None

    def divisors(self) -> Tensor | None:
        """The file's ``rope_freqs``, if it has them."""
        return self.stored("rope_freqs.weight") if "rope_freqs.weight" in self._file.tensors else None

    def stored(self, name: str, expert: int | None = None) -> Tensor:
        """The tensor of that GGUF name, or one expert's part of it, as it is stored, in float32."""
        from gguf.constants import GGMLQuantizationType
        from gguf.quants import dequantize, quant_shape_to_byte_shape

        entry = self._file.tensors.get(name)
        if entry is None:
            raise damaged(f"the tensor {name} is missing")
        kind = GGMLQuantizationType(entry.type)
        shape, raw = entry.shape, self._bytes[entry.offset : entry.offset + entry.nbytes]
        if expert is not None:
            if expert >= shape[0]:
                raise damaged(f"the tensor {name} has {shape[0]} experts, more are needed")
            raw, shape = raw.reshape(shape[0], -1)[expert], shape[1:]
        if kind.name in PLAIN:
            return torch.from_numpy(raw.view(PLAIN[kind.name]).astype(np.float32).reshape(shape))
        try:
            blocks = raw.reshape(quant_shape_to_byte_shape(shape, kind))
            return torch.from_numpy(np.ascontiguousarray(dequantize(blocks, kind), dtype=np.float32))
        except NotImplementedError as error:
            raise damaged(f"the tensor {name} has the type {kind.name}, which cannot be dequantised") from error


def damaged(reason: str) -> FwError:
    """The error for weights that do not make the model that the configuration promises."""
    return FwError(
        "model_unsupported",
        f"This model cannot be loaded: {reason}.",
        not_done="No model was loaded.",
        hint="pull the model again, or use another conversion of it",
    )


def _float_rows(tensor: Tensor, name: str, columns: int) -> Rows:
    _check_width(tuple(tensor.shape), name, columns)
    return Rows(np.ascontiguousarray(tensor.float().numpy()), FLOAT)


def _check_width(shape: tuple[int, ...], name: str, columns: int) -> None:
    if len(shape) != 2 or shape[1] != columns:
        raise damaged(f"{name} is {shape}, its configuration needs {columns} columns")
