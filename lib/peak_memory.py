"""The most memory that some work took, on a GPU or on a processor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

PROCESS = Path("/proc/self")  # Linux alone has it


class PeakMemory:
    """Counts from where it is made.

    On a GPU: what its tensors took, of this process. On a processor: what the process as a whole
    had in memory, its libraries included; None where the system does not let the count start again.

    Args:
        device: a torch device.
    """

    def __init__(self, device: Any) -> None:
        self.device, self.counts = device, True
        if device.type == "cuda":
            import torch

            torch.cuda.reset_peak_memory_stats(device)
            return
        try:
            (PROCESS / "clear_refs").write_text("5")  # the kernel's name for "start the peak again"
        except OSError:
            self.counts = False

    def bytes(self) -> int | None:
        """The peak so far."""
        if self.device.type == "cuda":
            import torch

            return torch.cuda.max_memory_allocated(self.device)
        if not self.counts:
            return None
        for line in (PROCESS / "status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
        return None
