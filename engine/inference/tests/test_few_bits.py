"""Held matrices are multiplied as they are held, by the Triton kernels too: the product is that of the held numbers."""

import gguf
import numpy as np
import pytest
import torch

from engine.catalog import open_model
from engine.inference.tests.test_holding import LLAMA, tensors, write
from engine.inference.tests.tiny import tiny_model
from engine.models import load_model
from engine.models.few_bits import GGUF_KINDS, FewBitsLinear
from engine.models.holding import Holding
from engine.models.loading import load_opened
from engine.models.tests.test_llama import logits_of
from kernels.arguments import interpreting
from kernels.block_matmul import Rows
from kernels.registry import preferring

pytest.importorskip("triton")
DEVICE = torch.device("cpu" if interpreting() else "cuda")
OUT, IN = 40, 96


@pytest.fixture(scope="module", autouse=True)
def repaired():
    if interpreting():
        from kernels.testing.interpreter import install

        install()


def made(kind):
    """A product with a bias, held as ``kind``."""
    weight, bias = torch.randn(OUT, IN), torch.randn(OUT)
    if isinstance(kind, int):
        return FewBitsLinear.rounded(weight, kind, bias)
    number = gguf.GGMLQuantizationType[kind.upper()]
    halves = [gguf.quantize(half.numpy(), number) for half in weight.split(OUT // 2)]
    turned = np.arange(OUT // 2)[::-1].copy()
    return FewBitsLinear.stored([Rows(halves[0], int(number), turned), Rows(halves[1], int(number))], bias)


@pytest.mark.parametrize("kind", [8, 4, *GGUF_KINDS.values()])
def test_the_product_is_that_of_the_held_numbers(kind):
    torch.manual_seed(0)
    product = made(kind).to(DEVICE)
    x = torch.randn(5, IN, dtype=torch.bfloat16, device=DEVICE).requires_grad_()
    held = product.rows(torch.arange(OUT, device=DEVICE))
    bias = product(torch.zeros_like(x[:1], dtype=torch.float32), float32_out=True).detach()
    with preferring("triton"):
        ours = product(x, float32_out=True)
        (gradient,) = torch.autograd.grad(ours.sum(), x)
        assert product(x.detach()).dtype is torch.bfloat16
    assert ours.dtype is torch.float32
    # The bias is rounded to the rows' dtype first; the sums are float32's.
    torch.testing.assert_close(ours, x.float() @ held.T + bias.bfloat16().float(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(gradient.float(), held.sum(0).expand(5, IN), rtol=2e-2, atol=0.1)


@pytest.mark.parametrize("kind", GGUF_KINDS.values())
def test_a_file_s_numbers_are_kept_without_compiled_kernels(kind, tmp_path):
    number = gguf.GGMLQuantizationType[kind.upper()]
    kinds = {f"blk.0.{name}.weight": number for name in ("attn_q", "attn_k", "attn_v", "ffn_gate", "token_embd")}
    kinds = {("token_embd.weight" if "token" in name else name): value for name, value in kinds.items()}
    sizes = {"embedding_length": 64, "feed_forward_length": 96, "attention.head_count": 4}
    meta = LLAMA | {f"llama.{name}": size for name, size in sizes.items()} | {"llama.attention.head_count_kv": 2}
    path = tmp_path / "stored.gguf"
    path.write_bytes(write(meta, tensors(kinds)))
    model = load_opened(open_model(path), dtype=torch.float32, holding=Holding(None, None))
    full = load_model(path, dtype=torch.float32)
    layer = model.layers[0]
    assert {name for name, _ in layer.packed} == {"qkv"}, "ups are floats in that file, and so is what they lie with"
    assert torch.equal(layer.packed["qkv", None].rows(torch.arange(128)), full.layers[0].qkv)
    assert torch.equal(model.packed["embedding"].rows(torch.arange(320)), full.embedding)


def test_a_model_s_logits_are_the_same_through_the_kernels(tmp_path):
    opened = open_model(tiny_model(tmp_path / "model", num_hidden_layers=1))
    model = load_opened(opened, dtype=torch.float32, device=DEVICE, holding=Holding(4, None))
    with torch.inference_mode():
        expected = logits_of(model, [5, 6, 7])
        with preferring("triton"):
            ours = logits_of(model, [5, 6, 7])
    assert not torch.equal(ours, expected), "another kernel, another order of sums"
    torch.testing.assert_close(ours, expected, rtol=1e-3, atol=1e-4)
