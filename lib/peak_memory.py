"""The most memory that some work took, on a GPU or on a processor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

PROCESS = Path("/proc/self")  # Linux alone has it


class DeviceMemory:
    """Counts what this process's tensors take on a GPU, from where it is made.

    Args:
        device: a torch device.
    """

    def __init__(self, device: Any) -> None:
        self.device = device
        if device.type == "cuda":
            import torch

            torch.cuda.reset_peak_memory_stats(device)

    def bytes(self) -> int | None:
        """The peak so far; None on a processor, where tensors are not counted."""
        if self.device.type != "cuda":
            return None
        import torch

        return torch.cuda.max_memory_allocated(self.device)


class PeakMemory(DeviceMemory):
    """The same, and on a processor what the process as a whole had in memory, its libraries
    included; None where the system does not let the count start again."""

    def __init__(self, device: Any) -> None:
        super().__init__(device)
        self.counts = device.type != "cuda"
        if not self.counts:
            return
        try:
            (PROCESS / "clear_refs").write_text("5")  # the kernel's name for "start the peak again"
        except OSError:
            self.counts = False

    def bytes(self) -> int | None:
        """The peak so far."""
        if not self.counts:
            return super().bytes()
        for line in (PROCESS / "status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
        return None
