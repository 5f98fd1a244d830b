"""The compiled step computes the reference's decoder, and a row is the same bits in any company, cut in any way."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import native
from kernels.block_matmul import FLOAT, Matrix, Rows
from kernels.decoder import PAGE, SLICE, Decoder, DecoderWeights, LayerWeights, Shape, Updates, unsupported
from kernels.decoder.reference import decoder_reference

LIBRARY = native.library()
pytestmark = pytest.mark.skipif(LIBRARY is None, reason="no C compiler here")

SHAPES = {
    "small": Shape(layers=2, hidden=64, heads=4, kv_heads=2, width=16, ffn=96, vocabulary=101, eps=1e-5),
    "one-head-a-group": Shape(layers=1, hidden=96, heads=3, kv_heads=3, width=32, ffn=64, vocabulary=50, eps=1e-6),
    "wide-heads": Shape(layers=2, hidden=128, heads=5, kv_heads=1, width=128, ffn=160, vocabulary=33, eps=1e-5),
    "normed": Shape(layers=2, hidden=64, heads=4, kv_heads=2, width=32, ffn=96, vocabulary=101, eps=1e-2, scale=0.3),
}
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def target_shape(shape, target):
    query, kv = shape.heads * shape.width, shape.kv_heads * shape.width
    return {
        "q_proj": (query, shape.hidden),
        "k_proj": (kv, shape.hidden),
        "v_proj": (kv, shape.hidden),
        "o_proj": (shape.hidden, query),
        "gate_proj": (shape.ffn, shape.hidden),
        "up_proj": (shape.ffn, shape.hidden),
        "down_proj": (shape.hidden, shape.ffn),
    }[target]


class Made:
    """A random model, packed, with the tensors that the reference wants."""

    def __init__(self, shape, norms=False):
        generator = np.random.default_rng(0)
        self.shape, self.truth = shape, {}

        def matrix(*names):
            parts = []
            for name in names:
                target = name.split(".")[-1]
                rows, columns = target_shape(shape, target) if target in TARGETS else (shape.vocabulary, shape.hidden)
                parts.append(generator.standard_normal((rows, columns)).astype(np.float32) / columns**0.5)
            packed = Matrix.pack(LIBRARY, [Rows(part, FLOAT) for part in parts], parts[0].shape[1])
            held = torch.from_numpy(np.stack([packed.row(LIBRARY, i) for i in range(packed.rows)])).double()
            for name, tensor in zip(names, held.split([len(part) for part in parts]), strict=True):
                self.truth[name] = tensor
            return packed

        def vector(name, size, low=0.5, high=1.5):
            values = generator.uniform(low, high, size).astype(np.float32)
            self.truth[name] = torch.from_numpy(values).double()
            return values

        layers = tuple(
            LayerWeights(
                vector(f"{i}.input_norm", shape.hidden),
                vector(f"{i}.post_norm", shape.hidden),
                matrix(f"{i}.q_proj", f"{i}.k_proj", f"{i}.v_proj"),
                matrix(f"{i}.o_proj"),
                matrix(f"{i}.gate_proj", f"{i}.up_proj"),
                matrix(f"{i}.down_proj"),
                *((vector(f"{i}.query_norm", shape.width), vector(f"{i}.key_norm", shape.width)) if norms else ()),
            )
            for i in range(shape.layers)
        )
        self.weights = DecoderWeights(
            shape,
            vector("frequencies", shape.width // 2, 0.001, 1.0),
            matrix("embedding"),
            matrix("head"),
            vector("final_norm", shape.hidden),
            layers,
        )

    def decoder(self, threads=2):
        return Decoder(LIBRARY, self.weights, page_count=64, max_tokens=256, max_rows=16, context=512, threads=threads)

    def adapter(self, rank, seed, targets=TARGETS):
        generator = np.random.default_rng(seed)
        pairs = {}
        for layer in range(self.shape.layers):
            for target in targets:
                rows, columns = target_shape(self.shape, target)
                down = generator.standard_normal((rank, columns)).astype(np.float16).astype(np.float32) / 8
                up = generator.standard_normal((rows, rank)).astype(np.float16).astype(np.float32) / 8
                pairs[layer, target] = (down, up)
        truth = {
            key: (torch.from_numpy(down).double(), torch.from_numpy(up).double(), 0.5)
            for key, (down, up) in pairs.items()
        }
        return Updates(self.shape.layers, pairs, 0.5), truth


MODELS = {name: Made(shape, name == "normed") for name, shape in SHAPES.items()} if LIBRARY is not None else {}


def run(decoder, *items):
    """items: (ids, first, count, pages, updates or None, rows of logits)."""
    table = [
        (count, first + count, ids.ctypes.data + 4 * first, pages.ctypes.data, updates.address if updates else 0, rows)
        for ids, first, count, pages, updates, rows in items
    ]
    for *_, updates, _ in items:
        if updates:
            decoder.make_room(updates.rank)
    return decoder.step(np.array(table, SLICE)).copy()


def tokens(shape, count, seed=0):
    return np.random.default_rng(seed).integers(0, shape.vocabulary, count).astype(np.int32)


def some_pages(*counts, seed=0):
    order = np.random.default_rng(seed).permutation(64).astype(np.int32)
    ends = np.cumsum([-(-count // PAGE) for count in counts])
    return [np.ascontiguousarray(part) for part in np.split(order, ends)[:-1]]


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("length", [1, 2, 15, 16, 17, 150])
def test_logits_are_close_to_the_reference(name, length):
    made = MODELS[name]
    ids, (pages,) = tokens(made.shape, length), some_pages(length)
    truth = decoder_reference(made.shape, made.truth, torch.from_numpy(ids).long())[-1].numpy()
    got = run(made.decoder(), (ids, 0, length, pages, None, 1))[0]
    # 8-bit activations keep two to three digits of each product.
    assert np.abs(got - truth).max() < 0.05 * np.abs(truth).max() + 0.02
    assert np.corrcoef(got, truth)[0, 1] > 0.998


@settings(max_examples=25, deadline=None)
@given(data=st.data(), name=st.sampled_from(sorted(SHAPES)), threads=st.integers(1, 3))
def test_a_sequence_has_the_same_bits_in_any_chunks_batch_and_pages(data, name, threads):
    made = MODELS[name]
    length = data.draw(st.integers(1, 90), "length")
    ids, (pages,) = tokens(made.shape, length), some_pages(length)
    wanted = run(made.decoder(1), (ids, 0, length, pages, None, 1))[0]
    decoder = made.decoder(threads)
    other = tokens(made.shape, 90, seed=1)
    own_pages, other_pages = some_pages(length, 90, seed=3)
    updates, _ = made.adapter(4, 0)
    done = beside = 0
    while done < length:
        count = data.draw(st.integers(1, length - done), "chunk")
        items = [(ids, done, count, own_pages, None, int(done + count == length))]
        step = min(data.draw(st.integers(0, 20), "beside"), 90 - beside)
        if step:
            items.append((other, beside, step, other_pages, updates, 1))
        got = run(decoder, *items)
        done, beside = done + count, beside + step
    assert np.array_equal(got[0], wanted)


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("rank", [1, 16, 20])
def test_adapters_of_a_mixed_batch_change_their_own_rows_as_the_reference_says(name, rank):
    made = MODELS[name]
    ids = [tokens(made.shape, count, seed=count) for count in (5, 20, 9)]
    pages = some_pages(5, 20, 9)
    first, first_truth = made.adapter(rank, 1)
    second, second_truth = made.adapter(3, 2, ("q_proj", "down_proj"))
    got = run(
        made.decoder(),
        (ids[0], 0, 5, pages[0], None, 1),
        (ids[1], 0, 20, pages[1], first, 1),
        (ids[2], 0, 9, pages[2], second, 1),
    )
    for row, (own, truth) in enumerate(zip(ids, ({}, first_truth, second_truth), strict=True)):
        wanted = decoder_reference(made.shape, made.truth, torch.from_numpy(own).long(), truth)[-1].numpy()
        plain = decoder_reference(made.shape, made.truth, torch.from_numpy(own).long())[-1].numpy()
        assert np.abs(got[row] - wanted).max() < 0.08 * np.abs(wanted).max() + 0.05
        assert not truth or np.abs(got[row] - wanted).max() < np.abs(wanted - plain).max() / 2
    alone = run(made.decoder(1), (ids[1], 0, 20, pages[1], first, 1))
    assert np.array_equal(alone[0], got[1])


@pytest.mark.parametrize("threads", [1, 2])
def test_rows_inside_a_chunk_have_the_bits_of_the_last_row_of_a_shorter_one(threads):
    made = MODELS["small"]
    ids, (pages, other) = tokens(made.shape, 40), some_pages(40, 9)
    wanted = [run(made.decoder(1), (ids, 0, end, pages, None, 1))[0] for end in range(31, 41)]
    decoder = made.decoder(threads)
    run(decoder, (ids, 0, 30, pages, None, 0))
    got = run(decoder, (ids, 0, 9, other, None, 2), (ids, 30, 10, pages, None, 10))
    assert got.shape == (12, made.shape.vocabulary)
    assert np.array_equal(got[2:], wanted)
    assert np.array_equal(got[1], run(made.decoder(1), (ids, 0, 9, other, None, 1))[0])


def test_every_variant_computes_the_same_model():
    made = MODELS["small"]
    ids, (pages,) = tokens(made.shape, 40), some_pages(40)
    best = run(made.decoder(), (ids, 0, 40, pages, None, 1))[0]
    for variant in native.usable_variants()[1:]:
        decoder = made.decoder()
        decoder._step = LIBRARY.function("decoder_step", variant.name)
        decoder._team = native.Team(LIBRARY, 2, variant.name)
        got = run(decoder, (ids, 0, 40, pages, None, 1))[0]
        # A rounding of one activation to the neighbouring level shows in the third digit.
        assert np.abs(got - best).max() < 0.02 * np.abs(best).max()


def test_nothing_is_drawn_when_nobody_asks():
    made = MODELS["small"]
    ids, (pages,) = tokens(made.shape, 8), some_pages(8)
    assert run(made.decoder(), (ids, 0, 8, pages, None, 0)).shape == (0, made.shape.vocabulary)


@pytest.mark.parametrize(
    ("change", "word"),
    [({"hidden": 48}, "hidden size"), ({"ffn": 40}, "feed-forward"), ({"width": 24}, "head width")],
)
def test_what_it_cannot_compute_is_said(change, word):
    fields = {**SHAPES["small"].__dict__, **change}
    assert word in unsupported(Shape(**fields))
    assert unsupported(SHAPES["small"]) is None
