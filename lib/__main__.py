"""The command line: ``python -m lib COMMAND``; every step of the book is one plain command."""

from __future__ import annotations

import argparse
import contextlib
import errno
import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lib import provenance
from lib.run_options import FAILED, STOPPED, USAGE_ERROR, add_arguments, add_whole
from lib.store import Store, StoreError

INTERRUPTED = 128 + signal.SIGINT  # exit status, as a shell has it
# what a machine lacks, and says so: a backend, a text, tags, a tagger
MISSING = ("BackendError", "TextUnavailable", "TagsUnavailable", "MissingTagger")


def _print_to_nobody() -> None:
    """From here on what is printed goes nowhere: whoever reads has enough, as `head` has."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _say(line: str) -> None:
    """Print a line; if nobody reads any more, what runs goes on and is kept all the same."""
    try:
        print(line, flush=True)
    except BrokenPipeError:
        _print_to_nobody()


def _run(arguments: argparse.Namespace) -> int:
    from lib import runner

    with runner.preferring(arguments.prefer, arguments.device):
        summary = runner.run(
            arguments.experiment,
            arguments.profile,
            root=arguments.root,
            select=arguments.select,
            shard=arguments.shard,
            budget=arguments.budget,
            device=arguments.device,
            backend=arguments.backend,
            compile={"auto": None, "on": True, "off": False}[arguments.compile],
            retry_failed=arguments.retry_failed,
            fresh=arguments.fresh,
            checkpoint_every=arguments.checkpoint_every,
            ensemble=arguments.ensemble,
            abreast=arguments.abreast,
            whole=arguments.whole,
            say=_say,
        )
    _say(f"{len(summary.done)} done, {len(summary.failed)} failed, {summary.left} left")
    if summary.failed:
        return FAILED
    return STOPPED if summary.left else 0


def _queue(arguments: argparse.Namespace) -> int:
    from lib import mps, plan, runner

    jobs = plan.read(arguments.plan)
    if arguments.pack is not None:
        plan.check_target(arguments.pack)
    seconds = runner.parse_seconds(arguments.budget)
    with contextlib.ExitStack() as services:
        environment = services.enter_context(mps.shared()) if arguments.mps else None
        found = plan.work(
            jobs, arguments.processes, seconds, whole=arguments.whole, root=arguments.root,
            environment=environment, say=_say,
        )  # fmt: skip
    _say(
        f"{len(found.done)} lines done, {len(found.failed)} failed, {len(found.stopped)} stopped, "
        f"{len(found.left)} not begun"
    )
    if arguments.pack is not None:
        runs = Store.at(arguments.root).local
        count = plan.pack(runs, arguments.pack, arguments.checkpoints)
        _say(f"packed: {count} files" if count else f"packed: nothing, {runs} has no record")
    if found.failed:
        return FAILED
    return STOPPED if found.stopped or found.left else 0


def _list(arguments: argparse.Namespace) -> int:
    from lib import runner

    store = Store.at(arguments.root)
    rows = runner.status(arguments.root, store)
    for problem in store.problems:
        print(f"note: {problem}", file=sys.stderr)
    if arguments.json:
        keys = ("experiment", "profile", "done", "total", "failed")
        named = {"done": "cells done"}
        print(json.dumps([{named.get(k, k): row[k] for k in keys} for row in rows], indent=1))
        return 0
    _table(
        ["experiment", "profile", "done", "failed", "title"],
        [[r["experiment"], r["profile"], f"{r['done']}/{r['total']}", r["failed"], r["title"]]
         for r in rows],
    )  # fmt: skip
    return 0


def _notebook(arguments: argparse.Namespace) -> int:
    from lib import notebook

    if arguments.help_parameters:
        for name, fact in notebook.parameters_of(arguments.notebook).items():
            print(f"{name}: {fact['type']} = {fact['default']}  {fact['help']}".rstrip())
        return 0
    output = notebook.execute(
        arguments.notebook,
        dict(arguments.parameters),
        arguments.output,
        root=arguments.root,
        timeout=arguments.timeout,
    )
    print(output)
    return 0


def _publish(arguments: argparse.Namespace) -> int:
    from lib import publishing

    for line in publishing.publish(
        arguments.root, arguments.experiment, arguments.profile, arguments.select, arguments.weights
    ):
        print(line)
    return 0


def _verify(arguments: argparse.Namespace) -> int:
    from lib import publishing

    checks = publishing.verify(arguments.root, arguments.experiment, arguments.models)
    for check in checks:
        print(f"{'ok  ' if check.ok else 'FAIL'} {check.what}: {check.detail}")
    bad = sum(not check.ok for check in checks)
    print(f"{len(checks) - bad} of {len(checks)} checks hold")
    return FAILED if bad else 0


def _report(arguments: argparse.Namespace) -> int:
    from lib import claims, progress

    store = Store.at(arguments.root)
    rows = claims.report(arguments.root, store)
    for problem in store.problems:
        progress.note(problem)
    if arguments.json:
        print(json.dumps([_reported(row) for row in rows], indent=1))
        return 0
    _table(
        ["claim", "published", "ours", "seeds", "verdict"],
        [
            [row["id"], row["value_text"], _ours(row), f"{row['seeds']}/{row['expected_seeds']}",
             row["verdict"] + (" (scaled)" if row["scaled"] else "")]
            for row in rows
        ],
    )  # fmt: skip
    return 0


def _reported(row: dict[str, Any]) -> dict[str, Any]:
    names = {
        "id": "claim id", "chapter": "chapter", "source": "source", "paper_value": "paper value",
        "our_mean": "our mean", "interval": "interval", "seeds": "seeds", "verdict": "verdict",
        "scaled": "scaled", "records": "records",
    }  # fmt: skip
    return {name: row[key] for key, name in names.items()}


def _ours(row: dict[str, Any]) -> str:
    if row["our_mean"] is None:
        return "-"
    mean = f"{row['our_mean']:.3f}"
    return (
        f"{mean} [{row['interval'][0]:.3f}, {row['interval'][1]:.3f}]" if row["interval"] else mean
    )


def _bench(arguments: argparse.Namespace) -> int:
    from lib.bench import cli

    return cli.bench(arguments)


def _generate(arguments: argparse.Namespace) -> int:
    from lib import generate

    return generate.main(arguments)


def _book(arguments: argparse.Namespace) -> int:
    from lib import book

    return book.main(arguments.root)


def _table(header: list[str], rows: list[list[Any]]) -> None:
    texts = [header, *[[str(item) for item in row] for row in rows]]
    widths = [max(len(row[i]) for row in texts) for i in range(len(header))]
    for row in texts:
        print(
            "  ".join(item.ljust(width) for item, width in zip(row, widths, strict=True)).rstrip()
        )


def parser() -> argparse.ArgumentParser:
    """The command line's parser."""
    main = argparse.ArgumentParser(prog="python -m lib", description=__doc__)
    main.add_argument("--root", type=Path, default=provenance.ROOT, help=argparse.SUPPRESS)
    main.add_argument("--traceback", action="store_true", help="show where an error came from")
    commands = main.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, action: Any, text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(action=action)
        return sub

    sub = command("list", _list, "experiments, cells done and in all, by profile")
    sub.add_argument("--json", action="store_true", help="for scripts")

    sub = command("run", _run, "run the cells of an experiment that have no record yet")
    add_arguments(sub)

    sub = command("queue", _queue, "work off a file of runs, several at once, within a time")
    sub.add_argument("plan", type=Path, help="a line a run: what follows `python -m lib run`")
    sub.add_argument("--processes", type=int, default=2, metavar="N",
                     help="runs at once (default: %(default)s)")  # fmt: skip
    sub.add_argument("--budget", metavar="TIME", help="of all: stop cleanly after 90s, 8m, 1.5h")
    add_whole(sub)
    sub.add_argument("--mps", action="store_true",
                     help="kernels of all at once, by NVIDIA's multi-process service")  # fmt: skip
    sub.add_argument("--pack", type=Path, metavar="FILE", help="then write records to a .tar.gz")
    sub.add_argument("--checkpoints", action="store_true", help="pack unfinished runs too")

    sub = command("notebook", _notebook, "run a notebook with papermill, guarded")
    sub.add_argument("notebook", type=Path)
    sub.add_argument("-p", dest="parameters", nargs=2, action="append", default=[],
                     metavar=("NAME", "VALUE"))  # fmt: skip
    sub.add_argument("-o", "--output", type=Path)
    sub.add_argument("--timeout", type=float, default=900.0, metavar="SECONDS")
    sub.add_argument("--help-parameters", action="store_true", help="list the parameters")

    sub = command("publish", _publish, "copy finished records to book/results")
    sub.add_argument("experiment")
    sub.add_argument("--profile", default="paper", help="default: %(default)s")
    sub.add_argument("--select", action="append", default=[], metavar="NAME=VALUE")
    sub.add_argument("--weights", action="append", default=[], metavar="NAME=VALUE",
                     help="keep the weights of the cells that this selects")  # fmt: skip

    sub = command("verify", _verify, "check published records, weights and pinned runs")
    sub.add_argument("experiment", nargs="?", help="one experiment only")
    sub.add_argument("--models", type=int, metavar="N",
                     help="measure at most N models of an experiment again")  # fmt: skip

    sub = command("report", _report, "claims and verdicts")
    sub.add_argument("--json", action="store_true", help="for scripts")

    from lib import generate
    from lib.bench import cli

    sub = command("bench", _bench, "measure speed beside that of others; keep records")
    cli.add_arguments(sub)

    sub = command("generate", _generate, "text from a model of this machine or the hub")
    generate.add_arguments(sub)

    command("book", _book, "build the HTML from executed notebooks")
    return main


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 0 well, 1 failed, 2 misused, 3 budget spent or runs
    given up, 130 interrupted."""
    from lib.claims import ClaimError
    from lib.notebook import NotebookError, NotebookFailed
    from lib.runner import RunError

    arguments = parser().parse_args(argv)
    if os.environ.get("MAMBA_BOOK_RUNS"):  # processes begun here work in other folders
        os.environ["MAMBA_BOOK_RUNS"] = os.path.abspath(os.environ["MAMBA_BOOK_RUNS"])
    try:
        status = int(arguments.action(arguments))
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        _print_to_nobody()
        return FAILED
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from what is kept", file=sys.stderr)
        return INTERRUPTED
    except (ValueError, OSError, ClaimError, NotebookError, RunError, StoreError) as error:
        if arguments.traceback:
            raise
        print(f"error: {error}", file=sys.stderr)
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO)
        return FAILED if full or isinstance(error, NotebookFailed) else USAGE_ERROR
    except RuntimeError as error:
        # by name, since their modules import what only some commands need
        if arguments.traceback or type(error).__name__ not in MISSING:
            raise
        print(f"error: {error}", file=sys.stderr)
        return USAGE_ERROR


if __name__ == "__main__":
    # a cluster's end, or `timeout`: as an interrupt does, it ends what was started here
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    sys.exit(main())
