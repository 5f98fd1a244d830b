"""Names in requests turned into things that are ready for use, with errors that say how to get there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from engine.control.context import Context
from engine.control.inventory.resolution import ready_model
from engine.jobs.rows import Row, read_rows
from engine.jobs.specs import RowsRef
from fw_sdk.types import (
    Dataset,
    DatasetState,
    Evaluator,
    FwError,
    Model,
    ModelKind,
    Ref,
    Split,
    resource_id,
)
from fw_sdk.types.home import Home


def ready_dataset(context: Context, name: str) -> Dataset:
    """A dataset by id or full name; ``failed_precondition`` until its rows are uploaded."""
    dataset = context.store.datasets.get(resource_id(name, "datasets"))
    if dataset.state is not DatasetState.READY:
        raise FwError(
            "failed_precondition",
            f"Dataset '{dataset.id}' has no rows yet.",
            hint=f"upload them: POST /v1/accounts/local/datasets/{dataset.id}:upload",
            param="dataset",
        )
    return dataset


def ready_base(context: Context, name: str) -> Model:
    """Base weights by id or full name; an adapter is ``model_unsupported``."""
    model = ready_model(context.store, name)
    if model.kind is not ModelKind.BASE:
        base = model.peft_details.base_model.rsplit("/", 1)[-1] if model.peft_details else "its base"
        raise FwError(
            "model_unsupported",
            f"'{model.id}' is an adapter; this version trains from base weights.",
            not_done="nothing was trained",
            hint=f"use baseModel '{base}'",
            param="baseModel",
        )
    return model


def evaluator_of(context: Context, name: str) -> Evaluator:
    """An evaluator by id or full name."""
    return context.store.evaluators.get(resource_id(name, "evaluators"))


def ref_of(thing: Dataset | Evaluator | Model) -> Ref:
    """A stored thing with the digest that it has now."""
    return Ref(name=thing.name, digest=thing.digest)


def model_refs(context: Context, model: Model) -> list[Ref]:
    """A model and, of an adapter, the base below it."""
    if model.peft_details is None:
        return [ref_of(model)]
    return [ref_of(model), ref_of(context.store.models.get(resource_id(model.peft_details.base_model, "models")))]


def require_unchanged(context: Context, refs: Sequence[Ref]) -> None:
    """Raise ``failed_precondition`` if a name stands for something else than it did; refs without digests pass."""
    for ref in refs:
        now = digest_now(context, ref)
        if ref.digest is not None and now != ref.digest:
            said = f"is {now[:19]} now" if now else "is gone"
            raise FwError(
                "failed_precondition",
                f"'{ref.id}' {said}; this work began with {ref.digest[:19]}.",
                not_done="nothing further was done, so that no two versions stand in one result",
                hint="start the work anew with what the name stands for now",
                details={"name": ref.name, "digest": ref.digest, "now": now},
            )


def pinned(context: Context, refs: Sequence[Ref]) -> list[Ref]:
    """The refs, those without a digest with the one that their name has now."""
    return [ref if ref.digest else ref.model_copy(update={"digest": digest_now(context, ref)}) for ref in refs]


def digest_now(context: Context, ref: Ref) -> str | None:
    """The digest of what a ref's name stands for today; None if it stands for nothing."""
    store = context.store
    find: dict[str, Callable[[str], Dataset | Evaluator | Model | None]] = {
        "models": store.models.find,
        "datasets": store.datasets.find,
        "evaluators": store.evaluators.find,
    }
    found = find[ref.name.split("/")[-2]](ref.id)
    return found.digest if found is not None else None


def dataset_path(home: Home, digest: str) -> Path:
    """Where rows with this digest are kept."""
    return home.datasets / f"{digest.removeprefix('sha256:')}.jsonl"


def evaluator_path(home: Home, digest: str) -> Path:
    """Where an evaluator's source with this digest is kept."""
    return home.evaluators / f"{digest.removeprefix('sha256:')}.py"


def rows_ref(home: Home, dataset: Dataset, split: Split) -> RowsRef:
    """A READY dataset's rows as job programs find them."""
    assert dataset.digest is not None
    return RowsRef(
        path=str(dataset_path(home, dataset.digest)),
        split=split,
        heldout_fraction=dataset.heldout_fraction,
        split_seed=dataset.split_seed,
        digest=dataset.digest,
        name=dataset.id,
    )


def rows_of(home: Home, dataset: Dataset, split: Split) -> list[Row]:
    """The rows of one side of a READY dataset."""
    ref = rows_ref(home, dataset, split)
    try:
        return read_rows(Path(ref.path), ref.split, heldout_fraction=ref.heldout_fraction, split_seed=ref.split_seed)
    except FileNotFoundError:
        raise deleted_meanwhile(dataset) from None


def deleted_meanwhile(thing: Dataset | Evaluator | Model) -> FwError:
    """The error of a request whose dataset, evaluator or model was deleted after it had been looked up."""
    return FwError(
        "not_found",
        f"'{thing.id}' was deleted while the request was worked on.",
        not_done="nothing was changed",
        hint="name another, or create it again",
    )


NAMES = {Split.ALL: "usable", Split.TRAIN: "train", Split.HELDOUT: "held-out"}


def require_rows(dataset: Dataset, split: Split, purpose: str) -> None:
    """Raise ``failed_precondition`` if that side of the split is empty."""
    report = dataset.report
    counts = {
        Split.ALL: report.valid_rows if report else 0,
        Split.TRAIN: report.train_rows if report else 0,
        Split.HELDOUT: report.heldout_rows if report else 0,
    }
    if counts[split] == 0:
        raise FwError(
            "failed_precondition",
            f"Dataset '{dataset.id}' has no {NAMES[split]} rows.",
            not_done=purpose,
            hint="use split 'all', or create the dataset with a larger heldoutFraction",
            param="split",
        )
