"""The Triton kernels: against float64, wrong arguments by name, rows that are left alone, a row's bits in any batch."""

import pytest
import torch

from kernels.arguments import ArgumentError
from kernels.lora import LoraTable, LoraTables, RowOwners, lora, table_of
from kernels.lora import gpu as launch
from kernels.lora.reference import lora_reference
from kernels.lora.spec import problem
from kernels.numerics import numerics
from kernels.registry import preferring
from kernels.spec import Maker
from kernels.testing.check import assert_close, check, problems


@pytest.mark.parametrize(("spec", "case"), problems("lora"))
def test_equals_float64(spec, case, device):
    check(spec, case, device)


def test_rows_of_no_adapter_keep_their_bits(device):
    arguments = problem(40, 64, (48, 16), (8, 3)).make(Maker(device))
    arguments["owners"][::3] = -1
    before = arguments["outputs"].clone()
    launch.lora_(**arguments)
    kept = (arguments["outputs"] == before).all(1)
    assert torch.equal(kept.cpu(), (arguments["owners"] < 0).cpu())


def test_a_row_has_the_same_bits_in_any_batch(device):
    arguments = problem(35, 64, (32,), (8, 16, 4)).make(Maker(device))
    inputs, outputs, owners = (arguments.pop(name) for name in ("inputs", "outputs", "owners"))
    with numerics("exact"):
        whole = outputs.clone()
        launch.lora_(inputs, whole, owners=owners, **arguments)
        for rows in (slice(7, 8), slice(20, 35)):
            part = outputs[rows].clone()
            launch.lora_(inputs[rows], part, owners=owners[rows].contiguous(), **arguments)
            assert torch.equal(part, whole[rows])


def test_the_ranks_of_others_choose_nothing_under_exact_numerics(device):
    """The same row, adapter and weights, alone and beside an adapter of a far larger rank."""
    maker = Maker(device)
    own, other = ((maker.normal(rank, 64), maker.normal(32, rank)) for rank in (8, 100))
    inputs, outputs = maker.normal(3, 64), maker.normal(3, 32)
    found = []
    for slices in (((own,),), ((own, other),)):
        owners = torch.tensor([0, -1, len(slices[0]) - 1], dtype=torch.int32, device=device)
        written = outputs.clone()
        with numerics("exact"):
            launch.lora_(inputs, written, table_of(slices, [0.5] * len(slices[0]), [32], device), owners)
        found.append(written)
    assert torch.equal(found[0][:2], found[1][:2])
    assert not torch.equal(found[0][2], found[1][2])


@pytest.mark.parametrize("backend", ["triton", "torch"])
def test_the_operator_takes_segments_and_many_projections_at_once(backend, device):
    maker = Maker(device)
    adapters = [
        {name: (maker.normal(rank, 32), maker.normal(width, rank)) for name, width in projections.items()}
        for rank, projections in ((4, {"q": 24, "k": 8}), (16, {"k": 8}))
    ]
    tables = LoraTables(adapters, [0.5, 2.0], device)
    assert tables.get("v") is None
    owners = RowOwners([(2, 1), (3, -1), (4, 0), (0, 0), (1, 1)], device)
    assert owners.index.tolist() == [1, 1, -1, -1, -1, 0, 0, 0, 0, 1]
    for name, width in (("q", 24), ("k", 8)):
        table = tables.get(name)
        assert table is not None
        assert table.widths == (width,)
        inputs, outputs = maker.normal(10, 32), maker.normal(10, table.widths[0])
        truth = lora_reference(inputs, outputs, table, owners.index)
        with preferring(backend):
            assert lora(inputs, outputs, table, owners) is outputs
        assert_close(backend, outputs, truth, None, 5e-3)


def test_columns_of_a_wider_output_are_written_as_they_lie(device):
    arguments = problem(9, 32, (16,), (4,)).make(Maker(device))
    wide = torch.full((9, 40), 7.0, dtype=torch.bfloat16, device=device)
    wide[:, 8:24] = arguments["outputs"]
    launch.lora_(**arguments)
    launch.lora_(**{**arguments, "outputs": wide[:, 8:24]})
    assert torch.equal(wide[:, 8:24], arguments["outputs"])
    assert (wide[:, :8] == 7).all()
    assert (wide[:, 24:] == 7).all()


def _table(device: str, rank: int = 2, width: int = 8, dtype: torch.dtype = torch.float32) -> LoraTable:
    pair = torch.zeros(rank, width, dtype=dtype, device=device), torch.zeros(6, rank, dtype=dtype, device=device)
    return table_of(((pair,),), [1.0], [6], device)


@pytest.mark.parametrize(
    ("change", "argument"),
    [
        ({"inputs": torch.zeros(4, 8, dtype=torch.float64)}, "inputs"),
        ({"inputs": torch.zeros(8)}, "inputs"),
        ({"outputs": torch.zeros(4, 7)}, "outputs"),
        ({"outputs": torch.zeros(6, 4).t()}, "outputs"),
        ({"outputs": torch.zeros(4, 6, device="meta")}, "outputs"),
        ({"owners": torch.zeros(4, dtype=torch.int64)}, "owners"),
        ({"owners": torch.zeros(5, dtype=torch.int32)}, "owners"),
        ({"table": {"width": 9}}, "table"),
        ({"table": {"dtype": torch.bfloat16}}, "table"),
        ({"table": {"rank": 1025}}, "table's ranks"),
    ],
)
def test_wrong_arguments_are_named(change, argument, device):
    fitting = {
        "inputs": torch.zeros(4, 8),
        "outputs": torch.zeros(4, 6),
        "owners": torch.zeros(4, dtype=torch.int32),
        "table": {},
    }
    given = {**fitting, **change}
    table = _table(device, **given.pop("table"))
    moved = {name: value if value.is_meta else value.to(device) for name, value in given.items()}
    with pytest.raises(ArgumentError, match="accepted") as raised:
        launch.lora_(**moved, table=table)
    assert raised.value.argument == argument


@pytest.mark.parametrize(
    "pair",
    [
        (torch.zeros(2, 8), torch.zeros(6, 3)),
        (torch.zeros(2, 8), torch.zeros(7, 2)),
        (torch.zeros(2, 8), torch.zeros(6, 2, dtype=torch.bfloat16)),
        (torch.zeros(8, 2).t(), torch.zeros(6, 2)),
        (torch.zeros(0, 8), torch.zeros(6, 0)),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused(pair, device):
    with pytest.raises(ArgumentError, match="accepted") as raised:
        _ = table_of(((pair,),), [1.0], [6], device).on_device
    assert raised.value.argument == "table"
