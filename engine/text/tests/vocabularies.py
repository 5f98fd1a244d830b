"""Tokenizers of kinds that the tiny model does not have."""

from tokenizers import AddedToken, Regex, decoders, models, normalizers
from tokenizers import Tokenizer as Backend

from engine.text import Tokenizer


def byte_fallback_tokenizer():
    """A vocabulary like Llama 2's: pieces with ▁ for a space, and one token per byte for what is missing."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *"abcdeé", "▁a", "ab", "▁ab"]
    backend = Backend(
        models.BPE(
            vocab={piece: number for number, piece in enumerate(pieces)},
            merges=[("▁", "a"), ("a", "b"), ("▁", "ab")],
            byte_fallback=True,
            unk_token="<unk>",
        )
    )
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(Regex(" "), "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.add_tokens([AddedToken(piece, special=True, normalized=False) for piece in pieces[:3]])
    return Tokenizer(backend, eos_ids=[2])
