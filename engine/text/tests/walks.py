"""Texts that a grammar allows, drawn token by token."""

import random

import numpy as np

from fw_sdk.types import FwError

HURRY_AFTER = 60
CLOSING = ('"', "}", "]", '"}', '"]', "0", "1", "</think>", "[/THINK]", "\n</parameter>\n", "</arg_value>\n")


def allowed(matcher, vocab_size):
    """The ids that may come next."""
    bits = np.unpackbits(matcher.mask().view(np.uint8), bitorder="little")
    assert not bits[vocab_size:].any()
    return np.flatnonzero(bits[:vocab_size])


def walk(compiler, spec, tokenizer, seed, max_tokens=600, hints=CLOSING):
    """One text, or None if it did not end within ``max_tokens``.

    Now and then, and always after a while, it takes one of the ``hints`` that fits, or else it would hardly ever end
    what it began.
    """
    rng, matcher, ids = random.Random(seed), compiler.compile(spec).matcher(), []
    stops = set(compiler.stop_ids)
    closing = [tokenizer.encode(mark) for mark in hints]
    while len(ids) < max_tokens:
        options = allowed(matcher, compiler.vocab_size)
        assert len(options)
        late = len(ids) > HURRY_AFTER
        if stops.intersection(options.tolist()) and (len(options) == len(stops) or late or rng.random() < 0.5):
            matcher.accept(next(iter(stops.intersection(options.tolist()))))
            return tokenizer.decode(ids)
        hint = rng.choice(closing) if late or rng.random() < 0.3 else []
        if hint and fits(matcher, hint):
            ids += hint
            continue
        options = options[~np.isin(options, list(stops))]
        ids.append(int(rng.choice(options)))
        matcher.accept(ids[-1])
    return None


def fits(matcher, ids):
    """Accept all of the ids or none."""
    for count, number in enumerate(ids):
        try:
            matcher.accept(number)
        except FwError:
            matcher.rollback(count)
            return False
    return True
