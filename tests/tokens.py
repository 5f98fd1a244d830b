"""Tokens as o200k counts them: the measure of what an agent reads, the same in every test and record."""

from __future__ import annotations

from functools import cache

from openai_harmony import HarmonyEncoding, HarmonyEncodingName, load_harmony_encoding


def count_tokens(text: str) -> int:
    """Tokens of ``text``, special ones allowed; the vocabulary is in the package, nothing is downloaded."""
    return len(_encoding().encode(text, allowed_special="all"))


@cache
def _encoding() -> HarmonyEncoding:
    return load_harmony_encoding(HarmonyEncodingName.HARMONY_GPT_OSS)
