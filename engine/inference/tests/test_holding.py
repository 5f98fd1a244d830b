"""int8 and int4 on load for every family, experts too: logits are those of the numbers that are held."""

import gguf
import numpy as np
import pytest
import torch
import transformers

from engine.catalog import open_model
from engine.catalog.tests.gguf_writer import LLAMA
from engine.catalog.tests.gguf_writer import gguf as write
from engine.inference import Engine, EngineConfig, SamplingParams
from engine.inference.exactness.check import check
from engine.inference.tests.test_families import CASES, COMMON
from engine.inference.tests.tiny import tiny_adapter, tiny_model
from engine.models import load_for_inference, load_model, packed
from engine.models.few_bits import FewBitsLinear
from engine.models.holding import Holding
from engine.models.loading import load_opened
from engine.models.tests.test_llama import logits_of
from fw_sdk.types import FwError
from kernels import native
from kernels.block_matmul import PackedLinear

CPU = torch.device("cpu")
NAMES = ("mistral with a window", "qwen2 with windows", "qwen3", "qwen3_moe", "gemma3", "gpt_oss", "qwen3_next")
WIDE_EXPERTS = {name: {"moe_intermediate_size": 64} for name in ("qwen3_moe", "qwen3_next")}
IDS = torch.randint(3, 320, (90,), generator=torch.Generator().manual_seed(2)).tolist()


@pytest.fixture(scope="module", params=NAMES)
def folder(request, tmp_path_factory):
    case, folder = CASES[request.param], tmp_path_factory.mktemp("family")
    torch.manual_seed(0)
    fields = {**COMMON, "head_dim": 32, **case.fields, **WIDE_EXPERTS.get(request.param, {})}
    peer = getattr(transformers, case.model)(getattr(transformers, case.config)(**fields)).eval()
    for name, parameter in peer.named_parameters():
        if name.endswith("bias"):
            parameter.data.add_(torch.randn_like(parameter) * 0.3)
    peer.save_pretrained(folder)
    return folder


def with_held_numbers(model, folder):
    """The model in floats, with every matrix as ``model`` holds it."""
    full = load_model(folder, dtype=torch.float32)
    for layer, held in zip(full.layers, model.layers, strict=True):
        for (name, expert), product in held.packed.items():
            buffer = getattr(layer, name)
            target = buffer if expert is None else buffer[expert]
            target.copy_(product.rows(torch.arange(len(target))))
    for name, product in model.packed.items():
        buffer = getattr(full, name)
        buffer.copy_(product.rows(torch.arange(len(buffer))))
    return full


@pytest.mark.skipif(native.library() is None, reason="no C compiler here")
def test_a_row_has_the_same_bits_in_any_batch(folder):
    model = load_for_inference(folder, dtype="int8", device=CPU, numerics="exact")
    report = check(model, "held", 120)
    assert (report.format, report.numerics, report.different) == ("int8", "exact", 0)


@pytest.mark.parametrize("dtype", ["int8", "int4"])
@pytest.mark.parametrize("kernels", [True, False], ids=["compiled", "torch alone"])
def test_logits_are_those_of_the_held_numbers(folder, dtype, kernels, monkeypatch):
    if kernels and native.library() is None:
        pytest.skip("no C compiler here")
    if not kernels:
        monkeypatch.setattr(packed, "library", lambda: None)
    model = load_for_inference(folder, dtype=dtype, device=CPU, numerics="auto")
    kind = PackedLinear if kernels else FewBitsLinear
    products = [product for layer in model.layers for product in layer.packed.values()]
    assert products and all(isinstance(product, kind) for product in products)
    names = {name for layer in model.layers for name, _ in layer.packed}
    assert {"qkv", "output"} <= names and not names & {"router", "shared_gate", "recurrent_gates", "filters"}
    assert ("recurrent" in names) == bool(model.config.recurrence)
    if model.config.experts:
        experts = {name for name, expert in model.layers[0].packed if expert is not None}
        assert experts == {"experts_gate_up", "experts_down"}
    assert (model.format, model.dtype) == (dtype, torch.float32)
    full = load_model(folder, dtype=torch.float32)
    with torch.inference_mode():
        found, plain = logits_of(model, IDS), logits_of(full, IDS)
        same = logits_of(with_held_numbers(model, folder), IDS)
    torch.testing.assert_close(found, same, atol=0.02 * float(plain.std()) if kernels else 1e-3, rtol=0)
    likeness = torch.nn.functional.cosine_similarity(found, plain, -1).mean()
    assert likeness > (0.99 if dtype == "int8" else 0.7)
    # Without compiled kernels the 64 columns are filled up to 128.
    assert model.weight_bytes < full.weight_bytes * (0.7 if not kernels else 0.5 if dtype == "int8" else 0.4)


def test_held_weights_move_to_another_device(tmp_path):
    """To the one that every torch has; a GPU takes the same way."""
    opened = open_model(tiny_model(tmp_path / "model"))
    model = load_opened(opened, dtype=torch.float32, device="meta", holding=Holding(4, None))
    products = [*model.packed.values(), *(product for layer in model.layers for product in layer.packed.values())]
    assert len(products) > 4 and model.device.type == "meta"
    assert all(product.rows(torch.arange(2, device="meta")).is_meta for product in products)
    assert all(buffer.is_meta for buffer in model.buffers())
    hidden = model(torch.zeros(3, dtype=torch.int64, device="meta"), torch.arange(3, device="meta"), MetaAttention())
    assert model.logits(hidden).is_meta


@pytest.mark.skipif(native.library() is None, reason="no C compiler here")
def test_exact_numerics_hold_for_held_weights(folder):
    """A log-probability has the same bits alone, in company and in chunks."""
    params = SamplingParams(max_tokens=6, temperature=0, ignore_eos=True, logprobs=3)
    prompts = [IDS[:50], IDS[20:31], IDS[5:80]]

    def answers(given, **sizes):
        model = load_for_inference(folder, dtype="int8", device=CPU, numerics="exact")
        engine = Engine(model, None, EngineConfig(kv_bytes=8 << 20, **sizes), numerics="exact")
        return [[item.top for item in answer.logprobs] for answer in engine.generate(given, params)]

    alone = answers(prompts[:1])[0]
    assert answers(prompts)[0] == alone
    assert answers(prompts, max_batched_tokens=16, max_running=8)[0] == alone


class MetaAttention:
    def __call__(self, layer, query, key, value, **_):
        return query


def test_what_no_product_holds_is_said(tmp_path):
    folder = tiny_model(tmp_path / "model", hidden_size=48)
    for dtype, numerics in (("int8", "auto"), ("int4", "fast"), ("int8", "exact")):
        with pytest.raises(FwError, match="hidden size 48"):
            load_for_inference(folder, dtype=dtype, device=CPU, numerics=numerics)


def test_requests_and_adapters_run_on_held_weights(tmp_path):
    """The torch runner with products: a model that the compiled step does not know."""
    folder = tiny_model(tmp_path / "model", head_dim=24, num_attention_heads=8, num_key_value_heads=4)
    engine = Engine.load(folder, dtype="int8", config=EngineConfig(kv_bytes=8 << 20))
    assert (engine.format, engine.packed) == ("int8", False)
    assert engine.memory.weight_bytes == engine.model.weight_bytes
    engine.load_adapter("a", str(tiny_adapter(tmp_path / "adapter", folder, seed=1)))
    greedy = SamplingParams(max_tokens=6, temperature=0, ignore_eos=True)
    alone = [engine.generate([[5, 6, 7, 8]], greedy, adapter=name)[0].token_ids for name in (None, "a")]
    assert alone[0] != alone[1]
    engine.check_integrity()


def tensors(kinds):
    """A Llama's tensors of width 64, those of ``kinds`` quantised."""
    generator = np.random.default_rng(0)
    shapes = {"attn_q": (64, 64), "attn_k": (32, 64), "attn_v": (32, 64), "attn_output": (64, 64)}
    shapes |= {"ffn_gate": (96, 64), "ffn_up": (96, 64), "ffn_down": (64, 96)}
    made = {f"blk.0.{name}.weight": generator.normal(size=shape) * 0.2 for name, shape in shapes.items()}
    made["token_embd.weight"] = generator.normal(size=(320, 64)) * 0.2
    for name, kind in kinds.items():
        array = made[name].astype(np.float32)
        made[name] = (int(kind), array.shape, gguf.quantize(array, kind).tobytes())
    return made | {f"{name}.weight": np.ones(64) for name in ("blk.0.attn_norm", "blk.0.ffn_norm", "output_norm")}


@pytest.mark.skipif(native.library() is None, reason="no C compiler here")
def test_a_gguf_of_many_types_keeps_what_can_be_packed(tmp_path):
    types = gguf.GGMLQuantizationType
    kinds = {f"blk.0.{name}.weight": types.Q8_0 for name in ("attn_q", "attn_k", "attn_v", "attn_output")}
    kinds |= {"blk.0.ffn_gate.weight": types.MXFP4, "blk.0.ffn_up.weight": types.Q5_0, "token_embd.weight": types.Q4_1}
    sizes = {"embedding_length": 64, "feed_forward_length": 96, "attention.head_count": 4}
    meta = LLAMA | {f"llama.{name}": size for name, size in sizes.items()} | {"llama.attention.head_count_kv": 2}
    path = tmp_path / "mixed.gguf"
    path.write_bytes(write(meta, tensors(kinds)))
    model = load_for_inference(path, dtype="auto", device=CPU, numerics="auto")
    assert {name for name, _ in model.layers[0].packed} == {"qkv", "output"}
    assert model.format == "q8_0"
    assert set(model.packed) == {"embedding", "head"}
    full = load_model(path, dtype=torch.float32)
    with torch.inference_mode():
        found, plain = logits_of(model, IDS), logits_of(full, IDS)
    torch.testing.assert_close(found, plain, atol=0.01 * float(plain.std()), rtol=0)
