"""The peer of the training benchmark: a plain transformers + PEFT loop over steps that are given as token ids.

It imports nothing of fw, so that it can run in an environment of its own: ``python peft_loop.py PLAN.json``. In the
plan: ``model`` (a Hugging Face folder), ``steps`` (each a list of ``{"tokens", "trained"}``), ``variant`` (``padded``:
the rows of a step in one padded batch; ``unpadded``: one row at a time, gradients added up), ``dtype``, ``threads``,
``rank``, ``alpha``, ``learning_rate``, ``max_gradient_norm``. The last line on stdout is the result as JSON.
"""

from __future__ import annotations

import json
import platform
import resource
import sys
import time
from pathlib import Path
from typing import Any

import peft
import torch
import transformers

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
IGNORED = -100


def batch_of(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Rows padded on the right to the longest of them."""
    width = max(len(row["tokens"]) for row in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.int64)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, IGNORED)
    for place, row in enumerate(rows):
        tokens, trained = torch.tensor(row["tokens"]), torch.tensor(row["trained"])
        ids[place, : len(tokens)] = tokens
        mask[place, : len(tokens)] = 1
        labels[place, : len(tokens)] = torch.where(trained, tokens, IGNORED)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def take_step(model: Any, optimizer: torch.optim.Optimizer, rows: list[dict[str, Any]], plan: dict[str, Any]) -> float:
    """One optimiser step over ``rows``; its mean loss over trained tokens."""
    trained = sum(sum(row["trained"]) for row in rows)
    groups = [rows] if plan["variant"] == "padded" else [[row] for row in rows]
    total = 0.0
    optimizer.zero_grad()
    for group in groups:
        share = sum(sum(row["trained"]) for row in group) / trained
        loss = model(**batch_of(group)).loss * share
        loss.backward()
        total += float(loss.detach())
    torch.nn.utils.clip_grad_norm_(model.parameters(), plan["max_gradient_norm"])
    optimizer.step()
    return total


def main() -> None:
    """Train over the plan's steps and print what it took."""
    plan = json.loads(Path(sys.argv[1]).read_text())
    torch.manual_seed(0)
    torch.set_num_threads(plan["threads"])
    base = transformers.AutoModelForCausalLM.from_pretrained(plan["model"], dtype=getattr(torch, plan["dtype"]))
    config = peft.LoraConfig(r=plan["rank"], lora_alpha=plan["alpha"], target_modules=TARGETS, task_type="CAUSAL_LM")
    model = peft.get_peft_model(base, config)
    model.train()
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=plan["learning_rate"], weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=len(plan["steps"]))
    seconds, cpu_seconds, losses = [], [], []
    for rows in plan["steps"]:
        started, cpu_started = time.perf_counter(), time.process_time()
        losses.append(take_step(model, optimizer, rows, plan))
        schedule.step()
        seconds.append(time.perf_counter() - started)
        cpu_seconds.append(time.process_time() - cpu_started)
    versions = {
        "python": platform.python_version(),
        **{module.__name__: str(module.__version__) for module in (torch, transformers, peft)},
    }
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    result = {"seconds": seconds, "cpu_seconds": cpu_seconds, "losses": losses, "peak_bytes": peak}
    print(json.dumps({**result, "versions": versions}))


if __name__ == "__main__":
    main()
