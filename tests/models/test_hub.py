"""Checkpoints in Hugging Face's format: theirs read here, ours read there, and what is refused."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import nn

from lib.models.config import (
    AttentionConfig,
    BlockConfig,
    FeedForwardConfig,
    LanguageModelConfig,
    Mamba1Config,
    Mamba2Config,
)
from lib.models.hub import (
    HubError,
    fetch,
    load_pretrained,
    revision_of,
    save_pretrained,
    stop_tokens,
    weights_hashes,
)
from lib.models.language_model import build_language_model

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

VOCAB = 50


def randomise(model: nn.Module) -> None:
    """Every weight away from its start, so that no norm, D or bias can be left out unseen."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)


def published(family: str, **changes: Any) -> nn.Module:
    """A tiny model of transformers, with biases everywhere, unless `changes` say otherwise."""
    torch.manual_seed(0)
    shared: dict[str, Any] = {
        "vocab_size": VOCAB, "hidden_size": 32, "num_hidden_layers": 3, "use_bias": True,
        "conv_kernel": 3, "layer_norm_epsilon": 1e-4, "tie_word_embeddings": False,
    }  # fmt: skip
    if family == "mamba":
        own = {"state_size": 8, "time_step_rank": 5}
        theirs: nn.Module = transformers.MambaForCausalLM(
            transformers.MambaConfig(**{**shared, **own, **changes})
        )
    else:
        own = {"state_size": 16, "num_heads": 4, "head_dim": 16, "n_groups": 2, "chunk_size": 16}
        theirs = transformers.Mamba2ForCausalLM(
            transformers.Mamba2Config(**{**shared, **own, **changes})
        )
    randomise(theirs)
    return theirs.eval()


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("family", ["mamba", "mamba2"])
def test_a_published_checkpoint_gives_the_logits_and_text_that_transformers_gives(
    family: str, tied: bool, tmp_path: Path
) -> None:
    published(family, tie_word_embeddings=tied).save_pretrained(tmp_path)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    ours = load_pretrained(tmp_path)
    assert (ours.head.weight is ours.embedding.weight) == tied
    tokens = torch.randint(VOCAB, (2, 37), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        mine, other = ours(tokens), theirs(tokens).logits
        assert (mine - other).abs().max() <= 1e-5 * other.abs().max().clamp(min=1.0)
        expected = theirs.generate(
            tokens[:1, :5], max_new_tokens=20, do_sample=False, eos_token_id=None, pad_token_id=0
        )[0, 5:].tolist()
        logits, states = ours(tokens[:1, :5], last_token_only=True, return_states=True)
        found = []
        for position in range(5, 25):
            token = logits.argmax(-1)
            found.append(int(token))
            logits, states = ours.step(token, states, position)
    assert found == expected


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("family", ["mamba", "mamba2"])
def test_what_is_loaded_and_saved_again_is_the_same_to_the_bit(
    family: str, tied: bool, tmp_path: Path
) -> None:
    published(family, tie_word_embeddings=tied).save_pretrained(tmp_path / "theirs")
    save_pretrained(load_pretrained(tmp_path / "theirs"), tmp_path / "ours")
    before = load_file(tmp_path / "theirs" / "model.safetensors")
    after = load_file(tmp_path / "ours" / "model.safetensors")
    assert before.keys() == after.keys()
    assert all(before[name].equal(after[name]) for name in before)
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours").eval()
    first = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "theirs").eval()
    tokens = torch.randint(VOCAB, (1, 9), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert again(tokens).logits.equal(first(tokens).logits)


BLOCKS: dict[str, BlockConfig] = {
    "mamba1": Mamba1Config(32, d_state=8, d_conv=3, dt_rank=5, conv_bias=False, dt_max=0.2),
    "mamba1 plain": Mamba1Config(32),
    "mamba2": Mamba2Config(32, d_state=16, headdim=16, n_groups=2, chunk_size=16, bias=True),
}


@pytest.mark.parametrize("name", BLOCKS)
def test_our_models_come_back_and_load_in_transformers(name: str, tmp_path: Path) -> None:
    config = LanguageModelConfig(VOCAB, 3, (BLOCKS[name],), tie_embeddings=name == "mamba2")
    model = build_language_model(config, seed=1)
    randomise(model)
    save_pretrained(model, tmp_path)
    back = load_pretrained(tmp_path, vocab_size=VOCAB)
    assert back.config == config
    state, again = model.state_dict(), back.state_dict()
    assert state.keys() == again.keys() and all(state[key].equal(again[key]) for key in state)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    tokens = torch.randint(VOCAB, (2, 21), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        mine, other = model(tokens), theirs(tokens).logits
    assert (mine - other).abs().max() <= 1e-5 * other.abs().max().clamp(min=1.0)
    assert not list(tmp_path.glob("*.bin")) and not list(tmp_path.glob("*.pt"))


def test_a_loaded_model_trains_as_a_built_one_does(tmp_path: Path) -> None:
    model = build_language_model(LanguageModelConfig(VOCAB, 1, (Mamba1Config(16),)), seed=1)
    save_pretrained(model, tmp_path)
    back = load_pretrained(tmp_path)
    spared = [name for name, p in back.named_parameters() if getattr(p, "_no_weight_decay", False)]
    assert spared == ["layers.0.mixer.A_log", "layers.0.mixer.D", "layers.0.mixer.dt_proj.bias"]
    back(torch.arange(9)[None]).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in back.parameters())


def test_a_loaded_model_can_be_changed_and_saved_where_it_came_from(tmp_path: Path) -> None:
    published("mamba2").save_pretrained(tmp_path)
    model, before = load_pretrained(tmp_path), load_pretrained(tmp_path)
    old = before.head.weight.detach().clone()
    randomise(model)
    save_pretrained(model, tmp_path)
    again = load_pretrained(tmp_path)
    assert all(p.equal(q) for p, q in zip(model.parameters(), again.parameters(), strict=True))
    assert before.head.weight.equal(old) and not again.head.weight.equal(old)
    assert {path.name for path in tmp_path.iterdir()} == {
        "config.json", "generation_config.json", "model.safetensors"
    }  # fmt: skip


def test_weights_in_several_files_and_older_names_are_read(tmp_path: Path) -> None:
    theirs = published("mamba")
    theirs.save_pretrained(tmp_path / "whole")
    theirs.save_pretrained(tmp_path / "parts", max_shard_size="20KB")
    assert len(list((tmp_path / "parts").glob("*.safetensors"))) > 1
    whole, parts = load_pretrained(tmp_path / "whole"), load_pretrained(tmp_path / "parts")
    for name, value in whole.state_dict().items():
        assert value.equal(parts.state_dict()[name])
    path = tmp_path / "whole" / "model.safetensors"
    weights = load_file(path)
    weights["backbone.embedding.weight"] = weights.pop("backbone.embeddings.weight")
    save_file(weights, path, metadata={"format": "pt"})
    assert load_pretrained(tmp_path / "whole").embedding.weight.equal(whole.embedding.weight)


def test_weights_are_told_by_the_hash_of_each_file(tmp_path: Path) -> None:
    """And by a commit where the folder is the hub's own copy of one."""
    theirs = published("mamba")
    theirs.save_pretrained(tmp_path / "whole")
    theirs.save_pretrained(tmp_path / "parts", max_shard_size="20KB")
    for name in ("whole", "parts"):
        paths = sorted((tmp_path / name).glob("*.safetensors"))
        assert weights_hashes(tmp_path / name) == {
            path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths
        }
    (tmp_path / "parts" / paths[0].name).unlink()
    with pytest.raises(HubError, match=f"lacks {paths[0].name}, which model.safetensors.index"):
        weights_hashes(tmp_path / "parts")
    commit = "0123456789" * 4
    assert revision_of(tmp_path / "snapshots" / commit) == commit
    for folder in (tmp_path / "snapshots" / "main", tmp_path / commit, tmp_path / "whole"):
        assert revision_of(folder) is None


def test_half_precision_is_kept_when_asked(tmp_path: Path) -> None:
    published("mamba2").to(torch.bfloat16).save_pretrained(tmp_path)
    assert load_pretrained(tmp_path).head.weight.dtype == torch.float32
    model = load_pretrained(tmp_path, dtype=None)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    save_pretrained(model, tmp_path / "again")
    assert json.loads((tmp_path / "again" / "config.json").read_text())["dtype"] == "bfloat16"


def test_the_tokens_that_end_a_text_come_from_the_checkpoint(tmp_path: Path) -> None:
    published("mamba", eos_token_id=7).save_pretrained(tmp_path)
    assert stop_tokens(tmp_path) == (7,)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [3, 4]}')
    assert stop_tokens(tmp_path) == (3, 4)


def test_an_unreachable_hub_is_said_with_what_to_download_and_where_to_put_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    def refuse(*args: Any, **options: Any) -> str:
        raise ConnectionError("no route")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(HubError) as caught:
        load_pretrained("state-spaces/mamba-130m-hf")
    text = str(caught.value)
    assert "no route" in text and "hf download state-spaces/mamba-130m-hf " in text
    assert "--local-dir mamba-130m-hf" in text and "./mamba-130m-hf, in place of" in text


def test_weights_that_were_never_downloaded_are_missed_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(HubError, match="hf download state-spaces/mamba-9b-hf"):
        load_pretrained("state-spaces/mamba-9b-hf", offline=True)


@pytest.mark.parametrize("source", ["./nowhere", "/nowhere/at/all", "one", "a/b/c", "", "a b/c"])
def test_what_is_neither_folder_nor_hub_id_is_refused(source: str) -> None:
    with pytest.raises(HubError, match="is no folder here, and no hub id"):
        fetch(source)


def edit(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def without_weights(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def without_a_tensor(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["backbone.layers.1.mixer.A_log"]
    save_file(weights, folder / "model.safetensors")


def half_a_file(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])


def original_format(folder: Path) -> None:
    (folder / "config.json").write_text('{"d_model": 768, "n_layer": 24, "ssm_cfg": {}}')


DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "no config": (lambda f: (f / "config.json").unlink(), "has no config.json"),
    "no object": (lambda f: (f / "config.json").write_text("[1]") and None, "holds no object"),
    "another": (lambda f: edit(f, model_type="gpt2"), "another architecture: model_type is 'gpt2'"),
    "mamba_ssm's": (original_format, "mamba_ssm's own format.*state-spaces/mamba-130m-hf"),
    "pickled": (without_weights, "neither model.safetensors nor .*pickled weights, which are not"),
    "a tensor less": (without_a_tensor, "lack backbone.layers.1.mixer.A_log and 0 more"),
    "a layer more": (lambda f: edit(f, num_hidden_layers=4), "lack backbone.layers.3"),
    "a layer less": (lambda f: edit(f, num_hidden_layers=2), "have backbone.layers.2.*unknown"),
    "vocabulary": (lambda f: edit(f, vocab_size=51), r"wrong vocabulary: embedding.weight is \(50"),
    "size": (lambda f: edit(f, state_size=9), r"wrong size: layers.0.mixer.*config.json \("),
    "damaged": (half_a_file, "model.safetensors cannot be read, download it again"),
    "activation": (lambda f: edit(f, hidden_act="gelu"), "hidden_act is 'gelu', allowed: silu"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_checkpoint_of_another_kind_or_size_is_refused(name: str, tmp_path: Path) -> None:
    published("mamba").save_pretrained(tmp_path)
    damage, message = DAMAGE[name]
    damage(tmp_path)
    with pytest.raises(HubError, match=message):
        load_pretrained(tmp_path)


def test_a_limit_on_dt_and_another_vocabulary_are_refused(tmp_path: Path) -> None:
    published("mamba2", time_step_limit=(0.0, 0.5)).save_pretrained(tmp_path)
    with pytest.raises(HubError, match=r"time_step_limit is \(0.0, 0.5\)"):
        load_pretrained(tmp_path)
    published("mamba2").save_pretrained(tmp_path)
    with pytest.raises(HubError, match="has 50 tokens, wanted: 512"):
        load_pretrained(tmp_path, vocab_size=512)


def test_a_tied_head_that_differs_from_the_embedding_is_refused(tmp_path: Path) -> None:
    published("mamba").save_pretrained(tmp_path)
    edit(tmp_path, tie_word_embeddings=True)
    with pytest.raises(HubError, match=r"lm_head\.weight differs from the embedding"):
        load_pretrained(tmp_path)


UNSAVED: dict[str, tuple[dict[str, Any], str]] = {
    "another block": ({"pattern": (AttentionConfig(32),)}, "pattern is of attention"),
    "hybrid": (
        {"pattern": (Mamba1Config(32), FeedForwardConfig(32, 8))},
        "pattern is of feedforward, mamba1",
    ),
    "kernel": ({"pattern": (Mamba1Config(32, conv_kind="all_one"),)}, "conv_kind is 'all_one'"),
    "no norm": ({"pre_norm": False}, "pre_norm is False"),
    "positions": ({"positional_encoding": "learned", "max_length": 9}, "encoding is 'learned'"),
}


@pytest.mark.parametrize("name", UNSAVED)
def test_what_the_format_cannot_say_is_not_saved(name: str, tmp_path: Path) -> None:
    changes, message = UNSAVED[name]
    plain = LanguageModelConfig(VOCAB, 2, (Mamba1Config(32),))
    model = build_language_model(dataclasses.replace(plain, **changes), seed=0)
    with pytest.raises(HubError, match=message):
        save_pretrained(model, tmp_path / "new")
    assert not (tmp_path / "new").exists()
