"""Whether others took the processors from a process: what is said of time is said of a machine that has some."""

import os
import time
from pathlib import Path
from typing import Final

_TICKS: Final = os.sysconf("SC_CLK_TCK")


class Processor:
    """What a process and everybody else got of the processors since this was made."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._began = time.monotonic()
        self._used, self._idle = self._look()

    def used(self) -> float:
        """Return the seconds of a processor that the process has used."""
        return self._look()[0] - self._used

    def was_taken(self) -> bool:
        """Tell whether others kept the process waiting: it got less than a quarter of one, and hardly any was idle."""
        used, idle = self._look()
        spent = time.monotonic() - self._began
        return used - self._used < 0.25 * spent and idle - self._idle < 0.1 * spent * (os.cpu_count() or 1)

    def _look(self) -> tuple[float, float]:
        fields = Path(f"/proc/{self._pid}/stat").read_text().rpartition(")")[2].split()
        idle = Path("/proc/stat").read_text().split("\n", 1)[0].split()[4]
        return (int(fields[11]) + int(fields[12])) / _TICKS, int(idle) / _TICKS
