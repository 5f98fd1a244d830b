"""What the GPU benchmark measures: our engine and trainer, and transformers, on a model of random weights."""

from __future__ import annotations

import gc
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from engine.catalog.hf_config import config_from_hf
from engine.inference import Engine, EngineConfig, Request, SamplingParams
from engine.inference.gpu_runner import GpuRunner
from engine.models import CausalLM, model_class, new_adapter
from engine.training.examples import Example
from engine.training.trainable import TrainableAdapter
from engine.training.trainer import StepReport, Trainer
from fw_sdk.types import TrainingConfig
from kernels.numerics import numerics

QWEN3_8B = {
    "model_type": "qwen3",
    "architectures": ["Qwen3ForCausalLM"],
    "vocab_size": 151_936,
    "hidden_size": 4096,
    "intermediate_size": 12_288,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 40_960,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1_000_000.0,
    "tie_word_embeddings": False,
    "hidden_act": "silu",
    "bos_token_id": 0,
    "eos_token_id": 1,
}
TINY = {
    **QWEN3_8B,
    "vocab_size": 320,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
}


@dataclass(frozen=True)
class Size:
    """How much is measured.

    Attributes:
        fields: of the model's config.json.
        batches: streams that decode at the same time, one after another.
        context: tokens of each prompt before decoding.
        answer: tokens decoded in each stream.
        prompt: tokens of the prompt whose prefill is measured.
        rows, row_tokens: of the training set.
        rounds: of every figure; the median of all but the first counts.
    """

    fields: dict[str, Any]
    batches: tuple[int, ...]
    context: int
    answer: int
    prompt: int
    rows: int
    row_tokens: int
    rounds: int


FULL = Size(QWEN3_8B, (1, 128), 1024, 128, 8192, 16, 2048, 4)
SMALL = Size(TINY, (1, 2), 5, 2, 8, 1, 16, 1)


@dataclass(frozen=True)
class Decoded:
    """Of one number of streams: seconds between two tokens of a stream, and of them what is not the recorded step."""

    token_s: float
    gap_s: float | None = None


def random_model(fields: dict[str, Any], device: str) -> CausalLM:
    """Our model, with weights that keep values in range, made on the device."""
    config = config_from_hf(fields)
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    model = model_class(config)(config, dtype, device).eval()
    generator = torch.Generator(device).manual_seed(0)
    for name, buffer in model.named_buffers():
        if "frequencies" in name:
            continue
        if buffer.dim() > 1:
            buffer.normal_(0, buffer.shape[-1] ** -0.5, generator=generator)
        else:
            buffer.fill_(1.0)
    return model


class OurSide:
    """Our engine on one model; the sizes of its cache follow from what is measured."""

    def __init__(self, model: CausalLM, size: Size, kind: str) -> None:
        self._size, self._kind, self._turn = size, kind, 0
        most = max(size.batches)
        page = 16
        pages = most * -(-(size.context + size.answer + page) // page) + -(-(size.prompt + 1) // page)
        shape = model.config
        page_bytes = 2 * shape.layers * shape.kv_size * page * model.dtype.itemsize
        config = EngineConfig(
            page_size=page,
            kv_bytes=pages * page_bytes,
            max_batched_tokens=max(size.prompt, most),
            max_running=most,
            prefix_cache=False,
        )
        self._runner = GpuRunner(model, config)
        self._engine = Engine(model, None, config, numerics=kind, runner=self._runner)

    def decode(self, streams: int) -> Decoded:
        """Streams of one length each, after their prompts are computed; the first round also records."""
        token_s = _median([self._decode_once(streams) for _ in range(self._size.rounds)])
        step_s = self._recorded_step()
        return Decoded(token_s, None if step_s is None else token_s - step_s)

    def prefill(self) -> float:
        """Tokens of a prompt per second, until its first token is read."""
        taken = []
        for _ in range(self._size.rounds):
            self._add(1, self._size.prompt, 1)
            started = time.perf_counter()
            while self._engine.has_work:
                self._engine.step()
            taken.append(time.perf_counter() - started)
        return self._size.prompt / _median(taken)

    def _decode_once(self, streams: int) -> float:
        self._add(streams, self._size.context, self._size.answer)
        begun = set[str]()
        while len(begun) < streams:
            begun |= {output.request_id for output in self._engine.step()}
        started, steps, ended = time.perf_counter(), self._engine.steps, False
        while not ended:  # as long as all of them run
            ended = any(output.finished for output in self._engine.step())
        taken = (time.perf_counter() - started) / max(1, self._engine.steps - steps)
        while self._engine.has_work:
            self._engine.step()
        return taken

    def _recorded_step(self) -> float | None:
        """Seconds of the last recorded step by itself, replayed; None if steps are not recorded."""
        if not self._runner.records.last:
            return None
        replay = self._runner.records.last
        with torch.inference_mode(), numerics(self._kind):
            replay()
            _wait()
            started = time.perf_counter()
            for _ in range(self._size.answer):
                replay()
            _wait()
        return (time.perf_counter() - started) / self._size.answer

    def _add(self, streams: int, prompt: int, answer: int) -> None:
        self._turn += 1
        dice = random.Random(self._turn)
        sampling = SamplingParams(max_tokens=answer, temperature=0.0, ignore_eos=True)
        for number in range(streams):
            tokens = tuple(dice.choices(range(self._engine.model.config.vocab_size), k=prompt))
            self._engine.add(Request(f"{self._turn}-{number}", tokens, sampling))


class TheirSide:
    """transformers' own generation, with a static cache and what it compiles by itself on a GPU."""

    def __init__(self, size: Size, device: str) -> None:
        from transformers import Qwen3Config, Qwen3ForCausalLM

        self._size, self._device = size, device
        named = {name: value for name, value in size.fields.items() if name not in ("architectures", "model_type")}
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.bfloat16 if device == "cuda" else torch.float32)
        try:
            with torch.device(device):
                self._model = Qwen3ForCausalLM(Qwen3Config(**named)).eval()
        finally:
            torch.set_default_dtype(before)

    def decode(self, streams: int) -> Decoded:
        """Seconds of one decoding step: the answer's time less that of its first token."""
        prompt = self._prompt(streams, self._size.context)
        taken = []
        for _ in range(self._size.rounds):
            whole, first = (self._generate(prompt, count) for count in (self._size.answer, 1))
            taken.append((whole - first) / (self._size.answer - 1))
        return Decoded(_median(taken))

    def prefill(self) -> float:
        """Prompt tokens per second up to the first token."""
        prompt = self._prompt(1, self._size.prompt)
        taken = [self._generate(prompt, 1) for _ in range(self._size.rounds)]
        return self._size.prompt / _median(taken)

    def _prompt(self, streams: int, length: int) -> Tensor:
        generator = torch.Generator().manual_seed(streams)
        return torch.randint(2, self._size.fields["vocab_size"], (streams, length), generator=generator).to(
            self._device
        )

    @torch.inference_mode()
    def _generate(self, prompt: Tensor, tokens: int) -> float:
        _wait()
        started = time.perf_counter()
        self._model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=tokens,
            min_new_tokens=tokens,
            do_sample=False,
            cache_implementation="static",
            pad_token_id=0,
        )
        _wait()
        return time.perf_counter() - started


@dataclass(frozen=True)
class Trained:
    """Of a LoRA training: tokens per second in the median step, and the most memory that was allocated, in GiB."""

    tokens_s: float
    peak_gib: float | None


def train(model: CausalLM, size: Size) -> Trained:
    """An adapter of rank 16 on all projections, one epoch over rows of one length."""
    dice = random.Random(0)
    vocabulary = model.config.vocab_size
    examples = [
        Example(
            line, tuple(dice.choices(range(vocabulary), k=size.row_tokens)), (False,) + (True,) * (size.row_tokens - 1)
        )
        for line in range(size.rows)
    ]
    config = TrainingConfig(epochs=1, lora_rank=16, batch_size=max(16, size.row_tokens * 2), learning_rate=1e-4)
    adapter = new_adapter(model.config, config.lora_rank, config.lora_alpha, model.config.targets, 0)
    trainable = TrainableAdapter(adapter, dtype=model.dtype, device=model.device)
    on_gpu = model.device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    reports: list[StepReport] = []
    Trainer(model, trainable, examples, config).run(reports.append)
    _wait()
    rate = _median([report.tokens / report.seconds for report in reports])
    return Trained(rate, torch.cuda.max_memory_allocated() / 2**30 if on_gpu else None)


def _median(taken: Sequence[float]) -> float:
    """Of all but the first, which warmed up, if there are others."""
    return statistics.median(taken[1:] or taken)


def release() -> None:
    """Give memory back that nothing holds any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
