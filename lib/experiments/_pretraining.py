"""Language models that several cells need: trained once, kept by identity, loaded after that.

A model lies in ``<local runs>/language_models`` as safetensors, named by the identity of its
:class:`LanguageCell`, and is never trained twice, not by two processes at once either: one trains,
others wait. While it trains, a checkpoint lies beside it. A model that the chapter on stories has
trained is taken from its record. Published models come from ``<local runs>/pretrained/<name>`` if
there is such a folder, else from the hub.
"""

from __future__ import annotations

import dataclasses
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from filelock import FileLock

from lib import locks, progress, provenance
from lib.config import added_later, digest, require, to_dict
from lib.experiments import Context, Outcome
from lib.experiments._language import LanguageCell, language_in_turns, language_readable
from lib.models.config import LanguageModelConfig
from lib.store import Store, write_atomic
from lib.tasks.language import LanguageTask

if TYPE_CHECKING:
    from lib.models.language_model import LanguageModel
    from lib.training.abreast import Turns

FOLDER, PRETRAINED = "language_models", "pretrained"
PAUSE = 0.2  # seconds between two looks at what another process trains
KEPT = ("final_valid_loss", "final_valid_bits_per_byte")
STORIES = ("stories.from_scratch", 1)  # whose records hold weights of the same cells


@dataclass(frozen=True)
class Published:
    """A language model with published weights.

    Attributes:
        pretrained: an id of the hub, ``owner/name``, or a folder.
        model: what its config must come to.
        task: the text that is read, and the tokenizer.
        revision: commit of the hub's repository, 40 hex digits; None for the newest. A folder of
            this machine is taken as it is, and its weights told by their hash.
    """

    kind: ClassVar[str] = "published"
    pretrained: str
    model: LanguageModelConfig
    task: LanguageTask
    revision: str | None = added_later(None)

    def __post_init__(self) -> None:
        require(self, "pretrained", bool(self.pretrained), "an id of the hub or a folder")
        pinned = self.revision is None or re.fullmatch("[0-9a-f]{40}", self.revision) is not None
        require(self, "revision", pinned, "a commit, 40 hex digits, or None")

    @property
    def short(self) -> str:
        """Last part of its name."""
        return self.pretrained.rstrip("/").rsplit("/", 1)[-1]


@dataclass(frozen=True)
class Loaded:
    """A language model, in eval mode on the device, and what is known of it.

    Attributes:
        metrics: of held-out text, of its own training; empty for published weights.
        facts: for the record's provenance.
    """

    model: LanguageModel
    metrics: dict[str, float]
    facts: dict[str, Any]


def runs_folder() -> Path:
    """Where local runs, and what they share, lie."""
    return Store.at(provenance.ROOT).local


def model_path(cell: LanguageCell) -> Path:
    """Where the weights of a trained model are kept."""
    return runs_folder() / FOLDER / f"{language_readable(cell)}-{identity(cell)}.safetensors"


def identity(cell: LanguageCell) -> str:
    """Of a language model: all that decides its weights, 16 hex digits."""
    return digest(to_dict(cell))[:16]


def language_model(language: LanguageCell | Published, context: Context) -> Turns[Loaded | Outcome]:
    """The language model, trained first if nobody has, in turns (:mod:`lib.training.abreast`); an
    outcome that is not done if that failed or the budget ran out.

    Raises:
        HubError: published weights that are neither here nor in reach, or are others.
        CheckpointError: a damaged file.
    """
    if isinstance(language, Published):
        return _published(language, context)
    path = model_path(language)
    if not path.exists():
        outcome = yield from _train_once(language, context, path)
        if outcome is not None:
            return outcome
    return _load(language, path, context)


@dataclass(frozen=True)
class _Elsewhere:
    """A model that another process trains, until it is there, the other has ended without it (the
    system takes the lock from a process that dies), or the budget is spent."""

    lock: FileLock
    path: Path
    context: Context
    idle: ClassVar[bool] = True  # see lib.training.abreast.Awaited

    def query(self) -> bool:
        """Whether the wait is over."""
        return self.path.exists() or self.taken() or self.context.late

    def taken(self) -> bool:
        """Whether the lock is ours, now if not before."""
        return locks.taken(self.lock)


def _train_once(cell: LanguageCell, context: Context, path: Path) -> Turns[Outcome | None]:
    """:func:`_train`, unless another process does: then wait for its model."""
    elsewhere = _Elsewhere(locks.lock_of(runs_folder(), path.stem), path, context)
    try:
        if not elsewhere.taken():
            progress.note(f"another process trains {path.stem}; waiting for it")
        while not elsewhere.query():
            time.sleep(PAUSE)  # whoever trains by itself asks again at once
            yield elsewhere
        if path.exists():
            return None
        if not elsewhere.lock.is_locked:
            reason = f"budget spent waiting for {path.stem}, which another process trains"
            return Outcome(cell, "stopped", reason)
        return (yield from _train(cell, context, path))
    finally:
        elsewhere.lock.release()


def _published(language: Published, context: Context) -> Loaded:
    from lib.models.hub import HubError, fetch, load_pretrained, revision_of, weights_hashes

    folder = runs_folder() / PRETRAINED / language.short
    source: str | Path = folder if folder.is_dir() else language.pretrained
    try:
        found = fetch(source, revision=language.revision)
    except HubError as error:
        raise HubError(f"{error}; or put it into {folder}, where it is looked for first") from error
    model = load_pretrained(found, device=context.device, backend=context.backend)
    if _shape(model.config) != _shape(language.model):
        raise HubError(
            f"{source} has {_shape(model.config)}, the cell wants {_shape(language.model)}"
        )
    facts: dict[str, Any] = {"pretrained": language.pretrained, "revision": revision_of(found)}
    if facts["revision"] is None:
        facts["weights_sha256"] = weights_hashes(found)
    return Loaded(model, {}, facts)


def _shape(config: LanguageModelConfig) -> str:
    kinds = "+".join(block.kind for block in config.pattern)
    return (
        f"{config.n_layers} layers of {kinds}, width {config.d_model}, {config.vocab_size} tokens"
    )


def _train(cell: LanguageCell, context: Context, path: Path) -> Turns[Outcome | None]:
    """Train and keep the weights; None if that is done."""
    from lib.training.checkpoints import load_checkpoint, serialise

    path.parent.mkdir(parents=True, exist_ok=True)
    (record,) = Store.at(provenance.ROOT).records(*STORIES, [cell])
    kept = None if record is None or record.status != "done" else record.weights_path()
    if record is not None and kept is not None:
        tensors, _ = load_checkpoint(kept)
        facts = {"metrics": record.metrics, "origin": [record.name]}
        write_atomic(path, serialise(tensors, identity=identity(cell), **facts))
        return None
    # a model of this size trains in less time than compiling it takes
    folder = None if context.checkpoints is None else path.parent / "checkpoints"
    own = dataclasses.replace(
        context, compile=bool(context.compile), checkpoints=folder, identify=identity
    )
    outcome = yield from language_in_turns(cell, own)
    if outcome.status != "stopped":  # one that failed would fail again from its checkpoint
        own.forget(cell)
    if outcome.status != "done":
        return outcome
    assert outcome.weights is not None
    # the outcome's bytes hold the weights alone; what was measured goes with them
    tensors = _tensors(outcome.weights)
    metrics = {name: value for name, value in outcome.metrics.items() if value is not None}
    facts = {"metrics": metrics, "origin": outcome.facts["sessions"]}
    write_atomic(path, serialise(tensors, identity=identity(cell), **facts))
    return None


def _tensors(payload: bytes) -> dict[str, Any]:
    from safetensors.torch import load

    return load(payload)


def _load(cell: LanguageCell, path: Path, context: Context) -> Loaded:
    from lib.models.language_model import build_language_model
    from lib.training.checkpoints import load_checkpoint

    tensors, facts = load_checkpoint(path, identity(cell))
    model = build_language_model(
        cell.model, seed=cell.seed, device=context.device, backend=context.backend
    )
    model.load_state_dict(tensors)
    kept = {name: facts["metrics"][name] for name in KEPT if name in facts["metrics"]}
    return Loaded(model.eval(), kept, {"language_model": path.name, "pretraining": facts["origin"]})
