"""``python -m lib generate``: text from a checkpoint, printed as it is made."""

from __future__ import annotations

import argparse
import sys
import time


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument("--model", required=True, metavar="PATH_OR_ID",
                        help="a folder with config.json, or a hub id such as "
                        "state-spaces/mamba-130m-hf")  # fmt: skip
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
    """
    # here, since the command line's other commands need no torch
    import torch

    from lib.models.hub import fetch, load_causal_lm, load_tokenizer, stop_tokens
    from lib.models.sampling import SamplingConfig
    from lib.models.text import stream_text

    if arguments.prompt is None and not arguments.interactive:
        raise ValueError("give --prompt TEXT, or --interactive to be asked for prompts")
    # before a checkpoint is loaded for nothing
    sampling = SamplingConfig(
        arguments.temperature, arguments.top_k, arguments.top_p, arguments.seed
    )
    device = arguments.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    folder = fetch(arguments.model, revision=arguments.revision, offline=arguments.offline)
    model = load_causal_lm(folder, device=device)
    tokenizer = load_tokenizer(folder, vocab_size=model.config.vocab_size)

    def write(prompt: str) -> None:
        begun, written = time.perf_counter(), 0
        text = stream_text(
            model, tokenizer, prompt, max_new_tokens=arguments.max_tokens, sampling=sampling,
            stop=stop_tokens(folder),
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
