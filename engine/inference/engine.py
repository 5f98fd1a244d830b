"""The engine: requests in, one step at a time, outputs out. Not thread-safe; ``EngineLoop`` gives it a thread."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence as Items
from itertools import count
from pathlib import Path
from typing import Any, cast

from engine.inference.adapters import AdapterRegistry, Recipe, Resident, Source
from engine.inference.admission import check_prompt
from engine.inference.ahead import AheadRunner, PendingStep, draws_on_device, launch_step
from engine.inference.answer import Live, completion
from engine.inference.config import SPARE_ROWS, EngineConfig
from engine.inference.draft_model import check_same_tokens, speculation
from engine.inference.drawing import BrokenOutput, Drawing, MaskCost, draw_step, failure
from engine.inference.memory import prefix_index
from engine.inference.prefix import PrefixIndex
from engine.inference.reload import UpdateMode, load_alike
from engine.inference.request import Completion, Output, Request, SamplingParams, TokenLogprob
from engine.inference.runner import Runner
from engine.inference.runners import runner_for
from engine.inference.scheduler import Scheduler, StepPlan
from engine.inference.sequence import Sequence
from engine.inference.shaping import Shaping, check_shaping
from engine.inference.stats import EngineStats
from engine.models import CausalLM, PackedModel, load_adapter, load_for_inference, pick_device, pick_numerics
from engine.text import Renderer, StopMatcher, StreamDecoder
from fw_sdk.types import FwError
from kernels.numerics import numerics as computing

CLEANED_AT_ONCE = 256
USUAL_ANSWER = 128
"""Tokens of an answer, before there was one."""

Prompt = Request | str | Items[int] | Items[Mapping[str, Any]]


class Engine:
    """Continuous batching over one model and any number of adapters.

    Args:
        model: the base model.
        renderer: its tokenizer and chat template; without one, outputs have no text and prompts must be token ids.
        config: sizes.
        draft: a smaller model with the same tokens, for ``speculation="draft"``.
        numerics: fast or exact, of a model in torch; a packed one has its own.
        runner: what computes the steps; chosen by the model and its device unless given.

    Attributes:
        memory: the account of weights and cache.
        device: where it computes.
        format: how the weights are held: bfloat16, float32, q4_1, int8 …
        numerics: fast or exact, see ``load``.
        context: tokens that a request may have at most, prompt and answer together.
        adapters: what is loaded, by name.
        weight_version: of the base's weights: 0 as they were loaded, and a larger number after every change in place.
            Adapters take their versions from the same numbers, when they are loaded.
        restarts: how often it began anew after an error.
        steps: computed so far.
        computed_tokens: in all of them.
        answers: requests that came to their end.
    """

    def __init__(
        self,
        model: CausalLM | PackedModel,
        renderer: Renderer | None = None,
        config: EngineConfig | None = None,
        draft: CausalLM | PackedModel | None = None,
        numerics: str = "fast",
        runner: Runner | None = None,
    ) -> None:
        config = config or EngineConfig()
        self.model, self.renderer = model, renderer
        on_gpu = isinstance(model, CausalLM) and model.device.type == "cuda"
        batched = config.max_batched_tokens or max(config.max_running, 8192 if on_gpu else 512)
        self._runner = runner or runner_for(model, config, batched)
        self._speculation = speculation(
            config, self._runner, runner_for(draft, config, batched) if draft is not None else None, batched
        )
        self.memory, self.device, self.format = self._runner.memory, self._runner.device, self._runner.format
        self.numerics = model.numerics if isinstance(model, PackedModel) else numerics
        self.context = min(model.config.max_context, self.memory.tokens)
        self._config, self._batched = config, batched
        self._prefix, self._scheduler = self._empty_cache()
        self._live: dict[str, Live] = {}
        self._pending_step: PendingStep | None = None
        self._versions = count(1)
        self.adapters = AdapterRegistry(
            lambda path: load_adapter(path, model.config, self._runner.dtype, self.device),
            self._runner.prepare,
            self._versions,
            max_count=config.max_adapters,
            max_bytes=config.adapter_bytes,
        )
        self.weight_version = self.restarts = self.steps = self.computed_tokens = self.answers = 0
        self._arrivals = count()
        self._prompt_tokens = self._generation_tokens = 0
        self._mask_cost = MaskCost()
        self._end_ids = frozenset(renderer.stop_ids if renderer else model.config.eos_ids)

    @classmethod
    def load(
        cls,
        path: Path | str,
        *,
        dtype: str = "auto",
        device: str = "auto",
        numerics: str = "auto",
        config: EngineConfig | None = None,
        draft_model: Path | str | None = None,
    ) -> Engine:
        """Load the model at ``path`` (a folder or a .gguf file) with its tokenizer.

        Args:
            path: the model.
            dtype: ``bfloat16`` or ``float32``; ``stored`` keeps a GGUF file's 4- or 8-bit weights as they are, ``int8``
                and ``int4`` quantise on load; on a GPU and without a C compiler they only save memory. ``auto`` is
                ``stored`` where that is possible, else ``bfloat16`` where the device multiplies it natively.
            device: auto, cpu or cuda.
            numerics: ``exact`` gives a row the same bits in any batch, chunk and cache; ``fast`` leaves sums in full
                precision to torch. ``auto`` is exact where that is cheap. With weights in 4 or 8 bits both give
                the same bits; there ``exact`` (their ``auto``) rounds activations so finely that logits are float32's
                to three digits, and ``fast`` rounds them to 8 bits, which many streams at once feel.
            config: sizes.
            draft_model: a smaller model with the same tokenizer, held in the same way, for ``speculation="draft"``.

        Raises:
            FwError: ``not_found``, ``model_unsupported``, ``out_of_memory``, ``invalid_argument``, and
                ``failed_precondition`` if the weights cannot be held as asked.
        """
        renderer = Renderer.load(Path(path))
        draft_renderer = Renderer.load(Path(draft_model)) if draft_model is not None else None
        if draft_renderer is not None:
            check_same_tokens(renderer.tokenizer, draft_renderer.tokenizer)
        model, draft = (
            load_for_inference(Path(each), dtype=dtype, device=pick_device(device), numerics=numerics) if each else None
            for each in (path, draft_model)
        )
        assert model is not None
        if isinstance(model, CausalLM):
            recurrent = model.config.recurrence is not None
            numerics = pick_numerics(model.device, model.dtype, numerics, recurrent=recurrent)
        return cls(model, renderer, config, draft, numerics)

    @property
    def packed(self) -> bool:
        """Whether steps run in the compiled decoder, on threads of its own."""
        return isinstance(self.model, PackedModel)

    @property
    def has_work(self) -> bool:
        """Whether a step would do anything."""
        return bool(self._live)

    @property
    def stats(self) -> EngineStats:
        """What the metrics show; may be read from another thread."""
        scheduler, prefix, guesses = self._scheduler, self._prefix, self._speculation
        return EngineStats(
            running=len(scheduler.running),
            waiting=len(scheduler.waiting),
            kv_usage=prefix.used / prefix.pool.total,
            prompt_tokens=self._prompt_tokens,
            generation_tokens=self._generation_tokens,
            prefix_queries=prefix.queries,
            prefix_hits=prefix.hits,
            preemptions=scheduler.preemptions,
            restarts=self.restarts,
            masked_rows=self._mask_cost.rows,
            mask_seconds=self._mask_cost.seconds,
            drafted_tokens=guesses.drafted if guesses else 0,
            accepted_tokens=guesses.accepted if guesses else 0,
            drafts=guesses.steps if guesses else 0,
        )

    def check(self, request: Request) -> None:
        """Raise what ``add`` would raise for this request; may be called from another thread.

        Raises:
            FwError: ``invalid_argument`` for an empty prompt or an unknown token, ``context_length_exceeded``,
                ``not_found`` for an adapter that is not loaded, ``already_exists`` for an id in use.
        """
        check_prompt(request, self.context, self.model.config.vocab_size)
        check_shaping(request, self.model.config.vocab_size)
        self.adapters.recipe(request)
        if request.id in self._live:
            raise FwError(
                "already_exists", f"request '{request.id}' is running", not_done="nothing was generated", param="id"
            )

    def add(self, request: Request) -> None:
        """Queue a request; raises as ``check`` and then changes nothing.

        An adapter that lost its place in memory is read from its files, here and now, and may fail as in ``load``.
        """
        self.check(request)
        sampling, adapter = request.sampling, self._adapter_of(request)
        sequence = Sequence(
            request,
            arrival=next(self._arrivals),
            limit=min(len(request.prompt) + sampling.max_tokens, self.context),
            adapter_id=adapter.number if adapter else 0,
        )
        ends = frozenset(sampling.stop_token_ids) | (frozenset() if sampling.ignore_eos else self._end_ids)
        decoder = StreamDecoder(self.renderer.tokenizer, not request.keep_special) if self.renderer else None
        shaping = Shaping.of(request, sequence.limit - sequence.known, ends)
        scores: list[TokenLogprob | None] | None = None if sampling.prompt_logprobs is None else [None]
        self._live[request.id] = Live(sequence, adapter, ends, decoder, StopMatcher(sampling.stop), shaping, scores)
        if adapter is not None:
            self.adapters.use(adapter)
        self._scheduler.add(sequence)

    def cancel(self, request_id: str) -> None:
        """Drop a request and give its pages back; unknown and finished ones are ignored."""
        live = self._live.pop(request_id, None)
        if live is not None:
            self._scheduler.remove(live.sequence)
            if self._speculation is not None:
                self._speculation.forget(request_id)
            if live.adapter is not None:
                self.adapters.release(live.adapter)

    def step(self) -> list[Output]:
        """Compute one step; returns what is new, one output for each request that got a token.

        If the computation itself fails, all requests are dropped and the error is raised: what is in the pages cannot
        be trusted any more.
        """
        try:
            drawings = self._next()
        except BaseException:
            self._drop_everything()
            raise
        return [self._accept(drawing) for drawing in drawings]

    def _next(self) -> list[Drawing]:
        """What the next step drew; of a runner that works ahead, what the step before it drew, once it is launched."""
        pending, self._pending_step = self._pending_step, None
        ahead = self._runner if self._launches_ahead() else None
        if pending is not None and ahead is None:
            return pending.collect(self._live)
        if self._speculation is not None:
            self._speculation.propose(self._scheduler.running.values())
        plan, found = self._scheduler.schedule(), list[Drawing]()
        if plan.slices:
            with computing(self.numerics):
                adapters = self._adapters_of(plan)
                if isinstance(ahead, AheadRunner):
                    self._pending_step = launch_step(ahead, plan, adapters, self._live, self._version)
                else:
                    found = draw_step(self._runner.compute(plan, adapters), self._live, self._mask_cost)
            self._scheduler.advance(plan)
            self.steps += 1
            self.computed_tokens += plan.tokens
        return found if pending is None else pending.collect(self._live)

    def _launches_ahead(self) -> bool:
        runner = self._runner
        able = isinstance(runner, AheadRunner) and runner.ahead and self._speculation is None
        return able and draws_on_device(self._live.values())

    def load_adapter(self, name: str, path: Path | str) -> None:
        """Load the adapter in the folder ``path`` under ``name``. Loading the same files again changes nothing.

        Raises:
            FwError: ``already_exists`` if the name has other weights, and what reading the files raises.
        """
        self.install_adapter(name, *self.read_adapter(path))

    def read_adapter(self, path: Path | str) -> tuple[Source, Resident]:
        """The adapter in a folder; touches nothing, may run in any thread."""
        source = self.adapters.source(path)
        return source, self.adapters.read(Recipe(((source, 1.0),)))

    def install_adapter(
        self, name: str, source: Source, weights: Resident, *, mode: UpdateMode | None = None
    ) -> list[Output]:
        """Second half of ``load_adapter``.

        Args:
            name: the adapter's name.
            source: as read.
            weights: as read.
            mode: with one, the name may have other weights, which these replace; ``wait`` lets requests that run be
                finished with the old ones while new requests begin with the new. A request that runs a combination
                keeps what it began with, unless it is aborted.

        Returns:
            the last outputs of the requests that this ended.
        """
        old = self.adapters.get(name)
        present = self.adapters.install(name, source, weights, instead=mode is not None)
        ended = [] if old is None or present is old else self._exchange(old, weights, mode)
        self.adapters.trim()
        return ended

    def _exchange(self, old: Source, weights: Resident, mode: UpdateMode | None) -> list[Output]:
        """Do with the requests that run with ``old`` what ``mode`` says."""
        if mode == "wait":
            return []
        affected = [live for live in self._live.values() if live.adapter and old.identity in live.adapter.parts]
        if mode == "abort":
            return [self._abort(live) for live in affected]
        for live in affected:
            if live.adapter is not None and live.adapter.number == old.identity:
                self.adapters.use(weights)
                self.adapters.release(live.adapter)
                live.adapter, live.sequence.adapter_id = weights, weights.number
                self._scheduler.unshare(live.sequence)
        return []

    def read_weights(self, path: Path | str) -> CausalLM | PackedModel:
        """Other weights for the base, held as the present ones are; touches nothing, may run in any thread.

        Raises:
            FwError: what loading raises, and ``failed_precondition`` for another architecture or format.
        """
        return load_alike(Path(path), self.model)

    def install_weights(self, model: CausalLM | PackedModel, *, abort: bool) -> list[Output]:
        """Put what was read in place of the base's weights.

        Requests that have begun go on with the new weights, over the keys and values that they have, or are ended with
        ``abort``. Nothing that was computed before is shared with later requests.

        Returns:
            the last outputs of the requests that this ended.
        """
        ended = [self._abort(live) for live in tuple(self._live.values()) if abort and live.begun]
        self.model = model
        self._runner.replace(model)
        self._scheduler.forget_prefixes()
        self.weight_version = next(self._versions)
        return ended

    def unload_adapter(self, name: str) -> None:
        """Forget an adapter. Requests that use it already are finished with it; new ones are refused.

        Raises:
            FwError: ``not_found``.
        """
        self.adapters.remove(name)

    def restart(self) -> None:
        """Begin anew with an empty cache, whatever state an error has left; every request is gone."""
        self._live, self._pending_step = {}, None
        if self._speculation is not None:
            self._speculation.forget_all()
        self.adapters.release_all()
        preemptions, queries, hits = self._scheduler.preemptions, self._prefix.queries, self._prefix.hits
        self._prefix, self._scheduler = self._empty_cache()
        self._scheduler.preemptions = preemptions
        self._prefix.count(queries, hits)
        for start in range(0, self.memory.pages, CLEANED_AT_ONCE):
            self._runner.clean(range(start, min(start + CLEANED_AT_ONCE, self.memory.pages)))
        self.restarts += 1

    @property
    def requests(self) -> tuple[str, ...]:
        """Ids of the requests that it has."""
        return tuple(self._live)

    @property
    def backlog(self) -> float:
        """Tokens to compute until a request that comes now would begin, estimated; may be read from another thread.

        Each that waits wants its prompt and an answer as long as the average one. If none waits, the one that runs and
        is nearest to its end has to come there.
        """
        usual = self._generation_tokens / self.answers if self.answers else USUAL_ANSWER
        waiting = self._scheduler.waiting
        if waiting:
            return sum(sequence.pending + usual for sequence in waiting)
        running = tuple(self._scheduler.running.values())
        return len(running) * min((min(item.limit - item.known, usual) for item in running), default=0)

    def generate(
        self, prompts: Items[Prompt], sampling: SamplingParams | None = None, *, adapter: str | None = None
    ) -> list[Completion]:
        """Continue every prompt and return the completions in the order of the prompts.

        Args:
            prompts: texts, token ids, conversations, or whole requests (which bring their own parameters).
            sampling: for prompts that are no requests.
            adapter: for prompts that are no requests.

        Raises:
            FwError: for the first prompt that cannot be run, before any of them is.
        """
        params = sampling or SamplingParams()
        requests = [self._request(index, prompt, params, adapter) for index, prompt in enumerate(prompts)]
        collected: dict[str, list[Output]] = {request.id: [] for request in requests}
        if len(collected) < len(requests):
            raise FwError("invalid_argument", "two requests have the same id", not_done="nothing was generated")
        for request in requests:
            self.check(request)
        for request in requests:
            self.add(request)
        while any(request.id in self._live for request in requests):
            for output in self.step():
                if output.request_id in collected:
                    collected[output.request_id].append(output)
        return [completion(collected[request.id]) for request in requests]

    def check_integrity(self) -> None:
        """Raise unless every page and every request is accounted for."""
        self._scheduler.check_integrity()
        self.adapters.check_integrity(live.adapter for live in self._live.values() if live.adapter is not None)
        queued = {*self._scheduler.running, *(sequence.id for sequence in self._scheduler.waiting)}
        if queued != set(self._live):
            raise RuntimeError(f"requests {sorted(queued ^ set(self._live))} are known to one side only")

    def _adapter_of(self, request: Request) -> Resident | None:
        """The weights that the request is to run with."""
        recipe = self.adapters.recipe(request)
        if recipe is None:
            return None
        return self.adapters.find(recipe) or self.adapters.keep(recipe, self.adapters.read(recipe))

    def _request(self, index: int, prompt: Prompt, sampling: SamplingParams, adapter: str | None) -> Request:
        if isinstance(prompt, Request):
            return prompt
        if isinstance(prompt, str):
            ids = self._text_side().tokenizer.encode(prompt)
        elif prompt and isinstance(prompt[0], Mapping):
            ids = self._text_side().render(cast(Items[Mapping[str, Any]], prompt))
        else:
            ids = [int(token) for token in cast(Items[int], prompt)]
        return Request(f"generate-{index}", tuple(ids), sampling, adapter)

    def _text_side(self) -> Renderer:
        if self.renderer is None:
            raise FwError("invalid_argument", "this engine has no tokenizer: prompts must be token ids", param="prompt")
        return self.renderer

    def _adapters_of(self, plan: StepPlan) -> dict[int, Any]:
        residents = (self._live[item.sequence.id].adapter for item in plan.slices)
        return {resident.number: resident.weights for resident in residents if resident is not None}

    def _version(self, live: Live) -> int:
        return max(self.weight_version, live.adapter.version if live.adapter else 0)

    def _accept(self, drawing: Drawing) -> Output:
        """Make drawn tokens known, and end the request if the last of them is its last."""
        sequence, live = drawing.sequence, self._live[drawing.sequence.id]
        if drawing.error is not None:
            return self._fail(live, drawing.error)
        if sequence.generated == 0:
            self._prompt_tokens += sequence.known
        scores, live.scores = tuple(live.scores or ()), None
        try:
            count, text, reason = live.extend(drawing.tokens)
        except Exception as error:  # noqa: BLE001  from its grammar
            return self._fail(live, failure(sequence.id, error))
        self._generation_tokens += count
        if self._speculation is not None:
            self._speculation.judge(sequence, len(drawing.tokens) - 1)
            sequence.settle()
        if reason is not None:
            self.answers += 1
            self.cancel(sequence.id)
        logprobs = tuple(item for item in drawing.logprobs[:count] if item is not None)
        versions = (self._version(live) if drawing.version is None else drawing.version,) * count
        tokens = tuple(drawing.tokens[:count])
        stop = live.matcher.matched
        return Output(sequence.id, tokens, text, logprobs, reason, live.usage, None, versions, scores, stop)

    def _fail(self, live: Live, error: FwError) -> Output:
        """End a request with an error."""
        sequence = live.sequence
        if isinstance(error, BrokenOutput):
            self._runner.clean(sequence.pages)
            self._scheduler.forget_prefixes()
        self.cancel(sequence.id)
        return Output(sequence.id, (), "", (), None, live.usage, error)

    def _abort(self, live: Live) -> Output:
        """End a request with what it has."""
        self.cancel(live.sequence.id)
        return Output(live.sequence.id, (), live.cut(), (), "abort", live.usage)

    def _drop_everything(self) -> None:
        self._pending_step = None
        for request_id in list(self._live):
            self.cancel(request_id)
        self._prefix.clear()

    def _empty_cache(self) -> tuple[PrefixIndex, Scheduler]:
        config = self._config
        prefix = prefix_index(self.memory, enabled=config.prefix_cache)
        scheduler = Scheduler(
            prefix, max_running=config.max_running, max_batched_tokens=self._batched, spare_rows=SPARE_ROWS
        )
        return prefix, scheduler
