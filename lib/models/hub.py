"""Pretrained Mamba and Mamba-2 checkpoints in Hugging Face's format: read them, write ours.

A source is a folder on this machine or the id of a repository on the hub, wherever one is asked
for: ``state-spaces/mamba-130m-hf``, ``AntonV/mamba2-130m-hf``. Weights are read from safetensors
files only; pickles can run code.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from lib import progress
from lib.models.hub_format import (
    FAMILIES,
    HubError,
    our_config,
    our_weights,
    their_config,
    their_weights,
)
from lib.models.language_model import LanguageModel

__all__ = [
    "HubError",
    "fetch",
    "load_causal_lm",
    "load_config",
    "load_pretrained",
    "load_tokenizer",
    "revision_of",
    "save_pretrained",
    "stop_tokens",
    "weights_hashes",
]

CONFIG, WEIGHTS = "config.json", "model.safetensors"
INDEX = f"{WEIGHTS}.index.json"
# what a model and its tokenizer need; the same repositories also hold pickled copies of the weights
PATTERNS = ("*.json", "*.safetensors", "*.model", "merges.txt", "vocab.txt")
VOCABULARIES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")


def fetch(source: str | Path, *, revision: str | None = None, offline: bool = False) -> Path:
    """The folder of a checkpoint: `source` itself, or a hub repository's copy on this machine.

    Args:
        source: a folder, or a hub id, ``owner/name``; what exists as a folder is one.
        revision: of the repository: branch, tag or commit.
        offline: use an earlier download and ask no hub.

    Raises:
        HubError: no such folder; no such repository; or the hub cannot be reached.
    """
    path, text = Path(source).expanduser(), str(source)
    if text and path.is_dir():
        return path
    if path.is_file():
        raise HubError(f"{text} is a file; give the folder that holds {CONFIG} and {WEIGHTS}")
    if isinstance(source, Path) or text[:1] in (".", "/", "~", "") or text.count("/") != 1:
        raise HubError(f"{text!r} is no folder here, and no hub id (owner/name) either")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

    try:
        found = snapshot_download(
            text, revision=revision, allow_patterns=list(PATTERNS), local_files_only=offline
        )
    except HFValidationError as error:
        raise HubError(f"{text!r} is no folder here, and no hub id: {error}") from error
    except RepositoryNotFoundError as error:
        raise HubError(f"the hub has no repository {text!r} that may be read: {error}") from error
    except Exception as error:  # whatever the network does: each library under it has its own
        raise HubError(_how_to_download(text, revision, error)) from error
    return Path(found)


def _how_to_download(source: str, revision: str | None, error: Exception) -> str:
    name, at = source.split("/")[1], f" --revision {revision}" if revision else ""
    wanted = " ".join(f"--include '{pattern}'" for pattern in PATTERNS)
    reason = str(error).strip().partition("\n")[0]
    return (
        f"{source} is not on this machine and could not be downloaded "
        f"({type(error).__name__}: {reason}). Where the hub can be reached, run\n"
        f"  hf download {source}{at} {wanted} --local-dir {name}\n"
        f"then copy the folder {name} (it holds {CONFIG}, *.safetensors and the tokenizer) to this "
        f"machine, and give its path, such as ./{name}, in place of {source}"
    )


def load_config(source: str | Path, *, revision: str | None = None, offline: bool = False) -> Any:
    """The transformers config of a checkpoint of one of our families; builds no model.

    Raises:
        HubError: no readable config.json, or one of another architecture.
    """
    import transformers

    folder = fetch(source, revision=revision, offline=offline)
    facts = _json(folder / CONFIG)
    family = facts.get("model_type")
    if family in FAMILIES:
        kinds: dict[str, Any] = {
            "mamba": transformers.MambaConfig,
            "mamba2": transformers.Mamba2Config,
        }
        try:
            return kinds[family].from_pretrained(str(folder))
        except Exception as error:  # its validation has errors of its own kinds
            raise HubError(f"{folder / CONFIG} describes no model: {error}") from error
    if "ssm_cfg" in facts:
        raise HubError(
            f"{source} is in mamba_ssm's own format, with pickled weights; take the repository "
            "converted to transformers', such as state-spaces/mamba-130m-hf"
        )
    raise HubError(
        f"{source} is a checkpoint of another architecture: model_type is {family!r}, allowed: "
        f"{', '.join(FAMILIES)}"
    )


def load_pretrained(
    source: str | Path,
    *,
    revision: str | None = None,
    offline: bool = False,
    vocab_size: int | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = torch.float32,
    backend: str = "auto",
) -> LanguageModel:
    """A published model, ready to run (in eval mode).

    Args:
        source: a folder, or a hub id; see :func:`fetch`.
        vocab_size: refuse a checkpoint with another number of tokens.
        dtype: of all weights; None keeps what the file has. In half precision A_log and dt lose
            digits that a long sequence needs.
        backend: of the scans.

    Raises:
        HubError: missing, unreachable or damaged files; another architecture; weights whose names
            or sizes are not those of the model that config.json describes; another vocabulary.
    """
    folder = fetch(source, revision=revision, offline=offline)
    config = our_config(load_config(folder))
    if vocab_size is not None and config.vocab_size != vocab_size:
        raise HubError(f"{source} has {config.vocab_size} tokens, wanted: {vocab_size}")
    weights = _read_weights(folder)
    try:
        state = our_weights(weights, config)
    except HubError as error:
        raise HubError(f"{source}: {error}") from error
    with torch.device("meta"):  # names and shapes alone: drawing 2.8B weights would take a minute
        model = LanguageModel(config, backend)
    marks = {name: dict(vars(parameter)) for name, parameter in model.named_parameters()}
    for name, parameter in model.named_parameters():
        found, wanted = tuple(state[name].shape), tuple(parameter.shape)
        if found != wanted:
            what = "vocabulary" if name in ("embedding.weight", "head.weight") else "size"
            raise HubError(f"{source}: wrong {what}: {name} is {found}, by {CONFIG} {wanted}")
    state = {name: value.to(device, dtype or value.dtype) for name, value in state.items()}
    if config.tie_embeddings:
        state["head.weight"] = state["embedding.weight"]
    model.load_state_dict(state, assign=True)
    if config.tie_embeddings:
        model.head.weight = model.embedding.weight
    for name, parameter in model.named_parameters():
        vars(parameter).update(marks[name])  # such as _no_weight_decay, which assigning drops
        parameter.requires_grad_()
    return model.eval()


def load_causal_lm(
    source: str | Path, *, revision: str | None = None, offline: bool = False,
    device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32,
) -> Any:  # fmt: skip
    """A checkpoint of our families as our model, of any other architecture as transformers'.

    For baselines: code that a checkpoint brings along is not run, nor are pickles read.

    Raises:
        HubError: as :func:`load_pretrained`; an architecture that transformers does not know.
    """
    folder = fetch(source, revision=revision, offline=offline)
    if _json(folder / CONFIG).get("model_type") in (*FAMILIES, None):
        return load_pretrained(folder, device=device, dtype=dtype)
    import transformers

    progress.quiet_transformers()
    try:
        model: Any = transformers.AutoModelForCausalLM.from_pretrained(
            str(folder), dtype=dtype, use_safetensors=True, local_files_only=True
        )
    except Exception as error:  # its loaders raise whatever their parsers raise
        raise HubError(f"transformers cannot load {source}: {error}") from error
    return model.to(device).eval()


def save_pretrained(model: LanguageModel, folder: str | Path, *, tokenizer: Any = None) -> Path:
    """Write `model` (and a transformers `tokenizer`) so that transformers loads it by the folder.

    config.json is written last: a folder that has one is whole.

    Raises:
        HubError: a model that the format cannot describe, or a tokenizer with more tokens than it.
    """
    folder, theirs = Path(folder), their_config(model.config)
    state = {name: value.detach() for name, value in model.state_dict().items()}
    weights = {
        name: value.cpu().contiguous().clone()
        for name, value in their_weights(state, model.config).items()
    }
    theirs.architectures = [
        "MambaForCausalLM" if theirs.model_type == "mamba" else "Mamba2ForCausalLM"
    ]
    theirs.dtype = model.embedding.weight.dtype
    if tokenizer is not None:
        _check_vocabulary(tokenizer, model.config.vocab_size, folder)
        theirs.bos_token_id, theirs.eos_token_id = tokenizer.bos_token_id, tokenizer.eos_token_id
        theirs.pad_token_id = tokenizer.pad_token_id
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).unlink(missing_ok=True)
    # beside it, then in its place: a model loaded from this folder may still read the old file
    part = folder / f"{WEIGHTS}.part"
    save_file(weights, part, metadata={"format": "pt"})
    part.replace(folder / WEIGHTS)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    theirs.save_pretrained(folder)
    return folder


def load_tokenizer(
    source: str | Path, *, revision: str | None = None, offline: bool = False,
    vocab_size: int | None = None,
) -> Any:  # fmt: skip
    """The transformers tokenizer that lies beside a checkpoint.

    Args:
        vocab_size: tokens of the model that it is for. Models often have a few rows more than
            their tokenizer has tokens, to make a round number; fewer would be a wrong tokenizer.

    Raises:
        HubError: there is none, or it makes tokens that the model does not know.
    """
    import transformers

    folder = fetch(source, revision=revision, offline=offline)
    # without any, transformers makes an empty one up
    if not any((folder / name).is_file() for name in VOCABULARIES):
        raise HubError(
            f"{source} holds no tokenizer, none of {', '.join(VOCABULARIES)}; put its files "
            "beside the weights"
        )
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder))
    except Exception as error:  # its readers raise whatever their parsers raise
        raise HubError(f"{source} holds no tokenizer that can be read: {error}") from error
    if vocab_size is not None:
        _check_vocabulary(tokenizer, vocab_size, source)
    return tokenizer


def stop_tokens(folder: Path) -> tuple[int, ...]:
    """Tokens that end a text, by generation_config.json or config.json of a checkpoint."""
    for name in ("generation_config.json", CONFIG):
        found = _json(folder / name).get("eos_token_id") if (folder / name).is_file() else None
        if found is not None:
            return tuple(found) if isinstance(found, list) else (int(found),)
    return ()


def _check_vocabulary(tokenizer: Any, vocab_size: int, source: str | Path) -> None:
    if len(tokenizer) > vocab_size:
        raise HubError(
            f"{source}: wrong vocabulary: the tokenizer has {len(tokenizer)} tokens, the model "
            f"{vocab_size}"
        )


def _json(path: Path) -> dict[str, Any]:
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise HubError(f"{path.parent} has no {path.name}: it is no checkpoint") from error
    except (OSError, ValueError) as error:
        raise HubError(f"{path} cannot be read: {error}") from error
    if not isinstance(facts, dict):
        raise HubError(f"{path} cannot be read: it holds no object")
    return facts


def revision_of(folder: Path) -> str | None:
    """The commit that a hub repository's copy on this machine is of; None for any other folder, of
    which nobody knows."""
    known = folder.parent.name == "snapshots" and re.fullmatch("[0-9a-f]{40}", folder.name)
    return folder.name if known else None


def weights_hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of each file of a checkpoint's weights, by its name: what the hub says of it, too.

    Raises:
        HubError: no weights.
    """
    found = {}
    for path in _weight_files(folder):
        with path.open("rb") as file:
            found[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def _weight_files(folder: Path) -> list[Path]:
    """The one file of a checkpoint's weights, or those that an index names.

    Raises:
        HubError: no weights, or not all that the index names.
    """
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if not (folder / INDEX).is_file():
        pickled = any(folder.glob("*.bin"))
        extra = " It has pickled weights, which are not read here." if pickled else ""
        raise HubError(
            f"{folder} has neither {WEIGHTS} nor {INDEX}.{extra} Download the *.safetensors "
            "files of the same repository into it"
        )
    names = sorted({str(name) for name in _json(folder / INDEX).get("weight_map", {}).values()})
    for name in names:
        if not (folder / name).is_file() or Path(name).name != name:
            raise HubError(f"{folder} lacks {name}, which {INDEX} names; download it into it")
    return [folder / name for name in names]


def _read_weights(folder: Path) -> dict[str, Tensor]:
    """All tensors of a checkpoint, in one file or in several with an index."""
    weights: dict[str, Tensor] = {}
    for path in _weight_files(folder):
        try:
            weights.update(load_file(path))
        except (OSError, SafetensorError) as error:
            raise HubError(f"{path} cannot be read, download it again: {error}") from error
    return weights
