"""``python -m lib generate`` on a tiny checkpoint with a tiny tokenizer of its own."""

from __future__ import annotations

import dataclasses
import io
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import tokenizers
import torch
import transformers

from lib import __main__ as cli
from lib import runner
from lib.config import from_dict
from lib.experiments import stories
from lib.experiments._language import LanguageCell, open_data
from lib.models.config import LanguageModelConfig, Mamba1Config, Mamba2Config
from lib.models.generation import generate
from lib.models.hub import (
    HubError,
    load_causal_lm,
    load_pretrained,
    load_tokenizer,
    save_pretrained,
)
from lib.models.language_model import build_language_model
from lib.models.text import encode, pieces
from lib.store import Store, read_record
from tests.fakes import PROVENANCE

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

END = "<|end|>"
TEXT = "Once upon a time there was a small fox. The fox saw a bird — ein Vögelchen, 小鳥 🐦. "
PROMPT = "Once upon a time"


def tiny_tokenizer() -> Any:
    """Byte-level BPE trained on a sentence: a character outside it takes several tokens."""
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300, special_tokens=[END], show_progress=False,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    made.train_from_iterator([TEXT] * 3, trainer)
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made, eos_token=END, bos_token=END)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer = tiny_tokenizer()
    config = LanguageModelConfig(len(tokenizer), 2, (Mamba1Config(16),))
    model = build_language_model(config, seed=2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn(
                parameter.shape, generator=torch.Generator().manual_seed(1)
            )
    return save_pretrained(model, tmp_path_factory.mktemp("tiny"), tokenizer=tokenizer)


def written(checkpoint: Path, count: int, prompt: str = PROMPT) -> str:
    """The greedy text by generate() and one decoding of all tokens."""
    model, tokenizer = load_pretrained(checkpoint), load_tokenizer(checkpoint)
    (tokens,) = generate(
        model, [encode(prompt, tokenizer)], max_new_tokens=count, stop=[tokenizer.eos_token_id]
    )
    return str(tokenizer.decode(tokens, clean_up_tokenization_spaces=False))


def run(capsys: pytest.CaptureFixture[str], *options: str) -> tuple[int, str, str]:
    code = cli.main(["generate", *options])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_the_command_writes_the_prompt_and_the_greedy_text(
    checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(capsys, "--model", str(checkpoint), "--prompt", PROMPT, "--max-tokens=30")
    assert code == 0
    assert out == PROMPT + written(checkpoint, 30) + "\n" and len(out) > len(PROMPT) + 10
    assert "characters in" in err


def test_a_seed_gives_one_text_and_another_seed_another(
    checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--model", str(checkpoint), "--prompt", PROMPT, "--max-tokens=20",
               "--temperature=1.2", "--top-k=50", "--top-p=0.95"]  # fmt: skip
    first = run(capsys, *options, "--seed=1")[1]
    assert run(capsys, *options, "--seed=1")[1] == first
    assert run(capsys, *options, "--seed=2")[1] != first
    assert run(capsys, *options, "--seed=1", "--top-k=1")[1] == PROMPT + (
        written(checkpoint, 20) + "\n"
    )


def test_interactive_asks_for_prompts_until_an_empty_line(
    checkpoint: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("The fox\nA bird\n\nnever read\n"))
    code, out, err = run(capsys, "--model", str(checkpoint), "--interactive", "--max-tokens=8")
    assert code == 0 and err.count("> ") == 3
    assert out == "".join(
        f"{prompt}{written(checkpoint, 8, prompt)}\n" for prompt in ("The fox", "A bird")
    )


def test_an_empty_prompt_begins_with_the_token_that_begins_a_text(
    checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(capsys, "--model", str(checkpoint), "--prompt", "", "--max-tokens=9")
    assert code == 0 and out == written(checkpoint, 9, END) + "\n"
    tokenizer = load_tokenizer(checkpoint)
    tokenizer.bos_token = None
    with pytest.raises(ValueError, match="the prompt is empty"):
        encode("", tokenizer)


def test_pieces_are_whole_characters_and_together_the_text() -> None:
    tokenizer = tiny_tokenizer()
    text = "小鳥 says: naïve 🦊🐦, z̈ "
    tokens = tokenizer(text)["input_ids"]
    found = list(pieces(tokens, tokenizer))
    assert "".join(found) == text
    assert len(found) > 5 and len(tokens) > len(found)  # streamed, with tokens that had to wait
    assert not any("�" in piece for piece in found)
    cut = list(pieces(tokenizer("a🦊")["input_ids"][:-1], tokenizer))
    assert "".join(cut) == "a�"  # what never became a character is not kept back


def test_spaces_that_a_tokenizer_drops_at_the_start_of_a_text_stay_inside_it() -> None:
    # as in Llama's: a word's token brings its space, which is left out at the start
    words = {"▁once": 0, "▁upon": 1, "▁a": 2, "▁time": 3}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(words))
    made.decoder = tokenizers.decoders.Metaspace()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=made)
    assert list(pieces([0, 1, 2, 3], tokenizer)) == ["once", " upon", " a", " time"]


def test_the_text_ends_at_the_tokenizers_end(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, tokenizer = load_pretrained(checkpoint), load_tokenizer(checkpoint)
    tokens = generate(model, [encode(PROMPT, tokenizer)], max_new_tokens=9)[0]
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(tokens[5])
    save_pretrained(model, tmp_path, tokenizer=tokenizer)
    expected = tokens[: tokens.index(tokens[5])]
    out = run(capsys, "--model", str(tmp_path), "--prompt", PROMPT)[1]
    assert out == PROMPT + tokenizer.decode(expected, clean_up_tokenization_spaces=False) + "\n"


def test_other_architectures_generate_too_and_only_from_safetensors(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizer = load_tokenizer(checkpoint)
    torch.manual_seed(0)
    theirs = transformers.GPTNeoXForCausalLM(
        transformers.GPTNeoXConfig(
            vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
            intermediate_size=16, max_position_embeddings=24,
        )
    ).eval()  # fmt: skip
    theirs.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    prompt = torch.tensor([encode(PROMPT, tokenizer)])
    expected = theirs.generate(
        prompt, max_new_tokens=6, do_sample=False, pad_token_id=0, eos_token_id=0
    )[0]
    options = ["--model", str(tmp_path), "--prompt", PROMPT]
    out = run(capsys, *options, "--max-tokens=6")[1]
    assert out == tokenizer.decode(expected, skip_special_tokens=True) + "\n"
    code, _, err = run(capsys, *options, "--max-tokens=60")
    assert code == cli.USAGE_ERROR and "this model has 24 positions" in err
    code, _, err = run(capsys, "--model", str(tmp_path), "--prompt", "fox " * 30)
    assert code == cli.USAGE_ERROR and "tokens, allowed: up to 24, the positions" in err
    (tmp_path / "model.safetensors").unlink()
    torch.save(theirs.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(HubError, match="transformers cannot load"):
        load_causal_lm(tmp_path)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The record that a short run of a mixture of experts has left, with its weights."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MAMBA_BOOK_RUNS", str(tmp_path_factory.mktemp("runs")))
        store = Store.at(tmp_path_factory.mktemp("root"))
        conditions = ["pattern.1.kind=moe"]
        runner.run(stories.NAME, "quick", select=conditions, store=store, say=lambda line: None)
        yield next((store.local / stories.NAME).glob("moe-*.json"))


def test_a_model_of_the_book_writes_by_its_record(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = read_record(trained)
    cell = from_dict(LanguageCell, record.config)
    model = build_language_model(cell.model, seed=9)
    weights = record.weights_path()
    assert weights is not None
    model.load_state_dict(safetensors.torch.load_file(weights))
    tokenizer = open_data(cell.task).tokenizer
    (tokens,) = generate(
        model.eval(), [tokenizer.encode(PROMPT)], max_new_tokens=9, stop=[tokenizer.eos]
    )
    options = ["--model", str(trained), "--prompt", PROMPT, "--device=cpu", "--max-tokens=9"]
    assert run(capsys, *options)[1] == PROMPT + tokenizer.decode(tokens) + "\n"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights": None}, "which kept no weights, allowed: a record with weights"),
        ({"experiment": "demo.one", "config": {"seed": 1}}, "a record of demo.one, allowed: that"),
        (
            {"provenance": {**PROVENANCE, "tokenizer": "abc"}},
            "trained on tokens of abc, allowed: a model of byte",
        ),
        (None, "record.json', allowed: a record that is there"),
    ],
)
def test_records_that_cannot_write_are_named(
    changes: dict[str, Any] | None, message: str, trained: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    path = tmp_path / "record.json"
    if changes is not None:
        record = read_record(trained)
        weights = None if "weights" in changes else record.weights_path()
        changed = dataclasses.replace(record, **{**changes, "weights": None, "curves": None})
        payload = weights.read_bytes() if weights else None
        store = Store(tmp_path / "runs", tmp_path / "published")
        path = tmp_path / "runs" / changed.experiment / store.save(changed, weights=payload).name
    code, out, err = run(capsys, "--model", str(path), "--prompt", PROMPT)
    assert code == cli.USAGE_ERROR and message in err and not out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "give --prompt TEXT, or --interactive"),
        (["--prompt", "a", "--temperature=-1"], "SamplingConfig.temperature is -1.0"),
        (["--prompt", "a", f"--seed={2**63}"], "seed is 9223372036854775808, allowed: 0 to 2^63"),
        (["--prompt", "\udcff", "--device=cpu"], "allowed: text in UTF-8"),
        (["--prompt", "a", "--device=tpu"], "device is 'tpu', allowed: auto, cpu, cuda"),
        (["--prompt", "a", "--max-tokens=0"], "max-tokens is 0, allowed: at least 1"),
        (["--prompt", "a", "--model", "./nowhere"], "'./nowhere' is no folder here"),
        (["--prompt", "a", "--model", "own/er", "--offline"], "hf download own/er"),
        (
            ["--prompt", "a", "--model", "one.json", "--revision", "main"],
            "revision is 'main', allowed: none with a record",
        ),
    ],
)
def test_bad_options_end_with_a_message(
    options: list[str], message: str, checkpoint: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
) -> None:  # fmt: skip
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    code, out, err = run(capsys, "--model", str(checkpoint), *options)
    assert (code, out) == (cli.USAGE_ERROR, "") and message in err


def test_a_missing_or_wrong_tokenizer_is_said(checkpoint: Path, tmp_path: Path) -> None:
    few = build_language_model(LanguageModelConfig(20, 1, (Mamba2Config(16, headdim=16),)), seed=0)
    with pytest.raises(HubError, match="wrong vocabulary: the tokenizer has 300 tokens, the model"):
        save_pretrained(few, tmp_path / "new", tokenizer=tiny_tokenizer())
    assert not (tmp_path / "new").exists()
    save_pretrained(few, tmp_path)
    with pytest.raises(HubError, match=r"holds no tokenizer, none of tokenizer\.json"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(HubError, match="holds no tokenizer that can be read"):
        load_tokenizer(tmp_path)
    with pytest.raises(HubError, match="the tokenizer has 300 tokens, the model 20"):
        load_tokenizer(checkpoint, vocab_size=20)


def test_the_command_line_is_read_without_torch() -> None:
    code = (
        "import sys; from lib.__main__ import parser; "
        "parser().parse_args(['generate', '--model', 'a']); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
