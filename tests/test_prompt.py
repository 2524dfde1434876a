"""The prompt box: what it writes, where it says what is wrong, and what stands in a static page."""

from __future__ import annotations

from pathlib import Path

import pytest

from lib.experiments.pretrained import tiny_checkpoint
from lib.models.generation import generate
from lib.models.hub import load_pretrained, load_tokenizer
from lib.models.sampling import SamplingConfig
from lib.models.text import encode
from lib.prompt import PromptBox, formatted, prompt_box

PROMPT = "Once upon a <time>"


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> tuple[object, object]:
    folder = tiny_checkpoint(tmp_path_factory.mktemp("tiny"))
    return load_pretrained(folder), load_tokenizer(folder)


def written(loaded: tuple, count: int, sampling: SamplingConfig) -> str:  # type: ignore[type-arg]
    model, tokenizer = loaded
    (tokens,) = generate(
        model, [encode(PROMPT, tokenizer)], max_new_tokens=count, sampling=sampling,
        stop=[tokenizer.eos_token_id],
    )  # fmt: skip
    return str(tokenizer.decode(tokens, clean_up_tokenization_spaces=False))


def test_the_box_writes_by_its_sliders(loaded: tuple) -> None:  # type: ignore[type-arg]
    box = PromptBox(*loaded, PROMPT, max_new_tokens=7)
    seen: list[str] = []
    box.text.observe(lambda change: seen.append(change["new"]), "value")
    box.seed.value = 3
    box.button.click()
    assert box.text.value == formatted(
        PROMPT, written(loaded, 7, SamplingConfig(0.8, None, 0.95, 3))
    )
    assert "Once upon a &lt;time&gt;</b>" in box.text.value
    assert len(seen) > 3 and seen == sorted(seen, key=len)  # it grew piece by piece
    box.temperature.value, box.tokens.value = 0.0, 4
    box.write()
    assert box.text.value == formatted(PROMPT, written(loaded, 4, SamplingConfig()))


def test_what_is_wrong_is_said_in_the_box(loaded: tuple, tmp_path: Path) -> None:  # type: ignore[type-arg]
    tokenizer = load_tokenizer(tiny_checkpoint(tmp_path))
    tokenizer.bos_token = None  # nothing to begin an empty text with
    box = PromptBox(loaded[0], tokenizer, "")
    box.write()
    assert "the prompt is empty" in box.text.value and not box.button.disabled


def test_a_static_page_shows_what_is_written_after_each_prompt(
    loaded: tuple, monkeypatch: pytest.MonkeyPatch  # type: ignore[type-arg]
) -> None:  # fmt: skip
    monkeypatch.setenv("MAMBA_BOOK_HEADLESS", "1")
    shown = prompt_box(*loaded, [PROMPT, "The fox"], max_new_tokens=5)
    assert formatted(PROMPT, written(loaded, 5, SamplingConfig())) in shown.data
    assert "<b>The fox</b>" in shown.data
    monkeypatch.setenv("MAMBA_BOOK_HEADLESS", "0")
    live = prompt_box(*loaded, [PROMPT, "The fox"], max_new_tokens=5)
    assert [child.description for child in live.children[:5]] == [
        "prompt", "tokens", "temperature", "seed", "write",
    ]  # fmt: skip
    with pytest.raises(ValueError, match="prompts is empty, allowed: at least one"):
        prompt_box(*loaded, [])
