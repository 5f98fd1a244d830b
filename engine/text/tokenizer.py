"""Text to token ids and back, from a tokenizer.json or from a GGUF file."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders

from engine.catalog import GgufFile, find_model_files
from engine.text.gguf_tokenizer import special_tokens_from_gguf, tokenizer_from_gguf
from fw_sdk.types import FwError

BYTE_PIECE = re.compile(r"<0x[0-9A-Fa-f]{2}>")
METASPACE = "▁"
TEMPLATE_NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's printable stand-in for each byte: itself if printable in Latin-1, else 256 and up."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + at): byte for at, byte in enumerate(others)}


BYTE_OF = _byte_alphabet()


class Tokenizer:
    """A model's tokenizer.

    Attributes:
        eos_ids: ids that end a text.
        bos_id: the id that begins one, if the model has it; ``encode`` never adds it.
        chat_template: the Jinja source, if the model has one.
        special_tokens: special tokens by the names that templates use (``eos_token``).
        response_template: how to read the model's answers, if its files say; untrusted, checked where it is used.
        special_ids: ids that ``decode(…, skip_special=True)`` leaves out.
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        *,
        eos_ids: Sequence[int] = (),
        bos_id: int | None = None,
        chat_template: str | None = None,
        special_tokens: dict[str, str] | None = None,
        response_template: Any = None,
    ) -> None:
        backend.no_truncation()
        backend.no_padding()
        self._backend = backend
        self.eos_ids = tuple(eos_ids)
        self.bos_id = bos_id
        self.chat_template = chat_template
        self.special_tokens = dict(special_tokens or {})
        self.response_template = response_template
        added = backend.get_added_tokens_decoder()
        self.special_ids = frozenset(number for number, token in added.items() if token.special)
        self._added = {number: token.content for number, token in added.items()}

    @classmethod
    def load(cls, path: Path) -> Tokenizer:
        """Load from a folder with tokenizer.json, or else from the GGUF file there.

        Raises:
            FwError: ``not_found`` or ``model_unsupported``.
        """
        path = Path(path)
        try:
            if path.is_dir() and (path / "tokenizer.json").is_file():
                return _from_folder(path)
            gguf = find_model_files(path).gguf
            if gguf is None:
                raise _unreadable(f"there is no tokenizer.json in '{path.name}'")
            return _from_gguf(GgufFile.open(gguf).metadata)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise _unreadable(f"{type(error).__name__}: {error}") from error

    @cached_property
    def digest(self) -> str:
        """Digest of everything that decides which ids a text gets."""
        return "sha256:" + hashlib.sha256(self._backend.to_str().encode()).hexdigest()

    @property
    def vocab_size(self) -> int:
        """Number of ids, added tokens included."""
        return int(self._backend.get_vocab_size(with_added_tokens=True))

    @cached_property
    def byte_level(self) -> bool:
        """Whether each id stands for fixed bytes, whatever is around it."""
        return isinstance(self._backend.decoder, decoders.ByteLevel)

    def encode(self, text: str) -> list[int]:
        """The ids of ``text``; special tokens written out in it are recognised, none is added.

        Raises:
            FwError: ``invalid_argument`` if the text has lone surrogates, which no UTF-8 can express.
        """
        try:
            return list(self._backend.encode(text, add_special_tokens=False).ids)
        except (TypeError, UnicodeEncodeError) as error:
            raise _not_unicode() from error

    def encode_whole(self, texts: Sequence[str], limit: int | None = None) -> list[list[int]]:
        """The ids of each text between the special tokens that the tokenizer's own template puts around it.

        Args:
            texts: any number.
            limit: longest result; what is longer loses the end of its text, not its special tokens.

        Raises:
            FwError: ``invalid_argument`` as ``encode``.
        """
        try:
            plain = self._backend.encode_batch(list(texts), add_special_tokens=False)
        except (TypeError, UnicodeEncodeError) as error:
            raise _not_unicode() from error
        around = self._backend.num_special_tokens_to_add(False)
        if limit is not None:
            for encoding in plain:
                encoding.truncate(max(0, limit - around))
        return [list(self._backend.post_process(encoding).ids) for encoding in plain]

    def decode(self, ids: Sequence[int], skip_special: bool = False) -> str:
        """The text of ``ids``; bytes that are no UTF-8 become U+FFFD."""
        return str(self._backend.decode(list(ids), skip_special_tokens=skip_special))

    def token(self, token_id: int) -> str | None:
        """The vocabulary's own spelling of an id, or None if there is no such id."""
        piece: str | None = self._backend.id_to_token(token_id)
        return piece

    def id_of(self, token: str) -> int | None:
        """The id of a vocabulary entry or special token, or None."""
        number: int | None = self._backend.token_to_id(token)
        return number

    @cached_property
    def _space(self) -> str:
        """The character that stands for a space in the vocabulary's spelling; a space itself if none does."""
        decoder = self._backend.decoder
        return METASPACE if decoder is not None and decoder.decode(["a", METASPACE + "b"]) == "a b" else " "

    def _spelled(self, piece: str) -> bytes:
        """The bytes of an entry of a vocabulary that is not byte-level; ``<0x0A>`` is a byte."""
        if BYTE_PIECE.fullmatch(piece):
            return bytes([int(piece[3:5], 16)])
        return piece.replace(self._space, " ").encode()

    def id_to_bytes(self, token_id: int) -> bytes:
        """The bytes that an id stands for inside a text; empty for an id outside the vocabulary."""
        added = self._added.get(token_id)
        piece = added or self.token(token_id)
        if piece is None:
            return b""
        if not self.byte_level:
            return piece.encode() if added else self._spelled(piece)
        try:
            return bytes(BYTE_OF[character] for character in piece)
        except KeyError:
            return piece.encode()


def _from_gguf(metadata: dict[str, Any]) -> Tokenizer:
    backend = tokenizer_from_gguf(metadata)
    eos = [metadata.get(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot")]
    template = metadata.get("tokenizer.chat_template")
    return Tokenizer(
        backend,
        eos_ids=tuple(dict.fromkeys(int(number) for number in eos if number is not None)),
        bos_id=metadata.get("tokenizer.ggml.bos_token_id"),
        chat_template=template if isinstance(template, str) else None,
        special_tokens=special_tokens_from_gguf(metadata),
    )


def _from_folder(folder: Path) -> Tokenizer:
    try:
        backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as error:  # the tokenizers library raises bare Exception
        raise _unreadable(f"tokenizer.json is broken: {error}") from error
    fields = _json(folder / "tokenizer_config.json")
    named = {**_json(folder / "special_tokens_map.json"), **fields}
    special = {name: _content(named[name]) for name in TEMPLATE_NAMES if named.get(name)}
    eos: list[int] = []
    for source in (_json(folder / "generation_config.json"), _json(folder / "config.json")):
        stated = source.get("eos_token_id")
        eos += stated if isinstance(stated, list) else [] if stated is None else [stated]
    for name in ("eos_token", "eot_token"):
        number = backend.token_to_id(special.get(name) or _content(named.get(name) or ""))
        eos += [] if number is None else [number]
    bos = backend.token_to_id(special["bos_token"]) if "bos_token" in special else None
    return Tokenizer(
        backend,
        eos_ids=tuple(dict.fromkeys(int(number) for number in eos)),
        bos_id=bos,
        chat_template=_template(folder, fields),
        special_tokens=special,
        response_template=fields.get("response_template"),
    )


def _json(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_bytes())) if path.is_file() else {}


def _content(token: Any) -> str:
    return str(token["content"]) if isinstance(token, dict) else str(token)


def _template(folder: Path, fields: dict[str, Any]) -> str | None:
    file = folder / "chat_template.jinja"
    if file.is_file():
        return file.read_text("utf-8")
    stated = _json(folder / "chat_template.json").get("chat_template") or fields.get("chat_template")
    if isinstance(stated, list):
        stated = {entry["name"]: entry["template"] for entry in stated}.get("default")
    return stated if isinstance(stated, str) else None


def _not_unicode() -> FwError:
    return FwError(
        "invalid_argument",
        "The text is no valid Unicode: it holds a lone surrogate.",
        not_done="Nothing was tokenised.",
        hint="send valid Unicode",
    )


def _unreadable(reason: str) -> FwError:
    return FwError(
        "model_unsupported",
        f"This model's tokenizer cannot be read: {reason}.",
        not_done="No tokenizer was loaded.",
        hint="a model needs tokenizer.json beside its safetensors, or a GGUF file with its tokenizer inside",
    )
