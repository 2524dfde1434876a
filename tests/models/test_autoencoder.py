from __future__ import annotations

from typing import Any

import pytest
import torch

from lib.models.attention import AttentionMixer, rotate
from lib.models.autoencoder import (
    AutoencoderConfig,
    Decoded,
    StateAutoencoder,
    decode_greedily,
    decoder_loss,
    expect_states,
    map_states,
    slots_for,
    state_floats,
)
from lib.models.config import (
    AttentionConfig,
    BlockConfig,
    FeedForwardConfig,
    GRUConfig,
    InitialisationConfig,
    LanguageModelConfig,
    Mamba1Config,
    Mamba2Config,
    Mamba3Config,
)
from lib.models.language_model import LanguageModel, build_language_model

VOCAB, LENGTH = 23, 11
BOUNDED: dict[str, tuple[BlockConfig, ...]] = {
    "mamba1": (Mamba1Config(d_model=16, d_state=4),),
    "mamba2": (Mamba2Config(d_model=16, d_state=8, headdim=8, n_groups=2, chunk_size=4),),
    "mamba3": (Mamba3Config(d_model=16, d_state=8, headdim=8, chunk_size=4),),
    "gru": (GRUConfig(d_model=16, d_hidden=20),),
    "hybrid": (Mamba1Config(d_model=16, d_state=4), Mamba2Config(16, d_state=8, headdim=8)),
}
TRANSFORMER = (
    AttentionConfig(16, n_heads=2, rope_theta=100.0, conv_kind="standard"),
    FeedForwardConfig(16, 24),
)
BLOCKS = {**BOUNDED, "transformer": TRANSFORMER}


def language_model(blocks: str, seed: int = 0, vocab: int = VOCAB, **change: Any) -> LanguageModel:
    # gamma 0: logits far enough apart that no argmax hangs on rounding
    start = InitialisationConfig(gamma=0.0, scope=("embedding",))
    config = LanguageModelConfig(vocab, 2, BLOCKS[blocks], initialisation=start, **change)
    return build_language_model(config, seed=seed).double()


def chunks(count: int = 3, length: int = LENGTH, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(1, VOCAB, (count, length), generator=generator)


def autoencoder(blocks: str, length: int = LENGTH, **change: Any) -> StateAutoencoder:
    change = {"slots": 3 if blocks == "transformer" else 0, **change}
    return StateAutoencoder(language_model(blocks), AutoencoderConfig(length, **change))


# -- the state ------------------------------------------------------------------------------


@pytest.mark.parametrize("blocks", list(BOUNDED))
def test_an_untrained_decoder_goes_on_as_the_language_model_would(blocks: str) -> None:
    """The state is all that an untrained decoder needs: fed with the true path BOS x1 .. xL, it
    gives the logits that the model has at these positions of x1 .. xL BOS x1 .. xL."""
    model, x = autoencoder(blocks), chunks()
    bos = torch.zeros(3, 1, dtype=torch.int64)
    with torch.no_grad():
        found = model.logits(x)
        expected = model.encoder(torch.cat([x, bos, x], 1))[:, LENGTH:]
        without = model.encoder(torch.cat([bos, x], 1))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    assert not torch.allclose(found, without, rtol=1e-3)


def test_a_transformer_hands_over_its_slots_alone() -> None:
    model, x = autoencoder("transformer"), chunks()
    slots, bos = model.slots, torch.zeros(3, 1, dtype=torch.int64)
    assert slots is not None
    states = model.encode(x)
    assert [s.k.shape[2] for s in states[::2]] == [3]
    embedded = torch.cat([model.encoder.embedding(x), slots.expand(3, -1, -1)], 1)
    keys: list[torch.Tensor] = []
    mixer = model.encoder.layers[0].mixer
    with mixer.act_k.register_forward_hook(lambda *call: keys.append(call[-1])):  # type: ignore[union-attr, operator]
        _, whole = model.encoder.run_embedded(embedded, None, True)
    # as if no text had stood before them
    expected = rotate(keys[0].transpose(1, 2)[:, :, LENGTH:], 0, 100.0)
    torch.testing.assert_close(states[0].k, expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(states[0].v, whole[0].v[:, :, LENGTH:], rtol=1e-10, atol=1e-10)
    # the whole cache, which grows with the text, would hide nothing from the decoder
    full = model.encoder.hidden(x, None, True)[1]
    direct = model.encoder(torch.cat([x, bos, x], 1))[:, LENGTH:]
    torch.testing.assert_close(model.logits(x, full), direct, rtol=1e-9, atol=1e-9)
    assert not torch.allclose(model.logits(x), direct, rtol=1e-3)


@pytest.mark.parametrize("slots", [1, 5, LENGTH, LENGTH + 3])
def test_the_decoder_s_first_token_follows_the_last_slot(slots: int) -> None:
    """Whether there are fewer slots than tokens or as many: the decoder that starts as a copy gives
    what the model gives over text, slots, BOS and text at positions 0, 1, 2 ..., if what stands
    after the slots cannot see what stands before them."""
    model, x = autoencoder("transformer", slots=slots), chunks()
    embed, own = model.encoder.embedding, model.slots
    assert own is not None
    bos = torch.zeros(3, 1, dtype=torch.int64)
    parts = [embed(x), own.expand(3, -1, -1), embed(torch.cat([bos, x], 1))]

    def blinded(module: Any, inputs: Any, weights: torch.Tensor) -> torch.Tensor:
        seen = torch.ones_like(weights)
        seen[..., LENGTH + slots :, :LENGTH] = 0
        return weights * seen / (weights * seen).sum(-1, keepdim=True)

    hooks = [
        layer.mixer.act_S.register_forward_hook(blinded)
        for layer in model.encoder.layers
        if isinstance(layer.mixer, AttentionMixer)
    ]
    with torch.no_grad():
        stream, _ = model.encoder.run_embedded(torch.cat(parts, 1))
        expected = model.encoder.head(stream[:, LENGTH + slots :])
        for hook in hooks:
            hook.remove()
        found, states = model.logits(x), model.encode(x)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
        for place, token in enumerate(torch.cat([bos, x], 1).unbind(1)):
            logits, states = model.decoder.step(token, states, place)
            torch.testing.assert_close(logits, expected[:, place], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("slots", [5, LENGTH])
def test_the_loss_follows_the_slots_as_their_gradient_says(slots: int) -> None:
    """Central differences along one direction, through the encoder and the turned keys."""
    model, x = autoencoder("transformer", slots=slots), chunks()
    assert model.slots is not None
    kept, generator = model.slots.detach().clone(), torch.Generator().manual_seed(4)
    move = torch.randn(kept.shape, generator=generator).double()
    (slope,) = torch.autograd.grad(model.loss(x), model.slots)
    losses = []
    for size in (1e-5, -1e-5):
        with torch.no_grad():
            model.slots.copy_(kept + size * move)
            losses.append(float(model.loss(x)))
    expected = (losses[0] - losses[1]) / 2e-5
    assert abs(expected) > 1e-4
    assert float((slope * move).sum()) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("blocks", list(BLOCKS))
def test_only_the_decoder_and_the_slots_are_trained(blocks: str) -> None:
    model = autoencoder(blocks)
    model.train()
    assert not model.encoder.training and model.decoder.training
    model.loss(chunks()).backward()
    for name, parameter in model.named_parameters():
        trained = not name.startswith("encoder.")
        assert parameter.requires_grad == trained, name
        assert (parameter.grad is not None and parameter.grad.abs().max() > 0) == trained, name


@pytest.mark.parametrize("blocks", list(BLOCKS))
def test_gradients_through_initial_states_equal_those_of_single_steps(blocks: str) -> None:
    model, x = autoencoder(blocks), chunks()
    inputs = torch.cat([torch.zeros(3, 1, dtype=torch.int64), x], 1)
    weights = torch.randn(3, LENGTH + 1, VOCAB, generator=torch.Generator().manual_seed(1)).double()
    kept = map_states(model.encode(x), torch.Tensor.detach)

    def gradients(stepwise: bool) -> list[torch.Tensor]:
        states = map_states(kept, lambda t: t.clone().requires_grad_(True))
        leaves = [part for state in states for part in state]
        if stepwise:
            out, now = [], states
            for position, token in enumerate(inputs.unbind(1)):
                logits, now = model.decoder.step(token, now, position)
                out.append(logits)
            found = torch.stack(out, 1)
        else:
            found = model.decoder(inputs, states)
        trained = list(model.decoder.parameters())
        return list(torch.autograd.grad((found * weights.to(found)).sum(), [*leaves, *trained]))

    for whole, steps in zip(gradients(False), gradients(True), strict=True):
        assert steps.abs().max() > 0
        torch.testing.assert_close(whole, steps, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("blocks", ["mamba1", "mamba2", "gru"])
def test_the_loss_follows_the_state_as_its_gradient_says(blocks: str) -> None:
    """Central differences: a check that shares no code with the backward pass."""
    model, x = autoencoder(blocks), chunks()
    kept = map_states(model.encode(x), torch.Tensor.detach)
    generator = torch.Generator().manual_seed(2)
    moves = map_states(kept, lambda t: torch.randn(t.shape, generator=generator).double())
    step = torch.zeros((), dtype=torch.float64, requires_grad=True)

    def loss(size: torch.Tensor) -> torch.Tensor:
        pairs = zip(kept, moves, strict=True)
        moved = [type(s)(*(p + size * q for p, q in zip(s, m, strict=True))) for s, m in pairs]
        return model.loss(x, moved)

    (slope,) = torch.autograd.grad(loss(step), step)
    small = torch.tensor(1e-5, dtype=torch.float64)
    with torch.no_grad():
        difference = (loss(small) - loss(-small)) / (2 * small)
    assert abs(float(slope)) > 1e-3
    torch.testing.assert_close(slope, difference, rtol=1e-6, atol=1e-9)


# -- training and decoding ------------------------------------------------------------------


def test_the_loss_is_the_mean_over_the_chunk_and_its_end() -> None:
    model, x = autoencoder("mamba1", eos=4, bos=2), chunks()
    logp = model.logits(x).log_softmax(-1)
    inputs, targets = torch.full((3, 1), 2), torch.cat([x, torch.full((3, 1), 4)], 1)
    direct = model.decoder(torch.cat([inputs, x], 1), model.encode(x)).log_softmax(-1)
    torch.testing.assert_close(logp, direct)
    total = sum(float(logp[i, t, targets[i, t]].detach()) for i in range(3) for t in range(12))
    assert float(model.loss(x).detach()) == pytest.approx(-total / 36)
    loss, right = decoder_loss(model, x)
    assert float(loss.detach()) == float(model.loss(x).detach())
    assert int(right) == int((logp.argmax(-1) == targets)[:, :LENGTH].sum())  # not of the end


@pytest.mark.parametrize("blocks", ["mamba1", "mamba2", "gru", "transformer"])
def test_training_makes_the_decoder_repeat(blocks: str) -> None:
    torch.manual_seed(0)
    slots = 4 if blocks == "transformer" else 0
    model = StateAutoencoder(
        build_language_model(LanguageModelConfig(VOCAB, 2, BLOCKS[blocks]), seed=0),
        AutoencoderConfig(4, slots=slots),
    )
    x = chunks(8, 4)
    before = {k: v.clone() for k, v in model.encoder.state_dict().items()}
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-2)
    assert (model.reconstruct(x).tokens[:, :4] == x).float().mean() < 0.5
    for _ in range(150):
        optimizer.zero_grad()
        model.loss(x).backward()
        optimizer.step()
    assert model.reconstruct(x).rows() == x.tolist()
    assert all(torch.equal(v, before[k]) for k, v in model.encoder.state_dict().items())


@pytest.mark.parametrize("blocks", list(BLOCKS))
def test_greedy_decoding_equals_choosing_again_and_again(blocks: str) -> None:
    """Batched decoding with states, against whole passes over ever longer inputs, one by one."""
    model, x = autoencoder(blocks, length=6), chunks(4, 6)
    decoded = model.reconstruct(x)
    assert decoded.tokens.shape == (4, 7)
    ends = []
    for row, chunk in enumerate(x):
        states, sequence = model.encode(chunk[None]), [0]
        for _ in range(7):
            with torch.no_grad():
                logits = model.decoder(torch.tensor([sequence]), states)
            sequence.append(int(logits[0, -1].argmax()))
            if sequence[-1] == 0:
                break
        expected = [t for t in sequence[1:] if t != 0]
        assert decoded.rows()[row] == expected
        assert decoded.tokens[row].tolist() == expected + [0] * (7 - len(expected))
        ends.append(len(expected))
    assert decoded.lengths.tolist() == ends


def test_decoding_stops_at_the_end_token_or_the_limit() -> None:
    model, x = autoencoder("mamba1", length=6), chunks(4, 6)
    states = model.encode(x)
    free = decode_greedily(model.decoder, states, 4, bos=0, eos=VOCAB - 1, limit=5).tokens
    # end at whatever the first row writes third: it then has two tokens, or fewer
    end = int(free[0, 2])
    cut = decode_greedily(model.decoder, states, 4, bos=0, eos=end, limit=5)
    assert cut.lengths[0] == free[0].tolist().index(end)
    assert (cut.tokens[0, int(cut.lengths[0]) :] == end).all()
    for row in range(4):
        kept = int(cut.lengths[row])
        assert cut.tokens[row, :kept].tolist() == free[row, :kept].tolist()
    with pytest.raises(ValueError, match="limit is 0"):
        decode_greedily(model.decoder, states, 4, bos=0, eos=0, limit=0)


def test_rows_of_any_lengths_and_back() -> None:
    rows = [[3, 1, 2], [], [5]]
    texts = Decoded.of(rows, end=9)
    assert texts.rows() == rows and texts.tokens[1].tolist() == [9, 9, 9]
    assert texts.present().tolist() == [[True] * 3, [False] * 3, [True, False, False]]
    assert Decoded.of([]).rows() == []


# -- sizes and errors -----------------------------------------------------------------------


def test_state_sizes_of_the_pretrained_models() -> None:
    """Layers x 2 d_model x 16 floats of state and x 3 of convolution: what one step needs of the
    kernel's 4 taps (protocol, section 1.1, counts 4: the library's cache holds one more)."""
    config = LanguageModelConfig(8, 24, (Mamba1Config(768),))
    with torch.device("meta"):
        states = LanguageModel(config).initial_states(1)
    assert sum(s.ssm.numel() for s in states) == 589_824
    assert state_floats(states) == 589_824 + 24 * 1536 * 3
    assert state_floats(autoencoder("gru").encode(chunks())) == 40


def test_slots_fill_the_state_of_another_model() -> None:
    config = LanguageModelConfig(VOCAB, 4, TRANSFORMER)
    # two attention layers, each 3 x 48 inputs of the convolution, 32 a slot
    assert slots_for(config, 288 + 64 * 5) == 5 and slots_for(config, 288 + 64 * 6 - 1) == 5
    model = StateAutoencoder(
        build_language_model(config, seed=0), AutoencoderConfig(LENGTH, slots=5)
    )
    assert state_floats(model.encode(chunks())) == 288 + 64 * 5
    # each token that is written is kept as a slot is
    states = model.encode(chunks())
    for place in range(4):
        _, states = model.decoder.step(chunks()[:, 0], states, place)
    assert state_floats(states) == state_floats(model.encode(chunks()), more=4) == 288 + 64 * 9
    bounded = autoencoder("mamba1").encode(chunks())
    assert state_floats(bounded, more=4) == state_floats(bounded)
    with pytest.raises(ValueError, match="floats is 351, allowed: at least 352"):
        slots_for(config, 351)
    with pytest.raises(ValueError, match="no attention"):
        slots_for(LanguageModelConfig(VOCAB, 2, BOUNDED["mamba1"]), 1000)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: AutoencoderConfig(0), "AutoencoderConfig.length is 0"),
        (lambda: AutoencoderConfig(4, bos=-1), "bos is -1, allowed: 0 or more"),
        (lambda: autoencoder("mamba1", eos=VOCAB), f"eos is {VOCAB}, allowed: less than"),
        (
            lambda: StateAutoencoder(language_model("mamba1"), AutoencoderConfig(4, slots=2)),
            "slots is 2, allowed: 0 without attention",
        ),
        (
            lambda: StateAutoencoder(language_model("transformer"), AutoencoderConfig(4)),
            "slots is 0, allowed: at least 1 for attention",
        ),
        (
            lambda: autoencoder("mamba1").loss(chunks(length=LENGTH + 1)),
            rf"shape \(3, 12\), allowed: \(b, {LENGTH}\)",
        ),
        (lambda: autoencoder("mamba1").encode(chunks()[0]), r"shape \(11,\)"),
        (lambda: autoencoder("mamba1").reconstruct(chunks()[:0]), r"shape \(0, 11\)"),
        (
            lambda: autoencoder("mamba1").loss(chunks(), autoencoder("gru").encode(chunks())),
            "layer 0 is a GRUState of hidden .* another architecture",
        ),
        (
            lambda: autoencoder("mamba1").reconstruct(
                chunks(), autoencoder("mamba2").encode(chunks())
            ),
            r"layer 0 is a MixerState of conv .* goes on from a MixerState of conv \(3, 32, 3\)",
        ),
        (
            lambda: autoencoder("mamba1").loss(chunks(), autoencoder("mamba1").encode(chunks(2))),
            "or batch",
        ),
        (
            lambda: expect_states(language_model("gru"), [], 3),
            "states has length 0, allowed: 2, the decoder's",
        ),
    ],
)
def test_misuse_is_named(build: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()
