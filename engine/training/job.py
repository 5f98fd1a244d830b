"""The fine-tune program: ``python -m engine.training.job JOB_DIR`` turns a ``TrainSpec`` into an adapter."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from engine.catalog import ModelConfig, digest_tree, read_config
from engine.jobs.program import JobContext, main
from engine.jobs.rows import referenced_rows
from engine.jobs.specs import RowsRef, TrainResult, TrainSpec
from engine.models import Adapter, load_for_training, new_adapter, pick_device, pick_dtype, save_adapter
from engine.text.renderer import Renderer
from engine.training.checkpoints import load_checkpoint, save_checkpoint
from engine.training.examples import Example, render_examples, usable_examples
from engine.training.trainable import TrainableAdapter
from engine.training.trainer import StepReport, Trainer
from fw_sdk.types import FwError
from kernels.native import status

HELDOUT_TOKENS = 16_384


def run(context: JobContext[TrainSpec]) -> TrainResult:
    """Train, from the last checkpoint if an earlier attempt left one, and write the adapter.

    Raises:
        FwError: ``dataset_invalid``, ``training_diverged``, or what reading the model raises.
    """
    spec = context.spec
    base = Path(spec.base_path)
    config = read_config(base)
    renderer = Renderer.load(base)
    examples = _examples(context, spec.rows, renderer, config)
    heldout = _heldout(context, renderer, config)
    trainer = _trainer(context, base, config, examples)
    _resume(context, trainer)
    try:
        trainer.run(lambda report: _after_step(context, trainer, report))
    except torch.OutOfMemoryError as error:
        raise MemoryError(str(error)) from error
    heldout_loss = trainer.evaluate(heldout) if heldout else None
    return _finish(context, trainer, examples, heldout_loss)


def _examples(
    context: JobContext[TrainSpec], reference: RowsRef, renderer: Renderer, config: ModelConfig
) -> list[Example]:
    rendered = render_examples(referenced_rows(reference), renderer)
    limit = min(config.max_context, context.spec.config.max_context_length or config.max_context)
    useful = usable_examples(rendered, limit)
    if len(useful) < len(rendered):
        context.warning(
            f"{len(rendered) - len(useful)} rows of {reference.name} have no trained token and are left out"
        )
    return useful


def _heldout(context: JobContext[TrainSpec], renderer: Renderer, config: ModelConfig) -> list[Example]:
    """The held-out rows whose loss is taken at the end: all, or an even choice of about ``HELDOUT_TOKENS`` tokens."""
    if context.spec.heldout is None:
        return []
    examples = _examples(context, context.spec.heldout, renderer, config)
    stride = -(-sum(len(example.tokens) for example in examples) // HELDOUT_TOKENS)
    chosen = examples[::stride]
    if stride > 1:
        context.message(f"the held-out loss is taken over {len(chosen)} of {len(examples)} rows")
    return chosen


def _trainer(context: JobContext[TrainSpec], base: Path, config: ModelConfig, examples: Sequence[Example]) -> Trainer:
    settings = context.spec.config
    device = pick_device(context.spec.device)
    dtype = pick_dtype(device)
    model = load_for_training(base, dtype=dtype, device=device)
    adapter = new_adapter(config, settings.lora_rank, settings.lora_alpha, config.targets, settings.seed)
    trainer = Trainer(model, TrainableAdapter(adapter, dtype=dtype, device=model.device), examples, settings)
    tokens = sum(len(example.tokens) for example in examples)
    trained = sum(example.trained_tokens for example in examples)
    context.message(
        f"{len(examples)} rows, {tokens} tokens of which {trained} are trained, {trainer.total_steps} steps "
        f"in {str(dtype).removeprefix('torch.')} on {device}"
    )
    return trainer


def _fingerprint(spec: TrainSpec) -> dict[str, Any]:
    """What a checkpoint depends on."""
    return {
        "base": spec.base_digest,
        "rows": spec.rows.model_dump(mode="json", include={"digest", "split", "heldout_fraction", "split_seed"}),
        "config": spec.config.model_dump(mode="json", exclude={"checkpoint_interval_steps"}),
        "torch": torch.__version__,
        "kernels": status(),
    }


def _resume(context: JobContext[TrainSpec], trainer: Trainer) -> None:
    checkpoint = load_checkpoint(context.dir, _fingerprint(context.spec))
    if checkpoint is None:
        return
    trainer.restore(checkpoint)
    done = f"goes on from the checkpoint behind step {checkpoint.step} of {trainer.total_steps}"
    context.message(done)
    context.progress(checkpoint.step, trainer.total_steps, done, unit="steps")


def _after_step(context: JobContext[TrainSpec], trainer: Trainer, report: StepReport) -> None:
    context.metric(
        report.step,
        loss=report.loss,
        learning_rate=report.learning_rate,
        gradient_norm=report.gradient_norm,
        tokens=report.tokens,
        tokens_per_second=report.tokens / report.seconds,
    )
    context.progress(report.step, trainer.total_steps, f"loss {report.loss:.3f}", unit="steps")
    last = report.step == trainer.total_steps
    if last or context.cancelled or report.step % context.spec.config.checkpoint_interval_steps == 0:
        _save(context, trainer)
    context.check_cancelled()


def _save(context: JobContext[TrainSpec], trainer: Trainer) -> None:
    try:
        save_checkpoint(context.dir, trainer.checkpoint(), _fingerprint(context.spec))
    except OSError as error:
        raise _not_stored("checkpoint", error) from error


def _finish(
    context: JobContext[TrainSpec], trainer: Trainer, examples: Sequence[Example], heldout_loss: float | None
) -> TrainResult:
    settings = context.spec.config
    adapter = trainer.adapter.to_adapter()
    path, digest, size = _store(Path(context.spec.adapters_dir), adapter, context)
    tokens = settings.epochs * sum(len(example.tokens) for example in examples)
    return TrainResult(
        adapter_path=str(path),
        adapter_digest=digest,
        bytes=size,
        rank=adapter.rank,
        alpha=adapter.alpha,
        target_modules=list(adapter.targets),
        steps=trainer.total_steps,
        rows=len(examples),
        tokens=tokens,
        trained_tokens=settings.epochs * sum(example.trained_tokens for example in examples),
        seconds=trainer.seconds,
        tokens_per_second=tokens / trainer.seconds,
        first_loss=trainer.losses[0][1],
        final_loss=trainer.losses[-1][1],
        heldout_loss=heldout_loss,
        loss=trainer.losses,
    )


def _store(adapters_dir: Path, adapter: Adapter, context: JobContext[TrainSpec]) -> tuple[Path, str, int]:
    """Write the adapter into ``adapters_dir/<digest>/``, whole or not at all; its path, digest and size in bytes."""
    adapters_dir.mkdir(parents=True, exist_ok=True)
    try:
        with context.staging(adapters_dir) as scratch:
            staged = scratch / "adapter"
            save_adapter(staged, adapter, context.spec.base_model)
            digest = digest_tree(staged)
            final = adapters_dir / digest.removeprefix("sha256:")
            if not final.exists():
                staged.rename(final)
    except OSError as error:
        raise _not_stored("adapter", error) from error
    return final, digest, sum(file.stat().st_size for file in final.iterdir())


def _not_stored(what: str, error: OSError) -> FwError:
    return FwError(
        "resource_exhausted",
        f"The {what} cannot be written: {error}.",
        not_done=f"The {what} is not stored; what an earlier checkpoint holds is kept.",
        hint="free disk space, then resume the job",
    )


if __name__ == "__main__":
    sys.exit(main(TrainSpec, run))
