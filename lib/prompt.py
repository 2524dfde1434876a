"""A box to type a prompt into, and the text that a model writes after it, as it is made."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from typing import Any

from IPython.display import HTML

from lib import progress
from lib.models.sampling import SamplingConfig
from lib.models.text import stream_text


class PromptBox:
    """With a live kernel: a text box, sliders and a button; the text grows below them.

    Args:
        model, tokenizer: see :func:`lib.models.text.stream_text`.
        prompt: what the box opens with.
        max_new_tokens: where the slider stands at first.
        stop: tokens that end a text, beside the tokenizer's own.
    """

    def __init__(
        self, model: Any, tokenizer: Any, prompt: str, max_new_tokens: int = 100,
        stop: Sequence[int] = (),
    ) -> None:  # fmt: skip
        from ipywidgets import HTML as Text
        from ipywidgets import Button, FloatSlider, IntSlider, Textarea, VBox

        self.model, self.tokenizer, self.stop = model, tokenizer, stop
        self.prompt = Textarea(value=prompt, description="prompt", layout={"width": "90%"})
        self.tokens = IntSlider(max_new_tokens, 1, 500, description="tokens")
        self.temperature = FloatSlider(0.8, min=0.0, max=2.0, step=0.1, description="temperature")
        self.seed = IntSlider(0, 0, 100, description="seed")
        self.button = Button(description="write")
        self.button.on_click(lambda _: self.write())
        self.text = Text()
        self.widget = VBox(
            [self.prompt, self.tokens, self.temperature, self.seed, self.button, self.text]
        )

    def write(self) -> None:
        """Write after the prompt in the box; what is wrong with it is said in the same place."""
        self.button.disabled = True
        prompt = self.prompt.value
        self.text.value = formatted(prompt, "")
        written = ""
        try:
            sampling = SamplingConfig(self.temperature.value, None, 0.95, self.seed.value)
            for piece in self._pieces(prompt, sampling):
                written += piece
                self.text.value = formatted(prompt, written)
        except ValueError as error:
            self.text.value = f"<p><b>{html.escape(str(error))}</b></p>"
        finally:
            self.button.disabled = False

    def _pieces(self, prompt: str, sampling: SamplingConfig) -> Iterator[str]:
        return stream_text(
            self.model, self.tokenizer, prompt, max_new_tokens=self.tokens.value,
            sampling=sampling, stop=self.stop,
        )  # fmt: skip


def formatted(prompt: str, written: str) -> str:
    """Prompt and text as HTML, told apart by weight; line breaks stay."""
    return (
        f"<p style='white-space: pre-wrap'><b>{html.escape(prompt)}</b>{html.escape(written)}</p>"
    )


def prompt_box(
    model: Any, tokenizer: Any, prompts: Sequence[str], max_new_tokens: int = 100,
    stop: Sequence[int] = (),
) -> Any:  # fmt: skip
    """Something to show in a notebook: a :class:`PromptBox`; in the static page, where nobody can
    type, what the model writes greedily after each of `prompts`.

    Raises:
        ValueError: no prompts.
    """
    if not prompts:
        raise ValueError("prompts is empty, allowed: at least one")
    if not progress.headless():
        return PromptBox(model, tokenizer, prompts[0], max_new_tokens, stop).widget
    texts = (
        "".join(stream_text(model, tokenizer, p, max_new_tokens=max_new_tokens, stop=stop))
        for p in prompts
    )
    shown = (formatted(prompt, text) for prompt, text in zip(prompts, texts, strict=True))
    return HTML("".join(shown))
