"""Cuts between tokens, against a model written out by hand (by_hand.py)."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lib.analysis.activations import record_activations, replace_activations
from lib.analysis.cuts import PATHS, cut_edges, edge_cut, source_cut
from lib.analysis.flow import flow
from lib.experiments.transformer import transformer
from lib.models.config import (
    AttentionConfig,
    GRUConfig,
    LanguageModelConfig,
    Mamba1Config,
    Mamba2Config,
    Mamba3Config,
    MoEConfig,
)
from lib.models.language_model import LanguageModel, build_language_model
from lib.models.layers import Activation
from tests.analysis import by_hand

LENGTH, VOCAB = 6, 12
BLOCKS: dict[str, Any] = {
    "mamba1": Mamba1Config(8, d_state=3),
    "mamba2": Mamba2Config(8, d_state=3, headdim=4, n_groups=2, chunk_size=LENGTH),
    "mamba1 without convolution": Mamba1Config(8, d_state=3, conv_kind="none"),
    "mamba2, all-one kernel, no bias": Mamba2Config(
        8, d_state=3, headdim=16, conv_kind="all_one", conv_bias=False
    ),
}
SUBSETS = [s for size in (1, 2, 3) for s in itertools.combinations(PATHS, size)]
ALL_CUT = ~torch.ones(LENGTH, LENGTH, dtype=torch.bool).triu()


def make(block: str, n_layers: int = 2, dtype: torch.dtype = torch.float64) -> LanguageModel:
    """A model whose state, taps and steps all matter: the official start leaves dt at 0.01."""
    model = build_language_model(LanguageModelConfig(VOCAB, n_layers, (BLOCKS[block],)), seed=0)
    for name, parameter in model.named_parameters():
        if "dt" in name and "bias" in name:
            parameter.data.fill_(0.3)
        elif "embedding" in name or "head" in name:
            parameter.data.mul_(30.0 if "embedding" in name else 3.0)
    return model.to(dtype).requires_grad_(False)


def tokens(rows: int = 2, seed: int = 0) -> Tensor:
    return torch.randint(VOCAB, (rows, LENGTH), generator=torch.Generator().manual_seed(seed))


def random_cut(rows: int = 2, seed: int = 1) -> Tensor:
    draw = torch.rand(rows, LENGTH, LENGTH, generator=torch.Generator().manual_seed(seed))
    return (draw < 0.5) & ALL_CUT


@pytest.mark.parametrize("paths", SUBSETS, ids="+".join)
@pytest.mark.parametrize("block", BLOCKS)
def test_a_cut_is_what_a_step_by_step_reader_does_not_hear(block: str, paths: Any) -> None:
    model, rows, cut = make(block), tokens(), random_cut()
    whole = model(rows)
    with cut_edges(model, cut, paths=paths):
        found = model(rows)
    for row in range(2):
        expected, _ = by_hand.logits(model, rows[row], cut[row], paths=paths)
        torch.testing.assert_close(found[row], expected, rtol=1e-9, atol=1e-9)
    if set(paths) != {"conv"} or "without" not in block:
        assert (found - whole).abs().max() > 1e-3  # there was something to cut
    else:
        assert torch.equal(found, whole)


@pytest.mark.parametrize("layers", [(0,), (1,), ()])
@pytest.mark.parametrize("block", ["mamba1", "mamba2"])
def test_only_the_layers_that_were_asked_for(block: str, layers: Any) -> None:
    model, rows, cut = make(block), tokens(1), random_cut(1)[0]
    with cut_edges(model, cut, layers, PATHS):
        found = model(rows)[0]
    expected, _ = by_hand.logits(model, rows[0], cut, layers, PATHS)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    with cut_edges(model, cut, [0], PATHS), cut_edges(model, cut, [1], PATHS):
        both = model(rows)
    with cut_edges(model, cut, None, PATHS):
        assert torch.equal(model(rows), both)


@pytest.mark.parametrize("block", ["mamba1", "mamba2"])
def test_a_cut_without_edges_is_nothing_to_the_bit(block: str) -> None:
    model, rows = make(block, dtype=torch.float32), tokens()
    expected = model(rows)
    with cut_edges(model, torch.zeros_like(ALL_CUT), paths=PATHS):
        assert torch.equal(model(rows), expected)
    with cut_edges(model, ALL_CUT, paths=PATHS):
        assert not torch.equal(model(rows), expected)
    assert torch.equal(model(rows), expected)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("within_pair", [True, False])
@pytest.mark.parametrize("block", BLOCKS)
def test_all_three_paths_cut_leave_no_trace_of_key_and_pair(
    block: str, within_pair: bool, dtype: torch.dtype
) -> None:
    """Blocking everything: what all other tokens compute is the same to the bit whatever stood
    there. Without any one of the paths it is not, so none is left out."""
    model, rows = make(block, 3, dtype), tokens(VOCAB)
    index = torch.arange(VOCAB) % (LENGTH - 3)  # one token or more after the pair
    other = rows.clone()
    for offset in range(3):
        other[torch.arange(VOCAB), index + offset] += 1 + offset
    other %= VOCAB
    inside = (torch.arange(LENGTH) - index[:, None]).clamp(-1, 3) % 4 != 3
    assert torch.equal(rows[~inside], other[~inside]) and (rows != other).sum() == 3 * VOCAB
    cut = source_cut(index, LENGTH, within_pair=within_pair)
    for paths in SUBSETS:
        with cut_edges(model, cut, paths=paths):
            one, two = model(rows), model(other)
        gone = paths == PATHS or ("without" in block and set(PATHS) - set(paths) == {"conv"})
        assert torch.equal(one[~inside], two[~inside]) == gone, paths
        assert not torch.equal(one[inside], two[inside])
        if gone:
            assert torch.equal(one[:, -1].argmax(-1), two[:, -1].argmax(-1))


@pytest.mark.parametrize("block", ["mamba1", "mamba2"])
def test_a_token_keeps_its_own_contribution(block: str) -> None:
    """With everything cut every token is a sequence of length 1."""
    model, rows = make(block), tokens(1)
    with cut_edges(model, ALL_CUT, paths=PATHS):
        found = model(rows)[0]
    alone = model(rows.view(LENGTH, 1))[:, 0]
    torch.testing.assert_close(found, alone, rtol=1e-9, atol=1e-9)


def test_mamba2_s_other_entries_of_S_stay_as_they_were() -> None:
    model, rows, cut = make("mamba2", dtype=torch.float32), tokens(), random_cut()
    with record_activations(model, "0.mixer.S") as whole:
        model(rows)
    with cut_edges(model, cut), record_activations(model, "0.mixer.S") as part:
        model(rows)
    (before,), (after,) = whole.values(), part.values()
    assert torch.equal(after, before * ~cut[:, None])


def test_what_cannot_be_cut_says_so() -> None:
    model, rows = make("mamba2"), tokens(1).repeat(1, 2)
    long = torch.zeros(2 * LENGTH, 2 * LENGTH, dtype=torch.bool)
    long[5, 3] = True
    with (  # beyond one chunk Mamba-2 does not form S
        cut_edges(model, long),
        pytest.raises(RuntimeError, match=r"layers.0.mixer.S, .*: replaced, but not computed"),
    ):
        model(rows)
    for block in ("mamba1", "mamba2"):
        model = make(block)
        with (
            cut_edges(model, ALL_CUT, paths=PATHS),
            cut_edges(model, random_cut()),
            cut_edges(model, ALL_CUT, paths=("conv",)),
            pytest.raises(RuntimeError, match=r"is not what this block makes of its inputs"),
        ):
            model(tokens())
    model = make("mamba1")
    halved = {"layers.0.mixer.post_conv": lambda x: x / 2}
    with (
        cut_edges(model, ALL_CUT),
        replace_activations(model, halved),
        pytest.raises(RuntimeError, match=r"y is not what .* replaced after the cut was set"),
    ):
        model(tokens())
    with replace_activations(model, halved), cut_edges(model, ALL_CUT):
        assert model(tokens()).isfinite().all()


class Attention(nn.Module):
    """A block of another kind that shows its S."""

    def __init__(self) -> None:
        super().__init__()
        self.act_S = Activation()

    def forward(self, x: Tensor, state: None, return_state: bool) -> Tensor:
        S = torch.ones(len(x), 1, x.shape[1], x.shape[1], dtype=x.dtype).tril()
        return (self.act_S(S) @ x[:, None])[:, 0]


def test_blocks_of_other_kinds_are_cut_at_S_alone() -> None:
    model, rows, cut = make("mamba2", 1), tokens(), random_cut()
    model.layers[0].mixer = Attention()
    x = model.layers[0].norm(model.embedding(rows))
    kept = (torch.ones(LENGTH, LENGTH).tril() * ~cut).double()
    expected = model.head(model.final_norm(model.embedding(rows) + kept @ x))
    with cut_edges(model, cut):
        torch.testing.assert_close(model(rows), expected, rtol=1e-12, atol=1e-12)
    with (
        pytest.raises(
            TypeError, match=r"paths \('state', 'decay'\) of a Attention block cannot be cut"
        ),
        cut_edges(model, cut, paths=("state", "decay")),
    ):
        pass


# the chapter's own Transformers, and the other blocks of the library that show an S
OTHERS: dict[str, LanguageModelConfig] = {
    "transformer, convolution": transformer(2, 1.0, convolution=True, vocab_size=VOCAB),
    "transformer": transformer(2, 1.0, vocab_size=VOCAB),
    "attention, experts": LanguageModelConfig(
        VOCAB, 2, (AttentionConfig(8, 2), MoEConfig(8, 8, n_experts=2, top_k=1))
    ),
    "mamba3": LanguageModelConfig(VOCAB, 2, (Mamba3Config(8, d_state=4, headdim=8),)),
}


def other(kind: str) -> LanguageModel:
    model = build_language_model(OTHERS[kind], seed=0).to(torch.float64)
    model.embedding.weight.data.mul_(3.0)
    return model.requires_grad_(False).eval()


def attending(kind: str) -> bool:
    return isinstance(OTHERS[kind].pattern[0], AttentionConfig)


@pytest.mark.parametrize("kind", OTHERS)
def test_an_empty_cut_of_other_blocks_is_nothing_to_the_bit(kind: str) -> None:
    model, rows = other(kind), tokens()
    expected = model(rows)
    for paths in SUBSETS if attending(kind) else [("state",)]:
        with cut_edges(model, torch.zeros_like(ALL_CUT), paths=paths):
            assert torch.equal(model(rows), expected)
    with cut_edges(model, ALL_CUT):
        assert (model(rows) - expected).abs().max() > 1e-3
    assert torch.equal(model(rows), expected)


@pytest.mark.parametrize("kind", [kind for kind in OTHERS if attending(kind)])
def test_attention_whose_paths_are_all_cut_knows_nothing_of_key_and_pair(kind: str) -> None:
    """As if something else stood there. Each path that there is leaves a trace if it is left."""
    model, rows = other(kind), tokens(VOCAB)
    index = torch.arange(VOCAB) % (LENGTH - 3)
    changed = rows.clone()
    for offset in range(3):
        changed[torch.arange(VOCAB), index + offset] += 1 + offset
    changed %= VOCAB
    inside = (torch.arange(LENGTH) - index[:, None]).clamp(-1, 3) % 4 != 3
    cut = source_cut(index, LENGTH)
    has_conv = "convolution" in kind
    for paths in SUBSETS:
        with cut_edges(model, cut, paths=paths):
            one, two = model(rows), model(changed)
        gap = (one[~inside] - two[~inside]).abs().max()
        if paths == PATHS or (not has_conv and set(PATHS) - set(paths) == {"conv"}):
            assert gap < 1e-12, paths
            assert torch.equal(one[:, -1].argmax(-1), two[:, -1].argmax(-1))
        else:
            assert gap > 1e-6, paths


def test_weights_of_attention_that_stay_sum_to_one_where_decay_is_cut() -> None:
    model, rows, cut = other("transformer, convolution"), tokens(), random_cut()

    def weights(*paths: str) -> Tensor:
        with cut_edges(model, cut, [0], paths), record_activations(model, "0.mixer.S") as found:
            model(rows)
        return found["layers.0.mixer.S"]

    whole, gone = weights(), cut[:, None]
    assert torch.equal(weights("state"), whole.masked_fill(gone, 0))
    left = whole.masked_fill(gone, 0)
    left = left / left.sum(-1, keepdim=True)
    torch.testing.assert_close(weights("state", "decay"), left, rtol=1e-12, atol=0)
    torch.testing.assert_close(weights("decay"), torch.where(gone, whole, left))


@pytest.mark.parametrize("kind", OTHERS)
def test_other_blocks_with_every_edge_cut_read_each_token_alone(kind: str) -> None:
    model, rows = other(kind), tokens(1)
    with cut_edges(model, ALL_CUT, paths=PATHS if attending(kind) else ("state",)):
        found = model(rows)
    if model.positions is None:
        alone = model(rows.view(LENGTH, 1))[:, 0]
        torch.testing.assert_close(found[0], alone, rtol=1e-9, atol=1e-9)
    rest = rows.clone()
    rest[0, :-1] = (rest[0, :-1] + 5) % VOCAB
    with cut_edges(model, ALL_CUT, paths=PATHS if attending(kind) else ("state",)):
        torch.testing.assert_close(model(rest)[0, -1], found[0, -1], rtol=1e-9, atol=1e-9)


def test_layers_that_mix_no_tokens_are_passed_over_but_cannot_be_named() -> None:
    model, rows, cut = other("transformer, convolution"), tokens(), random_cut()
    with cut_edges(model, cut, [0, 2], PATHS):
        expected = model(rows)
    with cut_edges(model, cut, paths=PATHS):
        assert torch.equal(model(rows), expected)
    for kind, named in (("transformer", "FeedForwardMixer"), ("attention, experts", "MoEMixer")):
        with (
            pytest.raises(TypeError, match=rf"a {named} block has nothing to cut, allowed"),
            cut_edges(other(kind), cut, [0, 1]),
        ):
            pass
    S = flow(other("attention, experts"), rows[0])  # a drawing has them read themselves alone
    assert torch.equal(S[1], torch.eye(LENGTH, dtype=S.dtype))
    gru = build_language_model(LanguageModelConfig(VOCAB, 1, (GRUConfig(8, 8),)), seed=0)
    for model, paths in ((gru, ("state",)), (other("mamba3"), ("state", "decay"))):
        with (
            pytest.raises(TypeError, match=r"block cannot be cut"),
            cut_edges(model, cut, None, paths),
        ):
            pass


def test_masks_of_sources_and_edges() -> None:
    cut = source_cut(torch.tensor([1, 4]), 7)
    wide, narrow = {(i, j) for j in (1, 2, 3) for i in range(j + 1, 7)}, set()
    for j in (1, 2, 3):
        narrow |= {(i, j) for i in range(4, 7)}
    assert {tuple(edge) for edge in cut[0].nonzero().tolist()} == wide
    # a pair at the very end has later tokens only among its own
    assert {tuple(edge) for edge in cut[1].nonzero().tolist()} == {(5, 4), (6, 4), (6, 5)}
    cut = source_cut(torch.tensor([1, 4]), 7, within_pair=False)
    assert {tuple(edge) for edge in cut[0].nonzero().tolist()} == narrow
    assert not cut[1].any()
    key = source_cut(torch.tensor([1]), 7, sources=(0,))[0]
    assert torch.equal(key, edge_cut(7, {edge for edge in wide if edge[1] == 1}))
    assert not source_cut(torch.tensor([1]), 7, sources=()).any()


def test_misfits_are_named() -> None:
    model = make("mamba1")
    cases: list[tuple[dict[str, Any], str]] = [
        ({"cut": ALL_CUT, "layers": [2]}, r"layers is \(2,\), allowed: some of 0..1"),
        ({"cut": ALL_CUT, "paths": ["attention"]}, r"allowed: some of state, conv, decay"),
        ({"cut": ALL_CUT.int()}, r"cut is torch.int32 \(6, 6\), allowed: torch.bool"),
        ({"cut": ALL_CUT[:3]}, r"cut is torch.bool \(3, 6\), allowed: torch.bool \(l, l\)"),
        ({"cut": ALL_CUT.T}, r"from a token to itself or back"),
        ({"cut": torch.eye(6, dtype=torch.bool)}, r"from a token to itself or back"),
    ]
    for arguments, message in cases:
        with pytest.raises(ValueError, match=message), cut_edges(model, **arguments):
            pass
    for cut in (ALL_CUT[:5, :5], random_cut(3)):
        with (
            cut_edges(model, cut),
            pytest.raises(ValueError, match=r"cut has shape .*allowed: \(1"),
        ):
            model(tokens())
    for edge in ((1, 1), (0, 2), (6, 1), (2, -1)):
        with pytest.raises(ValueError, match=r"edge is .*allowed: \(i, j\) with 0 <= j < i < 6"):
            edge_cut(6, [edge])
    with pytest.raises(ValueError, match=r"sources is \(0, 6\), allowed: some of -5..5"):
        source_cut(torch.tensor([1]), 6, (0, 6))
    with pytest.raises(ValueError, match=r"targets is \(2, 6\), allowed: some of -5..5"):
        source_cut(torch.tensor([1]), 6, targets=(2, 6))


def test_other_tokens_than_key_and_pair_can_be_cut_off() -> None:
    def edges(sources: range) -> list[set[tuple[int, int]]]:
        cut = source_cut(torch.tensor([3, 1]), 8, sources, within_pair=False)
        return [set(map(tuple, each.nonzero().tolist())) for each in cut]

    # of three tokens before the key where there are so many, to those behind the pair
    before = [{(i, j) for i in (6, 7) for j in (0, 1, 2)}, {(i, 0) for i in (4, 5, 6, 7)}]
    assert edges(range(-3, 0)) == before
    assert edges(range(3, 8)) == [{(7, 6)}, {(i, j) for j in (4, 5, 6) for i in range(j + 1, 8)}]
