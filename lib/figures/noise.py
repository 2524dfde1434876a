"""Figures of the noise chapter: where characters go, how answers are read, what answers score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import pandas as pd
import plotly.graph_objects as go

from lib.figures import COLOURS, SEQUENTIAL
from lib.tasks.noise import NOISES, find_noise, flip_characters, set_apart, unflip_words

if TYPE_CHECKING:
    from lib.analysis.noise_metrics import FormReader

ELSEWHERE = "#bbbbbb"
LEAST = -11.0  # nats a character where bars of likelihood begin; hardly any text is below
MARKERS = ("circle", "diamond", "square", "x")
MEASURES = {
    "their_accuracy": "their accuracy (fuzzy match)",
    "their_flip": "their character-flip rate",
    "their_flip_strict": "the same without “a”, “no”, “saw”",
    "their_english": "their English ratio",
    "form_char_flip": "character-flipped form (n-gram score)",
    "content": "content accuracy (novel words, form taken back)",
    "novel": "novel words, as written",
    "rouge_l": "ROUGE-L, as written",
    "rouge_l_content": "ROUGE-L, form taken back",
    "repeats": "three words repeated more than twice",
}


def origins(text: str, noise: str) -> list[int | None]:
    """For each character of the flipped `text`, where it stood in `text`; None for spaces that were
    not there, and for every character of noises that are no flips."""
    if noise == "char_flip":
        return list(range(len(text) - 1, -1, -1))
    if noise != "word_flip":
        changed = find_noise(noise).text
        return [None] * len(changed(text) if changed else text)
    # set apart or not, the visible characters keep their order
    visible = iter(at for at, character in enumerate(text) if not character.isspace())
    places: list[list[int | None]] = [[next(visible) for _ in part] for part in set_apart(text)]
    out: list[int | None] = []
    for part in reversed(places):
        out += [None, *part] if out else part
    return out


def characters(text: str, noise: str) -> go.Figure:
    """An answer above and the same answer with a noise below, character by character; the colour is
    a character's place in the answer, grey if it comes from elsewhere.

    Raises:
        ValueError: unknown noise, or one that needs other answers.
    """
    found = find_noise(noise)
    if found.text is None:
        raise ValueError(f"noise is {noise!r}, allowed: one that changes an answer by itself")
    noisy, places = found.text(text), origins(text, noise)
    figure = go.Figure()
    rows = (("noisy", noisy, 0, places), ("clean", text, 1, list(range(len(text)))))
    for name, line, height, come_from in rows:
        figure.add_scatter(
            x=list(range(1, len(line) + 1)), y=[height] * len(line), mode="markers+text",
            text=[f"<b>{character}</b>" for character in line], name=name, showlegend=False,
            marker={
                "symbol": "square", "size": 17, "opacity": 0.55,
                # a place beyond both ends of the scale would stretch it, so grey is set by hand
                "color": [_shade(at, len(text)) for at in come_from],
            },
            hovertext=["from elsewhere" if at is None else f"place {at + 1} of the answer"
                       for at in come_from],
            hoverinfo="text",
        )  # fmt: skip
    figure.update_xaxes(title="character", range=[0, max(len(noisy), len(text)) + 1])
    # a line would strike the letters through
    figure.update_yaxes(
        tickvals=[0, 1], ticktext=["noisy", "clean"], range=[-0.6, 1.6], showgrid=False,
        zeroline=False,
    )  # fmt: skip
    figure.update_layout(title=f"{found.title}: {noisy}", height=270)
    return figure


def _shade(place: int | None, count: int) -> str:
    from plotly.colors import sample_colorscale

    if place is None:
        return ELSEWHERE
    return str(sample_colorscale(SEQUENTIAL, [place / max(1, count - 1)])[0])


def readings(text: str, reader: FormReader) -> go.Figure:
    """How likely a text is in each of its readings: as it stands, with its characters turned back
    and with its words turned back (mean log probability of a character, in nats)."""
    ways = {
        "as it stands": text,
        "characters turned back": flip_characters(text),
        "words turned back": unflip_words(text),
    }
    scores = [reader.english.score(way) for way in ways.values()]
    figure = go.Figure(
        go.Bar(
            # bars begin at one place in all figures and end at the score: longer is likelier
            base=[LEAST] * len(ways), x=[max(0.05, score - LEAST) for score in scores],
            y=list(ways), orientation="h", text=[f" {way}" for way in ways.values()],
            textposition="outside", cliponaxis=False, marker_color=COLOURS[0], customdata=scores,
            hovertemplate="%{y}: %{customdata:.2f}<extra></extra>",
        )
    )  # fmt: skip
    figure.update_xaxes(
        title="mean log probability of a character / nats", range=[LEAST, 7],
        # a line would strike the texts through
        tickvals=list(range(-10, 1, 2)), zeroline=False, showgrid=False, ticks="outside",
    )  # fmt: skip
    figure.update_yaxes(autorange="reversed")
    form = reader.form(text)
    named = NOISES[form].title if form in NOISES else "it stands"
    figure.update_layout(title=f"Read as {named}: {text}", height=300, margin_l=170)
    return figure


def scores(
    frame: pd.DataFrame, measures: Sequence[str], title: str,
    published: Mapping[str, Mapping[str, float]] | None = None,
) -> go.Figure:  # fmt: skip
    """Measures of every set of answers in percent, with their 95 % intervals over questions.

    Args:
        frame: of ``lib.experiments.noise_audit.frame``.
        measures: keys of MEASURES, a colour each.
        published: set of answers to measure to the published share, drawn as open circles.
    """
    figure = go.Figure()
    for index, name in enumerate(measures):
        colour = COLOURS[index % len(COLOURS)]
        middle, low, high = (100 * frame[f"{name}{end}"] for end in ("", "_low", "_high"))
        figure.add_scatter(
            x=middle, y=frame["text"], mode="markers", name=MEASURES[name],
            marker={"color": colour, "symbol": MARKERS[index % len(MARKERS)], "size": 10},
            error_x={"type": "data", "symmetric": False, "array": high - middle,
                     "arrayminus": middle - low, "thickness": 1.2},
            hovertemplate="%{y}: %{x:.1f} %<extra>" + MEASURES[name] + "</extra>",
        )  # fmt: skip
        given = [
            (100 * published[answers][name], text)
            for answers, text in zip(frame["answers"], frame["text"], strict=True)
            if published is not None and name in published.get(answers, {})
        ]
        # an empty trace too: a slider needs the same traces everywhere
        if published is not None:
            figure.add_scatter(
                x=[value for value, _ in given], y=[text for _, text in given], mode="markers",
                name=f"{MEASURES[name]}, as published",
                marker={"color": colour, "symbol": "circle-open", "size": 17},
                hovertemplate="%{y}, published: %{x:.1f} %<extra></extra>",
            )  # fmt: skip
    order = frame["text"].tolist()
    figure.update_yaxes(
        type="category", categoryorder="array", categoryarray=order[::-1],
        range=[-0.6, len(order) - 0.4],
    )  # fmt: skip
    figure.update_xaxes(title="% of answers, 95 % interval over questions", range=[-3, 103])
    figure.update_layout(title=title, height=230 + 28 * len(order), margin_l=230, legend_y=-0.28)
    return figure
