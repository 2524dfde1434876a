"""What ``python -m lib run`` takes and how it ends, for the command line and for plans of many."""

from __future__ import annotations

import argparse

from lib.experiments import PINNED, PROFILES

FAILED = 1
USAGE_ERROR = 2
STOPPED = 3  # the budget was spent, or trainings given up; the same command goes on


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the experiment and all options of a run."""
    profiles = ", ".join((*PROFILES, PINNED))
    parser.add_argument("experiment")
    parser.add_argument("--profile", default="quick", help=f"{profiles} (default: %(default)s)")
    parser.add_argument("--select", action="append", default=[], metavar="NAME=VALUE",
                        help="these cells alone; 'NAME=A|B' for either value; given several times, "
                        "all must hold")  # fmt: skip
    parser.add_argument("--shard", metavar="I/N", help="the I-th of N parts of these")
    parser.add_argument("--budget", metavar="TIME", help="stop cleanly after 90s, 8m, 1.5h")
    add_whole(parser)
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--backend", default="auto", help="auto or the name of a backend")
    add_prefer(parser)
    parser.add_argument("--compile", default="auto", choices=["auto", "on", "off"])
    parser.add_argument("--retry-failed", action="store_true")
    parser.add_argument("--fresh", action="store_true",
                        help="run again whatever records and checkpoints there are")  # fmt: skip
    parser.add_argument("--checkpoint-every", type=float, default=60.0, metavar="SECONDS",
                        help="between checkpoints of a cell (default: %(default)g)")  # fmt: skip
    parser.add_argument("--ensemble", type=int, metavar="N",
                        help="train at most N runs at once (default: as many as fit)")  # fmt: skip
    parser.add_argument("--abreast", type=int, metavar="N",
                        help="train groups of different models beside each other, up to N runs in "
                        "all (default: on a GPU as many as the experiment says)")  # fmt: skip


def add_whole(parser: argparse.ArgumentParser) -> None:
    """Add what ``runner.run`` calls whole."""
    parser.add_argument("--whole", action="store_true",
                        help="give up, with a checkpoint, a training that by the pace of its steps "
                        "would not end within the budget, and begin what comes next")  # fmt: skip


def add_prefer(parser: argparse.ArgumentParser) -> None:
    """Add what :func:`lib.ops.backends.preferences` reads."""
    parser.add_argument("--prefer", action="append", default=[], metavar="OP=BACKEND",
                        help="take this backend where it can serve, "
                        "as linear=tensor_cores")  # fmt: skip
