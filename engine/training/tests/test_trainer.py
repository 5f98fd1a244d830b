"""The trainer against transformers + PEFT, packed against unpacked, and what a checkpoint keeps."""

from __future__ import annotations

import random

import pytest
import torch

from engine.catalog import TARGETS
from engine.models import load_model, new_adapter, save_adapter
from engine.training import packing, trainer
from engine.training.checkpoints import load_checkpoint, save_checkpoint
from engine.training.examples import Example
from engine.training.trainable import TrainableAdapter
from engine.training.trainer import Trainer
from fw_sdk.types import FwError, TrainingConfig

RANK, ALPHA = 4, 8.0
SETTINGS = TrainingConfig(epochs=2, learning_rate=5e-3, batch_size=96, lora_rank=RANK, lora_alpha=ALPHA, seed=3)


def random_rows(count, *, common, seed=0, low=6, high=40):
    """Rows that begin alike and then differ; about the last third of each is trained."""
    choose = random.Random(seed)
    start = [choose.randrange(3, 250) for _ in range(common)]
    rows = []
    for line in range(1, count + 1):
        own = [choose.randrange(3, 250) for _ in range(choose.randrange(low, high))]
        tokens = (*start, *own)
        first = common + max(2, 2 * len(own) // 3)
        rows.append(Example(line, tokens, tuple(place >= first for place in range(len(tokens)))))
    return rows


@pytest.fixture(scope="module")
def model(tiny_llama_dir):
    return load_model(tiny_llama_dir, dtype=torch.float32)


def make_trainer(model, rows, settings=SETTINGS, *, random_b=False):
    adapter = new_adapter(model.config, RANK, ALPHA, TARGETS, settings.seed)
    if random_b:
        torch.manual_seed(1)
        for _, up in adapter.weights.values():
            up.data.normal_(0, 0.1)
    return Trainer(model, TrainableAdapter(adapter, dtype=model.dtype, device=model.device), rows, settings)


def peft_of(tiny_llama_dir, trainer_, folder):
    """transformers + PEFT with the trainer's present adapter, trainable."""
    import peft
    import transformers

    save_adapter(folder, trainer_.adapter.to_adapter(), "tiny")
    base = transformers.AutoModelForCausalLM.from_pretrained(tiny_llama_dir, dtype=torch.float32)
    return peft.PeftModel.from_pretrained(base, folder, is_trainable=True)


def peft_loss(peft_model, rows):
    """Mean loss over the trained tokens of ``rows``, one row at a time; gradients are left in the model."""
    trained = sum(row.trained_tokens for row in rows)
    total = 0.0
    for row in rows:
        labels = torch.where(torch.tensor(row.trained), torch.tensor(row.tokens), -100)
        loss = peft_model(input_ids=torch.tensor([row.tokens]), labels=labels[None]).loss * row.trained_tokens / trained
        loss.backward()
        total += float(loss.detach())
    return total


def peft_parameters(peft_model):
    """(layer, target) -> (A, B) parameters."""
    found = {}
    for name, parameter in peft_model.named_parameters():
        if "lora_" in name:
            parts = name.split(".")
            key = (int(parts[parts.index("layers") + 1]), next(part for part in parts if part in TARGETS))
            found.setdefault(key, {})[name.split("lora_")[1][0]] = parameter
    return {key: (pair["A"], pair["B"]) for key, pair in found.items()}


def gradients(trainer_, flat):
    """(layer, target) -> (dA, dB) out of the flat gradient."""
    shapes = {key: (a.shape, b.shape) for key, (a, b) in trainer_.adapter.to_adapter().weights.items()}
    found, offset = {}, 0
    for key, pair in shapes.items():
        pieces = []
        for shape in pair:
            pieces.append(flat[offset : offset + shape.numel()].view(shape))
            offset += shape.numel()
        found[key] = tuple(pieces)
    assert offset == flat.numel()
    return found


@pytest.mark.parametrize("common", [0, 20])
def test_loss_and_gradients_are_those_of_peft(tiny_llama_dir, model, tmp_path, common):
    rows = random_rows(7, common=common)
    ours = make_trainer(model, rows, random_b=True)
    peer = peft_of(tiny_llama_dir, ours, tmp_path)
    loss, flat = ours.loss_and_gradient(range(len(rows)))
    assert loss == pytest.approx(peft_loss(peer, rows), rel=1e-5)
    peers = peft_parameters(peer)
    for key, (d_a, d_b) in gradients(ours, flat).items():
        for mine, parameter in zip((d_a, d_b), peers[key], strict=True):
            scale = parameter.grad.abs().max()
            assert scale > 0
            torch.testing.assert_close(mine, parameter.grad, rtol=1e-4, atol=float(scale) * 1e-4)


def test_steps_follow_peft_with_adamw_clipping_and_a_linear_rate(tiny_llama_dir, model, tmp_path):
    rows = random_rows(9, common=10)
    settings = SETTINGS.model_copy(update={"optimizer_weight_decay": 0.1, "max_gradient_norm": 0.5})
    ours = make_trainer(model, rows, settings)
    peer = peft_of(tiny_llama_dir, ours, tmp_path)
    parameters = [parameter for parameter in peer.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=settings.learning_rate, weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=ours.total_steps)
    lengths = [len(row.tokens) for row in rows]
    plan = packing.plan_steps(lengths, batch_size=settings.batch_size, epochs=settings.epochs, seed=settings.seed)
    expected = []
    for step in plan:
        optimizer.zero_grad()
        expected.append(peft_loss(peer, [rows[row] for row in step.rows]))
        torch.nn.utils.clip_grad_norm_(parameters, 0.5)
        optimizer.step()
        schedule.step()
    reports = []
    ours.run(reports.append)
    assert [report.loss for report in reports] == pytest.approx(expected, rel=1e-3)
    assert ours.total_steps == len(plan) > 4
    peers = peft_parameters(peer)
    for key, pair in ours.adapter.to_adapter().weights.items():
        for mine, parameter in zip(pair, peers[key], strict=True):
            torch.testing.assert_close(mine, parameter.detach(), rtol=0.02, atol=5e-4)


def test_passes_lanes_and_shared_prefixes_change_nothing(model, monkeypatch):
    rows = random_rows(8, common=12)
    whole = make_trainer(model, rows, random_b=True)
    loss, gradient = whole.loss_and_gradient(range(8))
    assert whole.evaluate(rows) == pytest.approx(loss, rel=1e-5)
    cut = {}
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    for lanes in (1, 2, 3):
        monkeypatch.setattr(trainer, "plan_passes", lambda chosen, lengths, lanes: [(row,) for row in chosen])
        monkeypatch.setattr(trainer, "plan_lanes", lambda threads, batch_size, lanes=lanes: lanes)
        cut[lanes] = make_trainer(model, rows, random_b=True).loss_and_gradient(range(8))
        assert cut[lanes][0] == pytest.approx(loss, rel=1e-5)
        torch.testing.assert_close(cut[lanes][1], gradient, rtol=1e-4, atol=float(gradient.abs().max()) * 1e-5)
    assert cut[2][0] == cut[3][0]
    assert torch.equal(cut[2][1], cut[3][1])


def test_bfloat16_follows_float32(tiny_llama_dir, model):
    rows = random_rows(6, common=10)
    exact, exact_gradient = make_trainer(model, rows, random_b=True).loss_and_gradient(range(6))
    low_model = load_model(tiny_llama_dir, dtype=torch.bfloat16)
    low, low_gradient = make_trainer(low_model, rows, random_b=True).loss_and_gradient(range(6))
    assert low == pytest.approx(exact, rel=0.02)
    assert torch.cosine_similarity(low_gradient, exact_gradient, 0) > 0.98
    assert low_gradient.dtype == torch.float32


def test_training_lowers_the_loss_and_is_repeatable_bit_for_bit(model, monkeypatch):
    rows = random_rows(10, common=0)
    settings = SETTINGS.model_copy(update={"epochs": 8, "learning_rate": 2e-2})
    monkeypatch.setattr(trainer, "plan_lanes", lambda threads, batch_size: 2)
    runs = []
    for _ in range(2):
        run = make_trainer(model, rows, settings)
        run.run(lambda report: None)
        runs.append(run)
    assert runs[0].losses == runs[1].losses
    assert torch.equal(runs[0].adapter.master, runs[1].adapter.master)
    assert runs[0].losses[-1][1] < 0.7 * runs[0].losses[0][1]
    other = make_trainer(model, rows, settings.model_copy(update={"seed": 4}))
    assert not torch.equal(other.adapter.master, make_trainer(model, rows, settings).adapter.master)


@pytest.mark.parametrize("leave_at", [1, 4])
def test_a_run_that_is_left_and_continued_ends_with_the_same_bits(model, tmp_path, leave_at):
    rows = random_rows(10, common=9)
    whole = make_trainer(model, rows)
    whole.run(lambda report: None)
    first = make_trainer(model, rows)

    class Left(Exception):
        pass

    def leave(report):
        if report.step == leave_at:
            save_checkpoint(tmp_path, first.checkpoint(), {"run": 1})
            raise Left

    with pytest.raises(Left):
        first.run(leave)
    second = make_trainer(model, rows)
    checkpoint = load_checkpoint(tmp_path, {"run": 1})
    assert checkpoint is not None and checkpoint.step == leave_at
    second.restore(checkpoint)
    second.run(lambda report: None)
    assert torch.equal(second.adapter.master, whole.adapter.master)
    assert second.losses == whole.losses


def test_a_checkpoint_of_another_run_or_a_torn_one_is_not_used(model, tmp_path):
    run = make_trainer(model, random_rows(4, common=0))
    assert load_checkpoint(tmp_path, {"run": 1}) is None
    save_checkpoint(tmp_path, run.checkpoint(), {"run": 1})
    assert load_checkpoint(tmp_path, {"run": 2}) is None
    path = next(tmp_path.iterdir())
    path.write_bytes(path.read_bytes()[:1000])
    assert load_checkpoint(tmp_path, {"run": 1}) is None


def test_a_loss_that_is_not_finite_stops_the_run_and_says_what_to_lower(tiny_llama_dir):
    broken = load_model(tiny_llama_dir, dtype=torch.float32)
    broken.final_norm.fill_(float("inf"))
    run = make_trainer(broken, random_rows(4, common=0))
    before = run.adapter.master.clone()
    with pytest.raises(FwError) as caught:
        run.run(lambda report: None)
    assert caught.value.code == "training_diverged"
    assert "learningRate" in caught.value.hint and caught.value.not_done
    assert torch.equal(run.adapter.master, before)
