"""``python -m lib generate``: text from a checkpoint, printed as it is made."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument("--model", required=True, metavar="PATH_OR_ID",
                        help="a folder with config.json, a hub id such as "
                        "state-spaces/mamba-130m-hf, or the record (.json) of a language model "
                        "that `run` trained here")  # fmt: skip
    parser.add_argument("--prompt", help="the text to go on from")
    asks = "ask for prompts, each a text of its own; an empty line ends"
    parser.add_argument("--interactive", action="store_true", help=asks)
    parser.add_argument("--max-tokens", type=int, default=100, metavar="N")
    parser.add_argument("--temperature", type=float, default=0.0, help="0 (the default): greedy")
    parser.add_argument("--top-k", type=int, metavar="K")
    parser.add_argument("--top-p", type=float, default=1.0, metavar="P")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--revision", help="of a hub repository: branch, tag or commit")
    parser.add_argument("--offline", action="store_true", help="ask no hub, only its downloads")


def main(arguments: argparse.Namespace) -> int:
    """Load, then write to standard output; what is not the text goes to standard error.

    Raises:
        ValueError: bad options, prompt or checkpoint.
        StoreError, TextUnavailable: see :func:`from_record`.
    """
    # here, since the command line's other commands need no torch
    from lib.models.hub import fetch, load_causal_lm, load_tokenizer, stop_tokens
    from lib.models.sampling import SamplingConfig
    from lib.models.text import stream_text
    from lib.runner import choose_device

    if arguments.prompt is None and not arguments.interactive:
        raise ValueError("give --prompt TEXT, or --interactive to be asked for prompts")
    # before a checkpoint is loaded for nothing
    if arguments.max_tokens < 1:
        raise ValueError(f"max-tokens is {arguments.max_tokens}, allowed: at least 1")
    sampling = SamplingConfig(
        arguments.temperature, arguments.top_k, arguments.top_p, arguments.seed
    )
    device = choose_device(arguments.device)
    if arguments.model.endswith(".json"):
        if arguments.revision is not None:
            raise ValueError(
                f"revision is {arguments.revision!r}, allowed: none with a record, which has one"
            )
        model, tokenizer = from_record(Path(arguments.model), device)
        stop: tuple[int, ...] = (tokenizer.eos_token_id,)
    else:
        folder = fetch(arguments.model, revision=arguments.revision, offline=arguments.offline)
        model = load_causal_lm(folder, device=device)
        tokenizer = load_tokenizer(folder, vocab_size=model.config.vocab_size)
        stop = stop_tokens(folder)

    def write(prompt: str) -> None:
        try:
            prompt.encode("utf-8")
        except UnicodeEncodeError as error:
            raise ValueError(f"prompt is {prompt!r}, allowed: text in UTF-8") from error
        begun, written = time.perf_counter(), 0
        text = stream_text(
            model, tokenizer, prompt, max_new_tokens=arguments.max_tokens, sampling=sampling,
            stop=stop,
        )  # fmt: skip
        print(prompt, end="", flush=True)
        for piece in text:
            print(piece, end="", flush=True)
            written += len(piece)
        print(flush=True)
        seconds = time.perf_counter() - begun
        print(f"[{written} characters in {seconds:.1f} s]", file=sys.stderr)

    if arguments.prompt is not None:
        write(arguments.prompt)
    while arguments.interactive:
        print("> ", end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline().rstrip("\n")
        if not line:
            break
        try:
            write(line)
        except ValueError as error:  # the next prompt may be a better one
            print(f"error: {error}", file=sys.stderr)
        except KeyboardInterrupt:  # ends this text, not the session
            print(file=sys.stderr)
    return 0


def from_record(path: Path, device: str) -> tuple[Any, Any]:
    """A language model that ``run`` has trained, of whatever architecture, and its tokenizer as
    transformers'. A record has no tokenizer: it is made from the cell's text again, or found beside
    the local runs.

    Raises:
        ValueError: no file; the record of something else, without weights, or of another tokenizer.
        StoreError: a damaged record.
        TextUnavailable: its text is not on this machine.
    """
    from lib.config import from_dict
    from lib.experiments._language import LanguageCell, open_data
    from lib.models.language_model import build_language_model
    from lib.store import read_record
    from lib.tasks.tokenizers import BPETokenizer, for_transformers
    from lib.training.checkpoints import load_checkpoint

    if not path.is_file():
        raise ValueError(f"model is {str(path)!r}, allowed: a record that is there")
    record = read_record(path)
    try:
        cell = from_dict(LanguageCell, record.config)
    except ValueError as error:
        raise ValueError(
            f"model is {path.name}, a record of {record.experiment}, allowed: that of a language "
            "model, such as stories.from_scratch trains"
        ) from error
    weights = record.weights_path()
    if weights is None:
        raise ValueError(
            f"model is {path.name}, which kept no weights, allowed: a record with weights; a run "
            "leaves such records here, published ones mostly have none"
        )
    tokenizer = open_data(cell.task).tokenizer
    trained_on = record.provenance.get("tokenizer")
    if not isinstance(tokenizer, BPETokenizer) or tokenizer.fingerprint != trained_on:
        raise ValueError(
            f"model is {path.name}, trained on tokens of {trained_on}, allowed: a model of byte "
            f"pairs that its text gives here; here they are {tokenizer.fingerprint}"
        )
    tensors, _ = load_checkpoint(weights)
    model = build_language_model(cell.model, seed=0, device=device)
    model.load_state_dict(tensors)
    return model.eval(), for_transformers(tokenizer)
