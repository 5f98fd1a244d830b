"""Which files make a model, and which are never read."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from fw_sdk.types import FwError

SUPPORTED = "a folder with config.json, tokenizer.json and *.safetensors, or one .gguf file"
KNOWN_JSON = frozenset(
    {
        "added_tokens.json",
        "chat_template.json",
        "config.json",
        "config_sentence_transformers.json",
        "generation_config.json",
        "model.safetensors.index.json",
        "modules.json",
        "sentence_bert_config.json",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "vocab.json",
    }
)
CHAT_TEMPLATE = "chat_template.jinja"
MODULE_CONFIG = re.compile(r"\d_\w+/config\.json")
"""What the parts of an embedding model are told (``1_Pooling/config.json``)."""
WEIGHT_SUFFIXES = (".safetensors", ".gguf")
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")


@dataclass(frozen=True)
class ModelFiles:
    """The files of one model.

    Attributes:
        root: the folder they are in.
        gguf: the GGUF file that holds everything, or None for the Hugging Face layout.
        weights: the safetensors files, sorted by name; empty with a GGUF.
        others: JSON files and the chat template beside the safetensors, sorted by name.
    """

    root: Path
    gguf: Path | None
    weights: tuple[Path, ...] = ()
    others: tuple[Path, ...] = ()

    @property
    def all(self) -> tuple[Path, ...]:
        """Every file of the model."""
        return (self.gguf,) if self.gguf else self.weights + self.others

    @property
    def bytes(self) -> int:
        """Size of all files."""
        return sum(path.stat().st_size for path in self.all)


def allowed_name(name: str) -> bool:
    """Whether a file may be copied and read: weights in a format without code, known JSON, the chat template.

    Args:
        name: its path below the model's folder, with ``/``.
    """
    known = name in KNOWN_JSON or name == CHAT_TEMPLATE or MODULE_CONFIG.fullmatch(name) is not None
    return known or ("/" not in name and name.endswith(WEIGHT_SUFFIXES))


def find_model_files(path: Path) -> ModelFiles:
    """The model's files in a folder, or the one GGUF file that ``path`` names.

    Raises:
        FwError: ``not_found`` if there is nothing at ``path``; ``model_unsupported`` if nothing loadable is there.
    """
    if path.is_file():
        if path.suffix == ".gguf":
            return ModelFiles(path.parent, path)
        raise _unsupported(f"'{path.name}' is not a model file", [path])
    if not path.is_dir():
        raise FwError(
            "not_found", f"There is no model at '{path}'.", hint="give a folder or a .gguf file", param="path"
        )
    files = sorted(file for file in path.iterdir() if file.is_file())
    weights = tuple(file for file in files if file.suffix == ".safetensors")
    ggufs = [file for file in files if file.suffix == ".gguf"]
    if weights and (path / "config.json").is_file():
        beside = [file for file in files if allowed_name(file.name) and file.suffix not in WEIGHT_SUFFIXES]
        nested = [
            file for file in path.glob("*/config.json") if MODULE_CONFIG.fullmatch(f"{file.parent.name}/config.json")
        ]
        others = (*beside, *sorted(nested))
        return ModelFiles(path, None, weights, others)
    if len(ggufs) == 1:
        return ModelFiles(path, ggufs[0])
    if ggufs:
        names = ", ".join(file.name for file in ggufs[:4])
        raise _unsupported(f"'{path.name}' holds several GGUF files ({names}): name one of them", files)
    if weights:
        raise _unsupported(f"'{path.name}' has weights but no config.json", files)
    raise _unsupported(f"'{path.name}' holds no weights that fw reads", files)


def _unsupported(reason: str, files: list[Path]) -> FwError:
    pickles = [file.name for file in files if file.suffix in PICKLE_SUFFIXES]
    refused = f" Pickle files are never read ({', '.join(pickles[:4])})." if pickles else ""
    return FwError(
        "model_unsupported",
        f"{reason}.{refused}",
        not_done="No model was loaded.",
        hint=f"supported: {SUPPORTED}",
        param="path",
    )
