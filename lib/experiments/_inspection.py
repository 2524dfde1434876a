"""What is measured in a model of the composite task: blocking, substitution, taps, answers.

After arXiv 2509.17514, section 4.1, Figs. 6 and 12. What the paper leaves open is measured each
way, and so is what tells how much a number means: the same model before training, nothing
exchanged, other tokens cut off.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from lib.analysis.routes import USUAL
from lib.experiments._asked_now import ENDS
from lib.experiments.achilles import CompositeCell, held_out_answers

if TYPE_CHECKING:
    import torch

    from lib.models.language_model import LanguageModel
    from lib.tasks.composite import CompositeTask, Split

# choices in few words, for axes; None is the paper's sentence, read as widely as it goes
CHOICES_TEXT = {
    None: "as worded",
    "after_pair": "only after the pair",
    "first_two": "key and first anchor alone",
    "second": "second anchor alone",
    "combined": "left: second's convolution",
    "conv_too": "convolution too",
    "everything": "every path",
    "with_pair": "anchors too",
    "layer0": "layer 1 alone",
    "layer1": "layer 2 alone",
    "last": "last layer alone",
    "others": "all layers but the last",
    "behind": "control: tokens behind the pair",
    "noise": "control: tokens before the key",
    "nothing": "control: nothing exchanged",
    "untrained": "control: untrained",
    "after_pair_untrained": "control: untrained, after the pair",
    "with_pair_untrained": "control: untrained, anchors too",
    "nothing_untrained": "control: untrained, nothing exchanged",
}
# what is asked of the same model before training as well
CONTROLS = ("", "after_pair", "with_pair", "nothing")
OF_CONVOLUTIONS = ("combined", "conv_too", "everything")  # cuts of what one of them carries


def convolves(model: LanguageModel) -> bool:
    """Whether all layers that mix tokens have a convolution, as all here but plain attention."""
    from lib.analysis.cuts import layer_numbers

    return all(hasattr(model.layers[n].mixer, "act_post_conv") for n in layer_numbers(model, None))


def inspect(model: LanguageModel, cell: CompositeCell, every: int = 1) -> dict[str, float]:
    """Agreement under blocking and substitution by pair, as defined here and under what the paper
    leaves open, and cosines between the kernels' taps before and after training.

    Names: ``blocking_<end>_<pair>`` and ``substitution_<end>_<pair>``; ``<kind>_<end>_mean`` (43
    left out of substitution, where it is its own twin); ``<kind>_<end>_mean_<choice>`` and, of
    blocking, ``blocking_<end>_43_<choice>`` for the other CHOICES_TEXT. Some of them say how much
    agreement means: "noise" and "behind", other tokens cut off in the place of key and pair (where
    there are any, and two behind it); "nothing", how often the answer is the twin's though nothing
    was exchanged; and "untrained", the same model before training, alone or behind one of CONTROLS.
    ``composite_<end>_<uncut|after_pair|combined>``: how often pair 43 is composed under that cut.
    ``cosine_<start|final>_layer<k>`` (largest off the diagonal, absolute). A model without a
    convolution has none of what is about one: OF_CONVOLUTIONS, substitution, cosines. Then those of
    :func:`lib.experiments.achilles.held_out_answers`.

    Args:
        every: look at every n-th sequence.
    """
    from lib.analysis.flow import kernel_cosines
    from lib.models.language_model import build_language_model
    from lib.tasks.interventions import intervention_split

    device = model.embedding.weight.device
    untrained = build_language_model(cell.model, seed=cell.seed, device=device).eval()
    found = held_out_answers(model, cell)
    for end, may_end in ENDS.items():
        split = intervention_split(cell.task, cell.seed, pair_may_end=may_end)
        split = split.take(slice(None, None, every)).to(device)
        control = _agreements(untrained, cell.task, split, CONTROLS)
        tables = _agreements(model, cell.task, split)
        tables |= {
            (kind, f"{choice}_untrained".removeprefix("_")): by_pair
            for (kind, choice), by_pair in control.items()
        }
        for (kind, choice), by_pair in tables.items():
            name = f"{kind}_{end}"
            counted = [v for p, v in by_pair.items() if kind == "blocking" or p != 43]
            mean = sum(counted) / len(counted)
            if choice:
                found[f"{name}_mean_{choice}"] = mean
                if kind == "blocking":
                    found[f"{name}_43_{choice}"] = by_pair[43]
            else:
                found[f"{name}_mean"] = mean
                found.update({f"{name}_{pair}": value for pair, value in by_pair.items()})
        found |= {f"composite_{end}_{cut}": v for cut, v in _composed(model, split).items()}
    for when, which in (("start", untrained), ("final", model)):
        for number, cosines in enumerate(kernel_cosines(which) if convolves(which) else ()):
            found[f"cosine_{when}_layer{number}"] = _largest(cosines)
    return found


def _agreements(
    model: LanguageModel, task: CompositeTask, split: Split, wanted: Sequence[str] | None = None
) -> dict[tuple[str, str], dict[int, float]]:
    """(kind, choice) to agreement by pair; the choice "" is the paper's words read as widely as
    they go, others (all if `wanted` is None) differ from it in one thing or two. Layers one by one
    only where there are as many as in most models here: among more, the last and all others."""
    from lib.analysis.composite import answers
    from lib.analysis.cuts import PATHS, layer_numbers
    from lib.analysis.interventions import (
        agreement_by_pair,
        blocked_answers,
        combined_answers,
        substituted_answers,
    )
    from lib.tasks.interventions import twin

    twins = twin(task, split)
    expected = {
        "blocking": answers(model, split.tokens),
        "substitution": answers(model, twins.tokens),
    }
    # those that mix tokens: a Transformer's maps of each token alone have nothing to cut
    length, mixing = split.tokens.shape[1], layer_numbers(model, None)
    behind_pair = partial(blocked_answers, model, within_pair=False)
    blocked: dict[str, Callable[[Split], torch.Tensor]] = {
        "": partial(blocked_answers, model),
        "after_pair": behind_pair,
        "first_two": partial(behind_pair, sources=(0, 1)),
        "second": partial(behind_pair, sources=(2,)),
        "combined": partial(combined_answers, model),
        "conv_too": partial(blocked_answers, model, paths=("state", "conv")),
        "everything": partial(blocked_answers, model, paths=PATHS),
        "noise": partial(behind_pair, sources=range(1 - length, 0)),
        "behind": partial(behind_pair, sources=range(3, length)),
    }
    exchanged: dict[str, Callable[[], torch.Tensor]] = {
        "": lambda: substituted_answers(model, split, twins),
        "with_pair": lambda: substituted_answers(model, split, twins, include_pair=True),
        "nothing": lambda: expected["blocking"],
    }
    if len(mixing) <= USUAL:
        for k, number in enumerate(mixing):
            blocked[f"layer{k}"] = partial(blocked_answers, model, layers=[number])
            exchanged[f"layer{k}"] = partial(substituted_answers, model, split, twins, [number])
    else:
        blocked["last"] = partial(behind_pair, layers=mixing[-1:])
        blocked["others"] = partial(behind_pair, layers=mixing[:-1])
    if not convolves(model):
        blocked = {name: way for name, way in blocked.items() if name not in OF_CONVOLUTIONS}
        exchanged = {}
    # where there is anything to cut off
    rows = {"noise": split.index >= 1, "behind": split.index <= length - 5}
    pairs = len(split.pairs.unique())
    found = {}
    for choice, way in blocked.items():
        has = rows.get(choice, split.index >= 0)
        some = split.take(has)
        if (wanted is None or choice in wanted) and len(some.pairs.unique()) == pairs:
            before = expected["blocking"][has]
            found["blocking", choice] = agreement_by_pair(some, before, way(some))
    for choice, exchange in exchanged.items():
        if wanted is None or choice in wanted:
            table = agreement_by_pair(split, expected["substitution"], exchange())
            found["substitution", choice] = table
    return found


def _composed(model: LanguageModel, split: Split) -> dict[str, float]:
    """By cut, the share of the sequences with pair 43 that are answered by composition."""
    from lib.analysis.composite import answers
    from lib.analysis.interventions import blocked_answers, combined_answers

    asked = split.take(split.where(43))
    given = {
        "uncut": answers(model, asked.tokens),
        "after_pair": blocked_answers(model, asked, within_pair=False),
    }
    if convolves(model):
        given["combined"] = combined_answers(model, asked)
    return {cut: float((said == asked.composite).double().mean()) for cut, said in given.items()}


# more precise cuts, of Transformers: what carries, from which tokens, to which; places are counted
# from the key, and None is all behind the pair
PLACES = {
    "key": ("state", (0,), None),
    "first": ("state", (1,), None),
    "anchors": ("state", (0,), (1, 2)),
    "joining": ("conv", (0, 1), (2,)),
    "next": ("conv", (0, 1), (3,)),
}


def kept_without(model: LanguageModel, cell: CompositeCell, every: int = 1) -> dict[str, float]:
    """``kept_inner_<place>``: the share of answers, over all pairs, that stay as they were under
    each of PLACES, the pair never last; without a convolution those of attention alone. With one
    also ``kept_inner_next_alone``, if the next token's convolution is the only way for key and
    pair."""
    from lib.analysis.composite import answers
    from lib.analysis.interventions import blocked_answers, combined_answers
    from lib.tasks.interventions import intervention_split

    split = intervention_split(cell.task, cell.seed, pair_may_end=False)
    split = split.take(slice(None, None, every)).to(model.embedding.weight.device)
    before, convolved = answers(model, split.tokens), convolves(model)
    ways: dict[str, Callable[[LanguageModel, Split], torch.Tensor]] = {
        name: partial(
            blocked_answers,
            sources=sources, within_pair=targets is not None, targets=targets, paths=(path,),
        )
        for name, (path, sources, targets) in PLACES.items()
        if convolved or path != "conv"
    }  # fmt: skip
    if convolved:
        ways["next_alone"] = partial(combined_answers, at=3)
    return {
        f"kept_inner_{name}": float((way(model, split) == before).double().mean())
        for name, way in ways.items()
    }


def _largest(cosines: torch.Tensor) -> float:
    off = cosines.abs() - cosines.abs().diag().diag()
    return float(off.max())
