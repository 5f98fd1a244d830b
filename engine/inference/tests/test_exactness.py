"""Sampled log-probabilities recompute to the same bits for every kind of model; the check sees where they do not."""

import pytest
import torch

from engine.inference import Engine, EngineConfig, Request, SamplingParams
from engine.inference.exactness.__main__ import main
from engine.inference.exactness.check import check
from engine.inference.exactness.tiny import KINDS, tiny_model
from engine.inference.tests.tiny import tiny_model as tiny_folder
from engine.models import PackedCausalAttention, layer, load_for_inference
from fw_sdk.types import FwError
from kernels import native
from kernels.linear.exact import exact_linear
from kernels.numerics import numerics

needs_kernels = pytest.mark.skipif(native.library() is None, reason="no C compiler here")
PACKABLE = {"hidden_size": 64, "head_dim": 16, "intermediate_size": 96, "max_position_embeddings": 256}


pytestmark = pytest.mark.usefixtures("one_thread")


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_model_is_exact_under_traffic(kind, dtype):
    report = check(tiny_model(kind, dtype), kind, 400, seed=1)
    assert report.different == 0, report.first.text()
    assert report.tokens >= 400 and report.numerics == "exact"
    seen = report.happened
    assert min(seen.requests, seen.cached_tokens, seen.chunked, seen.adapted, seen.cancels) > 0


@needs_kernels
@pytest.mark.parametrize("dtype", ["int8", "int4"])
def test_packed_weights_are_exact_under_traffic(dtype, tmp_path):
    folder = tiny_folder(tmp_path / "model", **PACKABLE)
    model = load_for_inference(folder, dtype=dtype, device=torch.device("cpu"), numerics="exact")
    report = check(model, dtype, 400, seed=2)
    assert report.different == 0, report.first.text()
    assert report.format == dtype and report.happened.cached_tokens > 0


@needs_kernels
def test_the_check_finds_what_differs(monkeypatch):
    """Fast numerics differ in the last digits; so does one product that looks at how many rows it gets."""
    model = tiny_model("tiny-dense", torch.float32)
    assert check(model, "fast", 100, numerics="fast").different > 0

    def planted(x, weight, bias=None):
        return exact_linear(x, weight, bias) * (1 + 2**-20 * (len(x) < 8))

    monkeypatch.setattr(layer, "linear", planted)
    report = check(model, "planted", 100)
    assert report.different > 0
    assert report.first.request in report.first.text() and "0x" in report.first.text()


@needs_kernels
def test_the_command_says_what_it_found(capsys):
    assert main(["--model", "tiny-dense", "--tokens", "60"]) == 0
    table = capsys.readouterr().out
    assert "tiny-dense" in table and "all log-probabilities have the same bits" in table
    assert main(["--model", "tiny-dense", "--tokens", "60", "--numerics", "fast"]) == 1
    assert "first difference: request r" in capsys.readouterr().out
    assert main(["--model", "no/such/model"]) == 2


ROUNDED_ONCE = {
    *["add", "sub", "mul", "div", "neg", "clamp", "sqrt", "floor_divide", "sum"],
    *["embedding", "index_select", "index", "index_copy_", "copy_", "_to_copy", "cat", "roll", "clone", "lift_fresh"],
    *["empty", "empty_like", "zeros", "arange", "sort", "argsort", "bincount", "topk", "_local_scalar_dense"],
    *["view", "_unsafe_view", "reshape", "expand", "transpose", "permute", "unsqueeze", "squeeze", "slice", "select"],
    *["split", "split_with_sizes", "alias", "detach", "t", "as_strided"],
}
"""Operators of torch whose results do not depend on where a value stands: they copy, choose, or round one operation.

``sum`` is over a token's few experts.
"""


class Recorded(torch.utils._python_dispatch.TorchDispatchMode):
    """Names of the operators that ran."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.add(function.overloadpacket.__name__)
        return function(*args, **(kwargs or {}))


@needs_kernels
@pytest.mark.parametrize("kind", KINDS)
def test_exact_forwards_use_no_operator_of_torch_that_sums_or_approximates(kind):
    model = tiny_model(kind, torch.bfloat16)
    ids = torch.arange(30)
    with torch.no_grad(), numerics("exact"), Recorded() as recorded:
        hidden = model(ids, ids, PackedCausalAttention([30]))
        model.logits(hidden)
    assert recorded.names - ROUNDED_ONCE == set()
    with torch.no_grad(), Recorded() as recorded:
        model(ids, ids, PackedCausalAttention([30]))
    assert recorded.names - ROUNDED_ONCE != set()


@needs_kernels
def test_numerics_are_chosen_at_load(tmp_path):
    folder = tiny_folder(tmp_path / "model")
    small = EngineConfig(kv_bytes=1 << 20)
    assert Engine.load(folder, dtype="float32", device="cpu", config=small).numerics == "exact"
    assert Engine.load(folder, dtype="float32", device="cpu", numerics="fast", config=small).numerics == "fast"
    exact = Engine.load(folder, dtype="bfloat16", device="cpu", numerics="exact", config=small)
    assert exact.numerics == "exact"
    params = SamplingParams(max_tokens=5, temperature=1.0, logprobs=2, ignore_eos=True)
    alone = exact.generate([Request("a", (1, 2, 3), params)])[0]
    beside = exact.generate([Request("b", (9,) * 40, params), Request("a", (1, 2, 3), params)])[1]
    assert alone.logprobs == beside.logprobs


def test_exact_is_refused_where_there_are_no_kernels(monkeypatch, tmp_path):
    monkeypatch.setattr("engine.models.dtype.library", lambda: None)
    folder = tiny_folder(tmp_path / "model")
    with pytest.raises(FwError, match="cannot be had here"):
        Engine.load(folder, dtype="float32", device="cpu", numerics="exact")
    assert Engine.load(folder, dtype="float32", device="cpu").numerics == "fast"
