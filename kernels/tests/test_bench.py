"""The benchmark, without a GPU: floors, the table, what is gone on with, and what is written about failures."""

import dataclasses
import subprocess
import sys
import time

import pytest
import torch

from kernels.registry import spec, specs
from kernels.spec import Case, Maker, Work
from kernels.testing import bench, measured
from kernels.testing.bench import Bench, Budget, DeviceMaker, ways_of
from kernels.testing.ceilings import Ceilings
from kernels.testing.measured import Stamp
from kernels.testing.timing import Timing

CEILINGS = Ceilings(copy_bytes_s=3e12, matmul_flops_s=8e14, node_us=1.5, launch_us=5.0)
STAMP = Stamp("abc", "2.13.0", "3.6.0", "1234567", "2026-11-25")


class HostTimer:
    """Measures on the host's clock, once."""

    alive = True

    def __init__(self):
        self.calls = 0

    def usable(self):
        return self.alive

    def measure(self, calls, seconds):
        started = time.perf_counter()
        for call in calls:
            call()
        self.calls += 1
        return Timing((time.perf_counter() - started) / len(calls) * 1e6, 1, "launched")


def _spec(**changes):
    """The norm with two small problems to measure, and a peer that fails."""
    made = spec("add_rms_norm")
    shapes = tuple(
        Case(case.name, case.make, Work(size)) for case, size in zip(made.cases[2:4], (512, 1024), strict=True)
    )

    def broken(**arguments):
        raise RuntimeError("no such kernel")

    fields = {"cases": made.cases[2:4], "shapes": shapes, "peers": {"broken": broken}, **changes}
    return dataclasses.replace(made, **fields)


@pytest.fixture
def run(tmp_path, device, monkeypatch):
    # Compiling takes longer than all of the rest, and is a peer like any other.
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    path = tmp_path / "results" / "some-gpu.csv"

    def go(specs, *, stamp=STAMP, again=False, seconds=60.0, report=lambda row: None):
        timer = HostTimer()
        made = Bench(device, timer, CEILINGS, 64, stamp, path, report)
        return made.run(specs, Budget.of(seconds), again=again), timer.calls, measured.read(path)

    return go


@pytest.mark.parametrize(
    ("work", "us"),
    [
        (Work(3_000_000_000), 1000.0),
        (Work(3_000_000, flops=8_000_000_000_000), 10_000.0),
        (Work(3_000), 1.5),  # nothing is faster than an empty kernel
        (Work(0), 1.5),
        (Work(1, flops_8bit=1), None),  # at a rate that was not measured
        (Work(30_000_000, exponentials=1 << 40), 10.0),  # no clock: they do not count
    ],
)
def test_the_floor_is_the_slowest_part_at_the_ceiling(work, us):
    found = CEILINGS.floor_us(work)
    assert found == us if us is None else found == pytest.approx(us)


def test_every_way_of_every_problem_gets_a_row_and_a_failing_peer_says_so(run):
    complete, calls, rows = run([_spec()])
    assert complete
    ours = [row for row in rows if row.op == "add_rms_norm"]
    assert {row.way for row in ours} == {"triton", "torch", "torch.compile", "broken"}
    assert {row.verdict for row in ours if row.way == "broken"} == {"failed: RuntimeError: no such kernel"}
    assert all(row.us and row.gb_s and row.floor_us == 1.5 for row in ours if row.verdict == "ok")
    assert calls == len([row for row in ours if row.verdict == "ok"]) == 5
    assert {row.case for row in rows if row.op == "ceilings"} > {"copy", "kernel in a graph"}


def test_a_second_run_measures_only_what_is_missing(run, tmp_path):
    _, _, rows = run([_spec()])
    path = tmp_path / "results" / "some-gpu.csv"
    lines = path.read_text().splitlines(keepends=True)
    last = lines[-1]
    path.write_text("".join(lines[:-1]) + last[: len(last) // 2])  # it was killed while it wrote
    _, calls, after = run([_spec()])
    assert calls == 1
    assert {row.key for row in after} == {row.key for row in rows}
    assert run([_spec()])[1] == 0
    assert run([_spec()], again=True)[1] == 5
    assert run([_spec()], stamp=dataclasses.replace(STAMP, commit="other", date="2027-01-01"))[1] == 0
    assert run([_spec()], stamp=dataclasses.replace(STAMP, sources="changed"))[1] == 5


def test_a_stopped_run_keeps_what_it_had(run, tmp_path):
    seen = []

    def stop(row):
        seen.append(row)
        if row.way == "torch" and row.op != "ceilings":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run([_spec()], report=stop)
    path = tmp_path / "results" / "some-gpu.csv"
    assert {row.key for row in seen} == {row.key for row in measured.read(path)}
    assert run([_spec()])[1] == 3


def test_nothing_is_begun_when_the_time_is_over(run):
    complete, calls, rows = run([_spec()], seconds=0.0)
    assert not complete
    assert calls == 0
    assert {row.op for row in rows} == {"ceilings"}


def test_a_device_that_fails_ends_the_run_and_the_next_goes_on_behind_the_culprit(run, monkeypatch):
    monkeypatch.setattr(HostTimer, "alive", False)
    complete, _, rows = run([_spec()])
    assert not complete
    assert [row.way for row in rows if row.op != "ceilings"] == ["triton", "torch", "broken"]
    monkeypatch.setattr(HostTimer, "alive", True)
    complete, calls, _ = run([_spec()])
    assert complete
    assert calls == 3


def test_an_operator_that_is_wrong_is_not_timed(run):
    bent = _spec(reference=lambda **arguments: tuple(2 * t for t in spec("add_rms_norm").reference(**arguments)))
    _, _, rows = run([bent])
    ours = [row for row in rows if row.way == "triton"]
    assert len(ours) == 2
    assert all(row.verdict.startswith("wrong: AssertionError") and row.us is None for row in ours)
    assert all(row.us for row in rows if row.way == "torch" and row.op != "ceilings")


def test_the_markdown_shows_the_share_of_the_floor_the_best_peer_and_what_failed(run):
    _, _, rows = run([_spec()])
    fixed = [dataclasses.replace(row, us=3.0 if row.way == "triton" else 4.5) if row.us else row for row in rows]
    text = measured.markdown(fixed, "Some GPU")
    lines = [line for line in text.splitlines() if line.startswith("| add_rms_norm")]
    assert len(lines) == 2
    assert all("| 3.0 |" in line and "| 50 |" in line and line.endswith("| 4.5 | 1.50 |") for line in lines)
    assert "copy 3000 GB/s" in text
    assert "fp8 torch has none for this device" in text
    assert "broken: failed: RuntimeError: no such kernel" in text
    assert "commit 1234567" in text


@pytest.mark.parametrize(("left", "problems", "share"), [(100.0, 10, 5.0), (100.0, 1000, 0.3), (-1.0, 1, 0.3)])
def test_a_problem_s_share_of_the_time_has_bounds(left, problems, share):
    budget = Budget(time.monotonic() + left)
    assert budget.share(problems) == pytest.approx(min(share, bench.MOST_S), rel=1e-3)


def test_inputs_are_copied_until_they_do_not_fit_the_cache(tmp_path):
    made = Bench("cpu", HostTimer(), CEILINGS, 1 << 20, STAMP, tmp_path / "x.csv", print)
    sets = list(made._sets(Case("x", lambda maker: {"a": maker.normal(256, 256), "b": [maker.integers(0, 4, 8)]})))
    assert len(sets) == 16
    assert len({given["a"].data_ptr() for given in sets} | {given["b"][0].data_ptr() for given in sets}) == 32
    assert torch.equal(sets[0]["a"], sets[-1]["a"])
    assert sets[0]["a"].float().std() == pytest.approx(1, abs=0.02)


def test_large_tensors_are_drawn_in_pieces_and_all_of_them():
    values = DeviceMaker("cpu").normal(3, 5, dtype=torch.float32, scale=2.0)
    assert values.isfinite().all()
    assert values.unique().numel() == 15
    assert DeviceMaker("cpu").normal(0, 5).shape == (0, 5)


@pytest.mark.parametrize("made", specs(), ids=lambda made: made.name)
def test_every_operator_s_problems_can_be_drawn_on_the_device(made):
    for case in made.cases:
        ours, theirs = case.make(DeviceMaker("cpu")), case.make(Maker("cpu"))
        assert ours.keys() == theirs.keys()
        pairs = [(ours[name], theirs[name]) for name in ours if isinstance(ours[name], torch.Tensor)]
        assert all((mine.shape, mine.dtype) == (other.shape, other.dtype) for mine, other in pairs)
    assert all(ways_of(made, case)[:2] == ["triton", "torch"] for case, _ in bench.problems(made))


def test_compiled_torch_runs_at_the_largest_problem_unless_the_spec_brings_it():
    made = _spec()
    assert [("torch.compile" in ways_of(made, case)) for case in made.shapes] == [False, True]
    assert ways_of(_spec(peers={"compiled rows": print}), made.shapes[1]) == ["triton", "torch", "compiled rows"]


def test_the_digest_follows_code_and_configurations_not_tests(tmp_path):
    (tmp_path / "tests").mkdir()
    (tmp_path / "a.py").write_text("1")
    before = measured.digest(tmp_path)
    (tmp_path / "tests" / "test_a.py").write_text("1")
    (tmp_path / "a.csv").write_text("1")
    assert measured.digest(tmp_path) == before
    (tmp_path / "a.json").write_text("1")
    assert measured.digest(tmp_path) != before
    assert measured.path_of("NVIDIA H100 80GB HBM3", tmp_path).name == "nvidia-h100-80gb-hbm3.csv"


@pytest.mark.skipif(torch.cuda.is_available(), reason="it would measure")
def test_without_a_gpu_the_command_says_so():
    done = subprocess.run([sys.executable, "-m", "kernels", "bench"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "there is no CUDA GPU here: nothing was measured, and nothing was written\n"
    assert done.stdout == ""
