"""Texts that a grammar allows, drawn token by token."""

import random

import numpy as np

HURRY_AFTER = 60


def allowed(matcher, vocab_size):
    """The ids that may come next."""
    bits = np.unpackbits(matcher.mask().view(np.uint8), bitorder="little")
    assert not bits[vocab_size:].any()
    return np.flatnonzero(bits[:vocab_size])


def walk(compiler, spec, tokenizer, seed, max_tokens=600):
    """One text, or None if it did not end within ``max_tokens``.

    After a while it prefers short pieces that close something, or else an open string would go on for ever.
    """
    rng, matcher, ids = random.Random(seed), compiler.compile(spec).matcher(), []
    stops = set(compiler.stop_ids)
    closing = [number for mark in ('"', '"}', '"]', "}", "]", "}}") for number in tokenizer.encode(mark)]
    while len(ids) < max_tokens:
        options = allowed(matcher, compiler.vocab_size)
        assert len(options)
        ends = stops.intersection(options.tolist())
        if ends and (len(options) == len(ends) or len(ids) > HURRY_AFTER or rng.random() < 0.5):
            matcher.accept(min(ends))
            return tokenizer.decode(ids)
        options = options[~np.isin(options, list(stops))]
        hurry = np.intersect1d(options, closing) if len(ids) > HURRY_AFTER or rng.random() < 0.3 else []
        token = int(rng.choice(hurry if len(hurry) else options))
        matcher.accept(token)
        ids.append(token)
    return None
