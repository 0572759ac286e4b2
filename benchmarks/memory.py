"""How much memory is free, and whether a larger batch will fit."""

from dataclasses import dataclass, field
from pathlib import Path

MEMINFO = Path("/proc/meminfo")


def available_bytes() -> int | None:
    """What the kernel says that a program can still have without swapping; None where it does not say."""
    for line in MEMINFO.read_text(encoding="ascii").splitlines() if MEMINFO.is_file() else ():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


@dataclass
class Growth:
    """Peak memory of one way by batch size, as far as it was measured."""

    peaks: dict[int, int] = field(default_factory=dict[int, int])

    def add(self, batch: int, peak_bytes: int) -> None:
        self.peaks[batch] = peak_bytes

    def predict(self, batch: int) -> int | None:
        """The peak of a larger batch, by the line through the last two; None where fewer are known."""
        known = sorted(self.peaks)
        if len(known) < 2:
            return None
        before, last = known[-2:]
        slope = max(0.0, (self.peaks[last] - self.peaks[before]) / (last - before))
        return round(self.peaks[last] + slope * (batch - last))
