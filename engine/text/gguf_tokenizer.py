"""A byte-level BPE tokenizer rebuilt from the vocabulary and merges inside a GGUF file."""

from __future__ import annotations

from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

from fw_sdk.types import FwError

CONTROL, USER_DEFINED = 3, 4
LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPECIAL_NAMES = {"bos": "bos", "eos": "eos", "unknown": "unk", "padding": "pad", "seperator": "sep"}


def _gpt2() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.ByteLevel(add_prefix_space=False)


def _smollm() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), _gpt2()])


def _llama3() -> pre_tokenizers.PreTokenizer:
    split = pre_tokenizers.Split(Regex(LLAMA3_PATTERN), "isolated")
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


PRE_TOKENIZERS = {
    "default": _gpt2,
    "gpt-2": _gpt2,
    "gpt2": _gpt2,
    "llama-bpe": _llama3,
    "llama3": _llama3,
    "smollm": _smollm,
}
WHOLE_WORDS_FIRST = ("llama-bpe", "llama3")


def tokenizer_from_gguf(metadata: dict[str, Any]) -> Tokenizer:
    """Build the tokenizer that the metadata describes.

    Raises:
        FwError: ``model_unsupported`` for another kind of tokenizer, an unknown pre-tokeniser or a broken vocabulary.
    """
    kind, pre = metadata.get("tokenizer.ggml.model"), metadata.get("tokenizer.ggml.pre", "default")
    if kind != "gpt2":
        raise _unsupported(f"its kind is {kind!r}; supported is 'gpt2' (byte-level BPE)")
    if pre not in PRE_TOKENIZERS:
        raise _unsupported(f"its pre-tokeniser is {pre!r}; supported are {', '.join(sorted(PRE_TOKENIZERS))}")
    try:
        tokens, merges = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.merges"]
        vocabulary = {token: number for number, token in enumerate(tokens)}
        pairs = [_pair(merge) for merge in merges]
        model = models.BPE(vocab=vocabulary, merges=pairs, ignore_merges=pre in WHOLE_WORDS_FIRST)
        tokenizer = Tokenizer(model)
        types = metadata.get("tokenizer.ggml.token_type", [])
        added = [(tokens[number], kind) for number, kind in enumerate(types) if kind in (CONTROL, USER_DEFINED)]
    except Exception as error:  # the tokenizers library raises bare Exception
        raise _unsupported(f"its vocabulary is broken: {error}") from error
    tokenizer.pre_tokenizer = PRE_TOKENIZERS[pre]()
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_tokens([AddedToken(text, special=kind == CONTROL, normalized=False) for text, kind in added])
    return tokenizer


def special_tokens_from_gguf(metadata: dict[str, Any]) -> dict[str, str]:
    """Special tokens by the names that chat templates use (``bos_token`` …)."""
    tokens = metadata.get("tokenizer.ggml.tokens", [])
    ids = {name: metadata.get(f"tokenizer.ggml.{key}_token_id") for key, name in SPECIAL_NAMES.items()}
    return {
        f"{name}_token": tokens[number] for name, number in ids.items() if number is not None and number < len(tokens)
    }


def _pair(merge: str) -> tuple[str, str]:
    left, right = merge.split(" ")
    return left, right


def _unsupported(reason: str) -> FwError:
    return FwError(
        "model_unsupported",
        f"This model's tokenizer cannot be used: {reason}.",
        not_done="No tokenizer was loaded.",
        hint="use the model's Hugging Face folder (with tokenizer.json) instead of this GGUF file",
    )
