"""NVIDIA's multi-process service: kernels of several processes on one GPU at the same time.

Without it a GPU gives each process slices of time, in which a small kernel leaves most of the
device idle. The service is a process of the user's own; it changes no setting of the device and
ends with the block that started it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lib import progress

CONTROL = "nvidia-cuda-mps-control"  # comes with the driver
PATIENCE = 60.0  # seconds to start, and to end


@contextmanager
def shared() -> Iterator[dict[str, str]]:
    """Start the service; yields what the environment of the processes that share the GPU must say.

    Raises:
        ValueError: it is not installed, or does not start.
    """
    control = shutil.which(CONTROL)
    if control is None:
        raise ValueError(f"--mps needs {CONTROL}, which comes with NVIDIA's driver; there is none")
    with tempfile.TemporaryDirectory(prefix="mps-") as folder:  # short: sockets lie in it
        places = {
            "CUDA_MPS_PIPE_DIRECTORY": str(Path(folder) / "pipe"),
            "CUDA_MPS_LOG_DIRECTORY": str(Path(folder) / "log"),
        }
        for place in places.values():
            Path(place).mkdir()
        _said(control, places, "-d")
        try:
            yield places
        finally:
            try:
                _said(control, places, text="quit\n")
            except ValueError as error:  # what ran is done, and whoever waits for it must have it
                progress.note(str(error))


def _said(control: str, places: dict[str, str], *arguments: str, text: str | None = None) -> None:
    # into files: the service keeps what it was started with open, and a pipe would never end
    with tempfile.TemporaryFile("w+") as said:
        try:
            done = subprocess.run(
                [control, *arguments], env={**os.environ, **places}, input=text, text=True,
                stdout=said, stderr=subprocess.STDOUT, timeout=PATIENCE, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise ValueError(f"{CONTROL} did not answer within {PATIENCE:g} s") from error
        if done.returncode:
            said.seek(0)
            raise ValueError(f"{CONTROL} failed: {said.read().strip() or done.returncode}")
