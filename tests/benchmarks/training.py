"""Training speed beside transformers + PEFT: ``python -m tests.benchmarks.training [--rows N] [--write]``.

Every side takes the same optimiser steps over the same rows, in a process of its own, in turn, and is measured after a
first step that does not count. Tokens are those of the rows, without padding and before anything is shared.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import date
from itertools import pairwise
from pathlib import Path
from typing import Any

from engine.catalog import TARGETS, read_config
from engine.jobs.rows import read_rows
from engine.text.renderer import Renderer
from engine.training.examples import Example, render_examples, usable_examples
from engine.training.packing import plan_steps
from fw_sdk.types import TrainingConfig
from tests.benchmarks.report import machine, table, write_section

ROWS = Path(__file__).parents[2] / "examples" / "function-calling" / "train.jsonl"
SIDES = {"fw": None, "PEFT, unpadded": "unpadded", "PEFT, padded": "padded"}
PEER_SCRIPT = Path(__file__).with_name("peft_loop.py")


def load_examples(model: Path, count: int) -> list[Example]:
    """The first ``count`` rows of the function-calling example, rendered."""
    rows = read_rows(ROWS)[:count]
    return usable_examples(render_examples(rows, Renderer.load(model)), read_config(model).max_context)


def run_ours(plan: dict[str, Any]) -> None:
    """Train over the plan's rows with fw's trainer and print what it took."""
    import torch

    from engine.models import load_for_training, new_adapter
    from engine.training.trainable import TrainableAdapter
    from engine.training.trainer import StepReport, Trainer

    torch.set_num_threads(plan["threads"])
    base, dtype = Path(plan["base"]), getattr(torch, plan["dtype"])
    model = load_for_training(base, dtype=dtype, device=torch.device("cpu"))
    config = TrainingConfig(**plan["config"])
    adapter = new_adapter(model.config, config.lora_rank, config.lora_alpha, TARGETS, config.seed)
    examples = load_examples(base, plan["rows"])
    trainer = Trainer(model, TrainableAdapter(adapter, dtype=dtype, device=model.device), examples, config)
    seconds, cpu_times = list[float](), [time.process_time()]

    def after_step(report: StepReport) -> None:
        seconds.append(report.seconds)
        cpu_times.append(time.process_time())

    trainer.run(after_step)
    cpu_seconds = [after - before for before, after in pairwise(cpu_times)]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    versions = {"python": platform.python_version(), "torch": str(torch.__version__)}
    losses = [loss for _, loss in trainer.losses]
    result = {"seconds": seconds, "cpu_seconds": cpu_seconds, "losses": losses, "peak_bytes": peak}
    print(json.dumps({**result, "versions": versions}))


def write_peer_model(base: Path, folder: Path) -> None:
    """The same weights as a Hugging Face folder that transformers loads."""
    import torch
    from safetensors.torch import save_file

    from engine.models import load_model

    model = load_model(base, dtype=torch.bfloat16)
    config = model.config
    tensors = {"model.embed_tokens.weight": model.embedding, "model.norm.weight": model.final_norm}
    if not config.tie_embeddings:
        tensors["lm_head.weight"] = model.head
    for index, layer in enumerate(model.layers):
        for buffer, slot in model.slots(config, index).items():
            sizes = [_rows_of(source, config) for source in slot.sources]
            for source, tensor in zip(slot.sources, getattr(layer, buffer).split(sizes), strict=True):
                tensors[f"model.layers.{index}.{source}"] = tensor.contiguous()
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    fields = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": "bfloat16",
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.ffn_size,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "max_position_embeddings": config.max_context,
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope_base,
        "tie_word_embeddings": config.tie_embeddings,
    }
    (folder / "config.json").write_text(json.dumps(fields))


def _rows_of(part: str, config: Any) -> int:
    """Rows of one weight by its Hugging Face name; a norm has the hidden size."""
    target = part.rsplit(".", 2)[-2]
    return int(config.target_shape(target)[1]) if target in TARGETS else int(config.hidden_size)


def make_plan(options: argparse.Namespace, peer_model: Path) -> dict[str, Any]:
    """What every side gets: settings, and for the peers the rows of each step as tokens."""
    config = TrainingConfig(epochs=1)
    examples = load_examples(options.model, options.rows)
    lengths = [len(example.tokens) for example in examples]
    steps = plan_steps(lengths, batch_size=config.batch_size, epochs=1, seed=config.seed)
    chosen = [[examples[row] for row in step.rows] for step in steps]
    return {
        "base": str(options.model),
        "model": str(peer_model),
        "rows": options.rows,
        "config": config.model_dump(),
        "dtype": options.dtype,
        "threads": options.threads,
        "rank": config.lora_rank,
        "alpha": config.lora_alpha,
        "learning_rate": config.learning_rate,
        "max_gradient_norm": config.max_gradient_norm,
        "steps": [[{"tokens": row.tokens, "trained": row.trained} for row in rows] for rows in chosen],
    }


def run_side(side: str, plan: dict[str, Any], peer_python: str, folder: Path) -> dict[str, Any]:
    """One side in a process of its own; its result, with tokens per second after the first step."""
    path = folder / "plan.json"
    path.write_text(json.dumps({**plan, "variant": SIDES[side]}))
    ours = [sys.executable, "-m", "tests.benchmarks.training", "--plan", str(path)]
    command = ours if SIDES[side] is None else [peer_python, str(PEER_SCRIPT), str(path)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    tokens = sum(len(row["tokens"]) for step in plan["steps"][1:] for row in step)
    result["tokens_per_second"] = tokens / sum(result["seconds"][1:])
    result["cpu_ms_per_token"] = 1e3 * sum(result["cpu_seconds"][1:]) / tokens
    print(f"{side}: {result['tokens_per_second']:.0f} tok/s", file=sys.stderr, flush=True)
    return result


def summarise(results: dict[str, list[dict[str, Any]]]) -> tuple[str, dict[str, Any]]:
    """A markdown table and the same figures as data: the median of each side's runs."""
    figures: dict[str, Any] = {}
    for side, runs in results.items():
        figures[side] = {
            "tokens_per_second": statistics.median(run["tokens_per_second"] for run in runs),
            "runs": [run["tokens_per_second"] for run in runs],
            "cpu_ms_per_token": statistics.median(run["cpu_ms_per_token"] for run in runs),
            "peak_bytes": max(run["peak_bytes"] for run in runs),
            "first_loss": runs[0]["losses"][0],
            "last_loss": runs[0]["losses"][-1],
            "versions": runs[0]["versions"],
        }
    best_peer = max(figures[side]["tokens_per_second"] for side, variant in SIDES.items() if variant)
    header = ["side", "row tok/s", "over the better peer", "CPU ms/token", "peak RSS GiB", "loss, first to last step"]
    rows = [
        [
            side,
            f"{item['tokens_per_second']:.0f}",
            f"{item['tokens_per_second'] / best_peer:.2f}",
            f"{item['cpu_ms_per_token']:.2f}",
            f"{item['peak_bytes'] / 2**30:.2f}",
            f"{item['first_loss']:.3f} to {item['last_loss']:.3f}",
        ]
        for side, item in figures.items()
    ]
    return table(header, rows), figures


def measure(options: argparse.Namespace) -> tuple[str, dict[str, Any]]:
    """Run every side in turn, ``repeats`` times; the report and its figures."""
    results: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    with tempfile.TemporaryDirectory(prefix="fw-bench-") as name:
        folder = Path(name)
        write_peer_model(options.model, folder)
        plan = make_plan(options, folder)
        for _ in range(options.repeats):
            for side in SIDES:
                results[side].append(run_side(side, plan, options.peer_python, folder))
    body, figures = summarise(results)
    packages = sorted({f"{name} {value}" for item in figures.values() for name, value in item["versions"].items()})
    tokens, steps = sum(len(row["tokens"]) for step in plan["steps"] for row in step), len(plan["steps"])
    facts = f"{options.rows} rows, {tokens} tokens, {steps} steps, {options.threads} threads, {options.dtype}"
    body = f"{body}\n\n{facts}, median of {options.repeats} runs in turn; {', '.join(packages)}."
    return body, {"date": date.today().isoformat(), "machine": machine(), "facts": facts, "sides": figures}


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, help="the starter: a folder or its GGUF file")
    parser.add_argument("--rows", type=int, default=96)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"])
    parser.add_argument("--peer-python", default=sys.executable, help="an environment with torch, transformers, peft")
    parser.add_argument("--out", type=Path, help="write the figures here as JSON and the table beside it as .md")
    parser.add_argument("--write", action="store_true", help="put the table into docs/benchmarks.md")
    parser.add_argument("--plan", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.plan is None and options.model is None:
        parser.error("--model is needed")
    return options


def main() -> None:
    """Measure every side in turn and print the table; with ``--plan``, be fw's side of a measurement."""
    options = arguments()
    if options.plan:
        run_ours(json.loads(options.plan.read_text()))
        return
    body, figures = measure(options)
    print(f"{figures['date']}, {machine()}\n\n{body}")
    if options.out:
        options.out.write_text(json.dumps(figures, indent=2) + "\n")
        options.out.with_suffix(".md").write_text(f"{figures['date']}, {machine()}\n\n{body}\n")
    if options.write:
        command = f"python -m tests.benchmarks.training --rows {options.rows} --repeats {options.repeats} --write"
        write_section("training", command, ("torch", "transformers", "peft"), body)


if __name__ == "__main__":
    main()
