"""The paper's interventions, against a model written out by hand (by_hand.py)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from lib.analysis import interventions
from lib.analysis.activations import record_activations, replace_activations
from lib.analysis.composite import answer_probabilities, answers
from lib.analysis.cuts import PATHS, cut_edges, edge_cut, source_cut
from lib.analysis.interventions import (
    agreement_by_pair,
    blocked_answers,
    combined_answers,
    replaced_tokens,
    substituted_answers,
    substitution,
)
from lib.experiments.transformer import transformer
from lib.models.config import LanguageModelConfig, Mamba1Config, Mamba2Config, Mamba3Config
from lib.models.language_model import LanguageModel, build_language_model
from lib.tasks.composite import CompositeTask, Split
from lib.tasks.interventions import intervention_split, twin
from tests.analysis import by_hand

TASK = CompositeTask(length=5, key_min=20, key_max=21, noise_max=40, residue_modulus=2)
BLOCKS: dict[str, Any] = {
    "mamba1": Mamba1Config(8, d_state=3),
    "mamba2": Mamba2Config(8, d_state=3, headdim=8, chunk_size=8),
}


def make(block: str, n_layers: int = 2, dtype: torch.dtype = torch.float64) -> LanguageModel:
    """A model whose answers depend on what tokens hear of each other, much and by every path."""
    model = build_language_model(LanguageModelConfig(60, n_layers, (BLOCKS[block],)), seed=1)
    for name, parameter in model.named_parameters():
        if "dt" in name and "bias" in name:
            parameter.data.fill_(-0.5)
        elif "_proj" in name:
            parameter.data.mul_(4.0)
        elif "A_log" in name:
            parameter.data.fill_(-1.0)
    return model.to(dtype).requires_grad_(False)


@pytest.fixture(scope="module")
def split() -> Split:
    """Every second sequence, some with the pair at the very end."""
    return intervention_split(TASK, 0).take(slice(None, None, 2))


@pytest.mark.parametrize(
    "choices",
    [
        {},
        {"sources": (0,), "layers": [1]},
        {"within_pair": False},
        {"paths": PATHS, "layers": [0]},
    ],
    ids=str,
)
@pytest.mark.parametrize("block", BLOCKS)
def test_blocked_answers_are_those_by_hand(
    block: str, choices: dict[str, Any], split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interventions, "ROWS", 11)  # parts that do not divide the rows
    model = make(block)
    found = blocked_answers(model, split, **choices)
    masks = {name: choices[name] for name in ("sources", "within_pair") if name in choices}
    cut = source_cut(split.index, TASK.length, **masks)
    rows = range(0, len(split), 3)
    for row in rows:
        expected, _ = by_hand.logits(
            model, split.tokens[row], cut[row], choices.get("layers"),
            choices.get("paths", ("state",)),
        )  # fmt: skip
        assert int(found[row]) == int(expected[-1].argmax())
    own = answers(model, split.tokens)
    assert not torch.equal(found, own) and not torch.equal(blocked_answers(model, split), own)
    assert torch.equal(blocked_answers(model, split, sources=()), own)
    assert torch.equal(blocked_answers(model, split, layers=()), own)


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("at", [2, 3])
def test_what_stands_before_is_combined_by_one_token_s_convolution_or_not_heard(
    block: str, at: int, split: Split
) -> None:
    """By that of the second anchor, or of the token behind it."""
    model = make(block)
    split = split.take(split.index + at < split.tokens.shape[1])
    changed = split.tokens.clone()
    rows = torch.arange(len(split))
    changed[rows, split.index] = (split.keys + 7) % 20 + 20
    for anchor in range(1, at):
        changed[rows, split.index + anchor] = changed[rows, split.index + anchor] % 4 + 1
    other = replace(split, tokens=changed)
    # heard of: through the convolution of that token
    assert (combined_answers(model, split, at) != combined_answers(model, other, at)).any()
    for layer in model.layers:  # which sees nothing but its own token now
        conv = layer.mixer.conv  # type: ignore[union-attr]
        with torch.no_grad():
            conv.weight[..., :-1] = 0.0  # type: ignore[index,union-attr]
    assert (answers(model, split.tokens) != answers(model, changed)).any()
    assert torch.equal(combined_answers(model, split, at), combined_answers(model, other, at))


@pytest.mark.parametrize("block", BLOCKS)
def test_blocking_everything_forgets_key_and_pair(block: str) -> None:
    model, split = make(block, 3), intervention_split(TASK, 0, pair_may_end=False)
    other = twin(TASK, split, 12)
    keys = other.tokens.clone()
    keys[torch.arange(len(keys)), other.index] = 50
    other = Split(**{**vars(other), "tokens": keys})
    forgets, leaks = {"paths": PATHS}, {"paths": ("state", "conv")}
    assert torch.equal(*(blocked_answers(model, some, **forgets) for some in (split, other)))
    # the paper's cut and the convolution's together leave what dt does to the decays
    assert not torch.equal(*(blocked_answers(model, some, **leaks) for some in (split, other)))


@pytest.mark.parametrize("include_pair", [False, True])
@pytest.mark.parametrize("layers", [None, [0], [1]], ids=str)
@pytest.mark.parametrize("block", BLOCKS)
def test_substituted_answers_are_those_by_hand(
    block: str, layers: list[int] | None, include_pair: bool, split: Split,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(interventions, "ROWS", 11)
    model, twins = make(block), twin(TASK, split)
    found = substituted_answers(model, split, twins, layers, include_pair=include_pair)
    for row in range(0, len(split), 3):
        _, kept = by_hand.logits(model, twins.tokens[row])
        first = int(split.index[row]) + (1 if include_pair else 3)
        given = {
            layer: {at: kept[layer][at] for at in range(first, TASK.length)}
            for layer in ([0, 1] if layers is None else layers)
        }
        expected, _ = by_hand.logits(model, split.tokens[row], given=given)
        assert int(found[row]) == int(expected[-1].argmax())
    own, theirs = answers(model, split.tokens), answers(model, twins.tokens)
    assert not torch.equal(found, own) and not torch.equal(found, theirs)
    itself = split.where(43)
    assert torch.equal(found[itself], theirs[itself])
    if not include_pair:  # no token after the pair, nothing to replace
        at_end = split.index == TASK.length - 3
        assert at_end.any() and torch.equal(found[at_end], own[at_end])
    assert torch.equal(substituted_answers(model, split, twins, ()), own)


@pytest.mark.parametrize(("block", "same"), [("mamba1", True), ("mamba2", False)])
def test_what_a_convolution_holds_is_all_that_one_mamba1_layer_hands_on(
    block: str, same: bool
) -> None:
    """With the pair's own places included x, dt, B and C are the twin's everywhere, and z and the
    stream of the last token never differed. Mamba-2 makes dt without the convolution."""
    model, split = make(block, 1), intervention_split(TASK, 0, pair_may_end=False)
    twins = twin(TASK, split)
    last = slice(None), -1
    with record_activations(model, "0.resid") as theirs:
        model(twins.tokens)
    with record_activations(model, "mixer.post_conv") as found:
        model(twins.tokens)
    with (
        replace_activations(model, found),
        record_activations(model, "0.resid") as ours,
    ):
        model(split.tokens)
    equal = torch.equal(ours["layers.0.resid"][last], theirs["layers.0.resid"][last])
    assert equal == same
    if same:
        substituted = substituted_answers(model, split, twins, include_pair=True)
        assert torch.equal(substituted, answers(model, twins.tokens))


def test_agreement_counts_each_pair_by_itself(split: Split) -> None:
    given = split.labels.clone()
    rows = split.where(21).nonzero()[:, 0]
    given[rows[:2]] += 1
    given[split.where(43)] = 0
    found = agreement_by_pair(split, given, split.labels)
    assert (
        len(found) == 16
        and found.pop(21) == pytest.approx(1 - 2 / len(rows))
        and found.pop(43) == 0.0
    )
    assert set(found.values()) == {1.0}


def test_twins_must_be_twins(split: Split) -> None:
    model, other = make("mamba1", 1), intervention_split(TASK, 1).take(slice(None, None, 2))
    for twins in (other, twin(TASK, split.take(torch.arange(len(split)).flip(0)))):
        with pytest.raises(ValueError, match=r"twins differ from split in more than the pair"):
            substituted_answers(model, split, twins)
    with pytest.raises(ValueError, match=r"layers is \(1,\), allowed: some of 0..0"):
        substituted_answers(model, split, twin(TASK, split), [1])
    with pytest.raises(ValueError, match=r"layers is \(-1,\), allowed"):
        blocked_answers(model, split, layers=[-1])


@pytest.mark.parametrize("block", BLOCKS)
def test_the_change_of_one_answer(block: str) -> None:
    model, tokens = make(block), torch.tensor([25, 20, 1, 2, 30])
    cut = edge_cut(5, [(4, 1), (4, 2), (3, 1)])
    before = answer_probabilities(model, tokens)
    with cut_edges(model, cut, paths=("state", "conv")):
        after = answer_probabilities(model, tokens)
    assert before == answer_probabilities(model, tokens)
    expected, _ = by_hand.logits(model, tokens, cut, paths=("state", "conv"))
    assert after == pytest.approx(expected[-1].softmax(-1).tolist(), rel=1e-9)
    assert sum(after) == pytest.approx(1.0) and after != before


def convolved(seed: int = 1) -> LanguageModel:
    """The chapter's own Transformer with a convolution."""
    config = transformer(2, 1.0, convolution=True, vocab_size=60, max_length=TASK.length)
    return build_language_model(config, seed=seed).to(torch.float64).requires_grad_(False).eval()


def test_a_transformers_answers_are_blocked_and_substituted_in_its_attention(split: Split) -> None:
    """By default in all layers that mix tokens: the feed-forward ones between them have none."""
    model, twins = convolved(), twin(TASK, split)
    own = answers(model, split.tokens)
    named = blocked_answers(model, split, layers=[0, 2])
    assert torch.equal(blocked_answers(model, split), named) and not torch.equal(named, own)
    assert torch.equal(blocked_answers(model, split, sources=()), own)
    swapped = substituted_answers(model, split, twins, include_pair=True)
    assert torch.equal(swapped, substituted_answers(model, split, twins, [0, 2], include_pair=True))
    assert not torch.equal(swapped, own)
    assert torch.equal(substituted_answers(model, split, split), own)
    with pytest.raises(TypeError, match=r"FeedForwardMixer block has nothing to cut"):
        blocked_answers(model, split, layers=[1])
    with pytest.raises(ValueError, match=r"layer 1 is a FeedForwardMixer, allowed"):
        substituted_answers(model, split, twins, [1])


@pytest.mark.parametrize("path", ["state", "conv"])
def test_places_counted_from_the_key_are_those_of_each_sequence(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interventions, "ROWS", 5)
    model, split = convolved(), intervention_split(TASK, 0, pair_may_end=False)
    found = blocked_answers(model, split, (0, 1), targets=(2, 3), paths=(path,))
    expected = []
    for row, at in enumerate(split.index.tolist()):
        edges = [(at + target, at + source) for target in (2, 3) for source in (0, 1)]
        with cut_edges(model, edge_cut(TASK.length, edges), paths=(path,)):
            expected.append(answers(model, split.tokens[row : row + 1]))
    assert torch.equal(found, torch.cat(expected))
    assert not torch.equal(found, answers(model, split.tokens))


def test_a_transformer_blocked_on_every_path_forgets_key_and_pair() -> None:
    model, split = convolved(), intervention_split(TASK, 0, pair_may_end=False)
    other = twin(TASK, split, 12)
    keys = other.tokens.clone()
    keys[torch.arange(len(keys)), other.index] = 50
    other = Split(**{**vars(other), "tokens": keys})
    found = [blocked_answers(model, some, paths=PATHS) for some in (split, other)]
    assert torch.equal(*found)
    assert not torch.equal(*(answers(model, some.tokens) for some in (split, other)))


def test_mamba3_is_blocked_in_S_and_has_no_convolution_to_substitute(split: Split) -> None:
    config = LanguageModelConfig(60, 2, (Mamba3Config(8, d_state=4, headdim=8),))
    model = build_language_model(config, seed=1).requires_grad_(False)
    assert torch.equal(blocked_answers(model, split, sources=()), answers(model, split.tokens))
    assert blocked_answers(model, split).shape == (len(split),)
    with pytest.raises(ValueError, match=r"layer 0 is a Mamba3Mixer, allowed: .* convolution"):
        substituted_answers(model, split, split)


@pytest.mark.parametrize("block", BLOCKS)
def test_a_sequence_is_its_own_twin(block: str, split: Split) -> None:
    model, some = make(block), split.take(slice(0, 6))
    before = model(some.tokens)
    with substitution(model, some, some, include_pair=True):
        assert torch.equal(model(some.tokens), before)
    twins = twin(TASK, some, 12)
    with (
        substitution(model, some, twins, include_pair=True),
        record_activations(model, "mixer.post_conv") as found,
    ):
        model(some.tokens)
    with record_activations(model, "mixer.post_conv") as theirs:
        model(twins.tokens)
    chosen = replaced_tokens(some, include_pair=True)
    places = torch.arange(TASK.length)
    assert torch.equal(chosen, places > some.index[:, None])
    assert torch.equal(replaced_tokens(some), places > some.index[:, None] + 2)
    for name, value in found.items():
        assert torch.equal(value[chosen], theirs[name][chosen])


def test_models_in_float32_give_the_same_answers(split: Split) -> None:
    twins = twin(TASK, split)
    for block in BLOCKS:
        wide, narrow = make(block), make(block, dtype=torch.float32)
        assert torch.equal(blocked_answers(wide, split), blocked_answers(narrow, split))
        assert torch.equal(
            substituted_answers(wide, split, twins), substituted_answers(narrow, split, twins)
        )
