"""`broker serve` whose wall clock is off by as many seconds as the file `WALL_SHIFT` says; 0 without a file.

Run as `python -m tests.shifting serve --config FILE`. The steady clock goes on as it is, as on a machine whose
time somebody sets. With `TIME_SHIFT` in place of `WALL_SHIFT` both clocks are off, as if so much time had passed.
"""

import os
import sys
import time
from pathlib import Path

from broker.__main__ import main
from broker.clock import SystemClock

_WALL, _BOTH = (Path(os.environ[name]) if name in os.environ else None for name in ("WALL_SHIFT", "TIME_SHIFT"))


def shifted(_clock: SystemClock) -> float:
    return time.time() + _seconds(_WALL or _BOTH)


def advanced(_clock: SystemClock) -> float:
    return time.monotonic() + _seconds(_BOTH)


def _seconds(file: Path | None) -> float:
    try:
        return float(file.read_text()) if file else 0.0
    except FileNotFoundError:
        return 0.0


if __name__ == "__main__":
    SystemClock.now = shifted  # type: ignore[method-assign]  # The point of this module.
    SystemClock.monotonic = advanced  # type: ignore[method-assign]  # As above.
    sys.exit(main())
