"""Progress bars that stay out of logs, notebooks' files and tests."""

from __future__ import annotations

import os
import sys
from typing import Any

from tqdm.auto import tqdm
from tqdm.std import tqdm as text_tqdm


def headless() -> bool:
    """True where nobody watches: ``MAMBA_BOOK_HEADLESS`` set, or no terminal and no notebook."""
    flag = os.environ.get("MAMBA_BOOK_HEADLESS")
    if flag is not None:
        return flag not in ("", "0")
    return not (in_notebook() or sys.stderr.isatty())


def in_notebook() -> bool:
    """Whether this process is a Jupyter kernel."""
    shell = sys.modules.get("IPython")
    instance = shell.get_ipython() if shell else None
    return instance is not None and instance.__class__.__name__ == "ZMQInteractiveShell"


def for_a_page() -> bool:
    """Whether what is printed becomes part of a page: a notebook that runs headless."""
    return in_notebook() and headless()


def bar(total: int, what: str, start: int = 0, quiet: bool | None = None) -> Any:
    """A tqdm bar over `total` units that is silent when headless (or `quiet`)."""
    silent = headless() if quiet is None else quiet
    kind = text_tqdm if silent else tqdm  # the notebook bar draws its widget even when disabled
    return kind(total=total, initial=start, desc=what, disable=silent, leave=False)


def note(text: str) -> None:
    """Say something of this one execution to whoever watches or keeps a log; a notebook that runs
    headless keeps silent, for its page would show it to all readers."""
    if not for_a_page():
        print(f"note: {text}", file=sys.stderr)


def quiet_transformers() -> None:
    """Turn the bars of transformers off where nobody watches: in a notebook that runs headless they
    would leave widgets, which need scripts from elsewhere to be drawn."""
    if headless():
        import transformers

        transformers.logging.disable_progress_bar()
