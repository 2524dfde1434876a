"""Set up before torch is imported: one thread a worker, no hub, quiet progress bars."""

import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("USE_HUB_KERNELS", "NO")
os.environ.setdefault("MAMBA_BOOK_HEADLESS", "1")

if not Path("/dev/nvidiactl").exists():
    # no GPU: Triton's kernels are run by its interpreter, which must be said before it is imported
    os.environ.setdefault("TRITON_INTERPRET", "1")

import pytest
from hypothesis import settings

# one slow example on a shared machine is no failure; the same examples on every run
settings.register_profile("book", deadline=None, derandomize=True, max_examples=25)
settings.load_profile("book")

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def root() -> Path:
    """Root of the checkout."""
    return ROOT
