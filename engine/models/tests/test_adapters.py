"""Adapters against PEFT, both ways, and mixed batches against one adapter at a time."""

import json

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import LlamaForCausalLM

from engine.catalog import TARGETS, read_adapter_info
from engine.models import (
    MixedAdapters,
    PackedCausalAttention,
    SingleAdapter,
    load_adapter,
    load_model,
    new_adapter,
    save_adapter,
)
from fw_sdk.types import FwError
from kernels.arguments import interpreting
from kernels.registry import preferring

IDS = [3, 44, 17, 90, 260, 5, 5, 8, 131]


@pytest.fixture(scope="module")
def model(tiny_llama_dir):
    return load_model(tiny_llama_dir, dtype=torch.float32)


@pytest.fixture(scope="module")
def peer(tiny_llama_dir):
    return LlamaForCausalLM.from_pretrained(tiny_llama_dir, dtype=torch.float32)


def filled(config, rank=4, alpha=6.0, targets=TARGETS, seed=0):
    """An adapter with a B that is not zero."""
    adapter = new_adapter(config, rank, alpha, targets, seed)
    generator = torch.Generator().manual_seed(seed + 1)
    for _, up in adapter.weights.values():
        up.data.normal_(0, 0.3, generator=generator)
    return adapter


def logits_of(model, ids, adapters):
    hidden = model(torch.tensor(ids), torch.arange(len(ids)), PackedCausalAttention([len(ids)]), adapters)
    return model.logits(hidden)


@pytest.mark.parametrize("targets", [TARGETS, ("q_proj", "v_proj"), ("down_proj",)])
def test_peft_loads_what_we_save(model, tiny_llama_dir, tmp_path, targets):
    adapter = filled(model.config, targets=targets)
    save_adapter(tmp_path, adapter, "tiny")
    peer = PeftModel.from_pretrained(LlamaForCausalLM.from_pretrained(tiny_llama_dir), tmp_path)
    with torch.inference_mode():
        expected = peer(torch.tensor([IDS])).logits[0]
        torch.testing.assert_close(logits_of(model, IDS, SingleAdapter(adapter)), expected, atol=1e-4, rtol=0)
        assert (expected - logits_of(model, IDS, None)).abs().max() > 0.1
    loaded = load_adapter(tmp_path, model.config, torch.float32)
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), adapter.parameters(), strict=True))
    assert not any(tensor.requires_grad for tensor in loaded.parameters())
    info = read_adapter_info(tmp_path)
    assert (info.rank, info.alpha, info.targets, info.base) == (4, 6.0, targets, "tiny")


def test_we_load_what_peft_saves(model, tiny_llama_dir, tmp_path):
    torch.manual_seed(5)
    config = LoraConfig(r=3, lora_alpha=12, target_modules=["q_proj", "o_proj", "up_proj"], init_lora_weights=False)
    peer = get_peft_model(LlamaForCausalLM.from_pretrained(tiny_llama_dir), config)
    peer.save_pretrained(tmp_path)
    adapter = load_adapter(tmp_path, model.config, torch.float32)
    with torch.inference_mode():
        expected = peer(torch.tensor([IDS])).logits[0]
        torch.testing.assert_close(logits_of(model, IDS, SingleAdapter(adapter)), expected, atol=1e-4, rtol=0)


def test_gradients_equal_pefts(model, tiny_llama_dir, tmp_path):
    """The same loss gives every A and B the same gradient, and nothing else gets one."""
    adapter = filled(model.config)
    save_adapter(tmp_path, adapter, "tiny")
    base = LlamaForCausalLM.from_pretrained(tiny_llama_dir)
    peer = PeftModel.from_pretrained(base, tmp_path, is_trainable=True)
    peer(torch.tensor([IDS])).logits[0].log_softmax(-1)[:, 7].sum().backward()
    logits_of(model, IDS, SingleAdapter(adapter)).log_softmax(-1)[:, 7].sum().backward()
    theirs = {name: parameter.grad for name, parameter in peer.named_parameters() if parameter.grad is not None}
    assert len(theirs) == len(adapter.parameters())
    for (layer, target), (down, up) in adapter.weights.items():
        for side, ours in (("A", down), ("B", up)):
            (name,) = (n for n in theirs if f"layers.{layer}." in n and f".{target}.lora_{side}" in n)
            torch.testing.assert_close(ours.grad, theirs[name], atol=1e-3, rtol=1e-3)
    assert all(buffer.grad is None for buffer in model.buffers())


def test_a_new_adapter_changes_nothing_and_is_reproducible(model):
    adapter = new_adapter(model.config, 8, 16.0, ["v_proj", "q_proj"], seed=3)
    assert adapter.targets == ("q_proj", "v_proj")
    with torch.no_grad():
        assert torch.equal(logits_of(model, IDS, SingleAdapter(adapter)), logits_of(model, IDS, None))
    again, other = (new_adapter(model.config, 8, 16.0, ["v_proj", "q_proj"], seed=seed) for seed in (3, 4))
    assert torch.equal(again.weights[1, "q_proj"][0], adapter.weights[1, "q_proj"][0])
    assert not torch.equal(other.weights[1, "q_proj"][0], adapter.weights[1, "q_proj"][0])
    bound = model.config.hidden_size**-0.5
    assert 0.9 * bound < adapter.weights[0, "q_proj"][0].abs().max() <= bound


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(segments=st.lists(st.tuples(st.integers(2, 9), st.sampled_from([None, 0, 1])), min_size=1, max_size=5))
def test_a_mixed_batch_gives_each_row_its_own_adapter(model, segments):
    adapters = [filled(model.config, seed=1), filled(model.config, rank=2, targets=("k_proj", "gate_proj"), seed=9)]
    ids = [[(7 * number + at) % 500 for at in range(length)] for number, (length, _) in enumerate(segments)]
    positions = torch.cat([torch.arange(length) for length, _ in segments])
    mixed = MixedAdapters([(length, None if which is None else adapters[which]) for length, which in segments])
    with torch.inference_mode():
        flat = torch.tensor([number for part in ids for number in part])
        together = model.logits(model(flat, positions, PackedCausalAttention([len(part) for part in ids]), mixed))
        for part, (_, which), rows in zip(ids, segments, together.split([len(part) for part in ids]), strict=True):
            alone = logits_of(model, part, None if which is None else SingleAdapter(adapters[which]))
            torch.testing.assert_close(rows, alone, atol=1e-4, rtol=0)


@pytest.mark.skipif(not interpreting(), reason="the engine's tests run on the CPU")
def test_the_triton_kernels_serve_a_mixed_batch(model):
    """Under their interpreter, with adapters of other ranks and projections, as the groups of rows do."""
    pytest.importorskip("triton")
    from kernels.testing.interpreter import install

    install()
    one, two = filled(model.config, seed=1), filled(model.config, rank=2, targets=("k_proj",), seed=9)
    inputs, segments = torch.randn(7, 64), [(2, two), (3, None), (1, one), (1, two)]
    for target in ("q_proj", "k_proj"):
        outputs = torch.randn(7, model.config.target_shape(target)[1])
        torch_s = MixedAdapters(segments).apply(0, target, inputs, outputs.clone())
        with preferring("triton"):
            ours = MixedAdapters(segments).apply(0, target, inputs, outputs.clone())
        torch.testing.assert_close(ours, torch_s)
        assert torch.equal(ours[2:5], outputs[2:5])


def test_rows_of_the_base_keep_their_bits(model):
    """A projection's rows without an adapter are not touched, whoever shares the batch."""
    adapter = filled(model.config)
    inputs, outputs = torch.randn(6, 64), torch.randn(6, 64)
    for segments in ([(2, adapter), (4, None)], [(1, adapter), (4, None), (1, adapter)]):
        mixed = MixedAdapters(segments).apply(0, "q_proj", inputs, outputs.clone())
        single = SingleAdapter(adapter).apply(0, "q_proj", inputs, outputs)
        base = [row for row in range(6) if torch.equal(mixed[row], outputs[row])]
        assert len(base) == 4
        changed = [row for row in range(6) if row not in base]
        torch.testing.assert_close(mixed[changed], single[changed])


@pytest.mark.parametrize(
    "change",
    [{"r": 5}, {"use_dora": True}, {"peft_type": "IA3"}, {"target_modules": ["embed_tokens"]}, {"bias": "all"}],
)
def test_other_adapters_are_refused(model, tmp_path, change):
    save_adapter(tmp_path, filled(model.config), "tiny")
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(FwError) as caught:
        load_adapter(tmp_path, model.config, torch.float32)
    assert caught.value.code == "model_unsupported"


def test_an_adapter_of_another_model_is_refused(model, tmp_path):
    import dataclasses

    for change in ({"layers": 3}, {"hidden_size": 32}, {"layers": 1}):
        other = dataclasses.replace(model.config, **change)
        save_adapter(tmp_path, filled(other), "other")
        if change == {"layers": 1}:
            assert load_adapter(tmp_path, model.config, torch.float32).weights.keys() == filled(other).weights.keys()
            continue
        with pytest.raises(FwError) as caught:
            load_adapter(tmp_path, model.config, torch.float32)
        assert caught.value.code == "model_unsupported"


def test_missing_and_damaged_files(model, tmp_path):
    with pytest.raises(FwError) as caught:
        load_adapter(tmp_path / "none", model.config, torch.float32)
    assert caught.value.code == "not_found"
    save_adapter(tmp_path, filled(model.config), "tiny")
    weights = tmp_path / "adapter_model.safetensors"
    for content in (weights.read_bytes()[:-100], b"", b"\xff" * 100):
        weights.write_bytes(content)
        with pytest.raises(FwError) as caught:
            load_adapter(tmp_path, model.config, torch.float32)
        assert caught.value.code == "model_unsupported"
