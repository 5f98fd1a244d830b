"""What an embedding model's folder says about itself: the encoder's sizes, and how token states become one vector.

Sentence-transformers' layout: ``modules.json`` names a transformer, a pooling (``1_Pooling/config.json``) and perhaps a
normalisation. The transformer is BERT, or a decoder that fw also generates with.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from engine.catalog.config import ModelConfig
from engine.catalog.model_files import find_model_files
from engine.catalog.reading import read_config, read_folder
from fw_sdk.types import FwError

PoolingKind = Literal["cls", "mean", "last"]
MODULES = "modules.json"
POOLING_FLAGS: dict[str, PoolingKind] = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_lasttoken": "last",
}
ENCODERS = ("BertModel", "BertForMaskedLM")
ACTIVATIONS = {"gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "relu": "relu"}
KNOWN_MODULES = ("Transformer", "Pooling", "Normalize")


@dataclass(frozen=True)
class EncoderConfig:
    """A BERT-style encoder. Sizes are counts.

    Attributes:
        positions: length of the table of positions, in tokens.
        token_types: kinds of segments; fw uses the first.
        activation: ``gelu``, ``gelu_tanh`` or ``relu``.
    """

    vocab_size: int
    hidden_size: int
    layers: int
    heads: int
    ffn_size: int
    norm_eps: float
    positions: int
    token_types: int
    activation: str

    @property
    def parameters(self) -> int:
        """Number of weights that are used: those of BERT's own pooler are not."""
        hidden, ffn = self.hidden_size, self.ffn_size
        tables = (self.vocab_size + self.positions + self.token_types) * hidden
        layer = 4 * (hidden * hidden + hidden) + 2 * hidden * ffn + ffn + hidden + 4 * hidden
        return tables + 2 * hidden + self.layers * layer


@dataclass(frozen=True)
class EmbeddingConfig:
    """How a text becomes a vector.

    Attributes:
        model: the transformer.
        pooling: ``cls`` the first token's state, ``mean`` the mean of all, ``last`` the last token's.
        normalise: whether the vector is scaled to length 1.
        max_context: longest input in tokens, special tokens included.
    """

    model: EncoderConfig | ModelConfig
    pooling: PoolingKind
    normalise: bool
    max_context: int

    @property
    def width(self) -> int:
        """Length of the vector."""
        return self.model.hidden_size

    @property
    def parameters(self) -> int:
        """Number of weights."""
        return self.model.parameters


def is_embedding_model(path: Path) -> bool:
    """Whether ``path`` is a folder whose model makes vectors, not text."""
    return path.is_dir() and ((path / MODULES).is_file() or _fields(path / "config.json").get("model_type") == "bert")


def read_embedding_config(path: Path) -> EmbeddingConfig:
    """The embedding model in the folder ``path``.

    Raises:
        FwError: ``not_found`` if nothing is there, ``model_unsupported`` if fw cannot run what is there.
    """
    files = find_model_files(path)
    fields = _fields(files.root / "config.json")
    try:
        model = encoder_from_hf(fields) if fields.get("model_type") == "bert" else read_config(path)
        kinds = _modules(files.root)
        pooling, normalise = _pooling(files.root, kinds), "Normalize" in kinds or not kinds
        return EmbeddingConfig(model, pooling, normalise, _max_context(files.root, model))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _unsupported(f"Its configuration cannot be read: {type(error).__name__}: {error}") from error


def read_any_config(path: Path) -> ModelConfig | EmbeddingConfig:
    """The model at ``path``, whichever kind it is.

    Raises:
        FwError: as ``read_config`` and ``read_embedding_config``.
    """
    return read_embedding_config(path) if is_embedding_model(path) else read_config(path)


def check_architecture(folder: Path) -> None:
    """Raise ``model_unsupported`` if fw cannot run what the folder's JSON files describe; weights may be missing."""
    fields = _fields(folder / "config.json")
    if fields.get("model_type") == "bert":
        encoder_from_hf(fields)
    else:
        read_folder(folder)
    if is_embedding_model(folder):
        _pooling(folder, _modules(folder))


def encoder_from_hf(fields: dict[str, Any]) -> EncoderConfig:
    """From the fields of BERT's config.json."""
    named = (fields.get("architectures") or ENCODERS)[0]
    if named not in ENCODERS:
        raise _unsupported(f"Its architecture is {named}")
    if fields.get("position_embedding_type", "absolute") != "absolute":
        raise _unsupported(f"Its positions are {fields['position_embedding_type']!r}, not 'absolute'")
    activation = fields.get("hidden_act", "gelu")
    if activation not in ACTIVATIONS:
        raise _unsupported(f"Its activation is {activation!r}")
    config = EncoderConfig(
        vocab_size=int(fields["vocab_size"]),
        hidden_size=int(fields["hidden_size"]),
        layers=int(fields["num_hidden_layers"]),
        heads=int(fields["num_attention_heads"]),
        ffn_size=int(fields["intermediate_size"]),
        norm_eps=float(fields.get("layer_norm_eps", 1e-12)),
        positions=int(fields["max_position_embeddings"]),
        token_types=int(fields.get("type_vocab_size", 2)),
        activation=ACTIVATIONS[activation],
    )
    if config.hidden_size % config.heads or min(config.layers, config.positions, config.vocab_size) < 1:
        raise _unsupported(f"Its sizes do not fit: {config}")
    return config


def _modules(folder: Path) -> dict[str, str]:
    """The names of the model's parts, in order, with their folders; empty if it does not say."""
    if not (folder / MODULES).is_file():
        return {}
    listed = json.loads((folder / MODULES).read_bytes())
    kinds = {str(item["type"]).rsplit(".", 1)[-1]: str(item["path"]) for item in listed}
    unknown = [kind for kind in kinds if kind not in KNOWN_MODULES]
    if unknown:
        raise _unsupported(f"It ends in a module '{unknown[0]}'; supported are {', '.join(KNOWN_MODULES)}")
    return kinds


def _pooling(folder: Path, kinds: dict[str, str]) -> PoolingKind:
    if "Pooling" not in kinds:
        return "mean"
    fields = _fields(folder / kinds["Pooling"] / "config.json")
    stated = fields.get("pooling_mode")  # newer files name it, older ones set a flag per kind
    wanted = (
        [f"pooling_mode_{stated}"]
        if stated
        else [key for key, on in fields.items() if key.startswith("pooling_mode_") and on]
    )
    names = {
        **POOLING_FLAGS,
        **{key.removesuffix("_token").removesuffix("_tokens"): kind for key, kind in POOLING_FLAGS.items()},
    }
    if len(wanted) != 1 or wanted[0] not in names:
        raise _unsupported(
            f"Its pooling is {', '.join(wanted) or 'not stated'}; supported are cls, mean and last token"
        )
    return names[wanted[0]]


def _max_context(folder: Path, model: EncoderConfig | ModelConfig) -> int:
    """The shortest of what sentence-transformers, the tokenizer and the model allow."""
    stated = [
        _fields(folder / "sentence_bert_config.json").get("max_seq_length"),
        _fields(folder / "tokenizer_config.json").get("model_max_length"),
    ]
    own = model.positions if isinstance(model, EncoderConfig) else model.max_context
    return min([own, *(int(value) for value in stated if value)])


def _fields(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        return dict(json.loads(path.read_bytes()))
    except (ValueError, TypeError) as error:
        raise _unsupported(f"Its {path.name} cannot be read: {error}") from error


def _unsupported(reason: str) -> FwError:
    return FwError(
        "model_unsupported",
        f"This embedding model cannot be run here. {reason}.",
        not_done="No model was loaded.",
        hint="supported are BertModel with cls or mean pooling, and decoders that fw runs with last-token pooling",
    )
