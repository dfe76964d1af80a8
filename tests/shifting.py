"""`broker serve` whose wall clock is off by as many seconds as the file `WALL_SHIFT` says; 0 without a file.

Run as `python -m tests.shifting serve --config FILE`. The steady clock goes on as it is, as on a machine whose
time somebody sets.
"""

import os
import sys
import time
from pathlib import Path

from broker.__main__ import main
from broker.clock import SystemClock

_SHIFT = Path(os.environ["WALL_SHIFT"])


def shifted(_clock: SystemClock) -> float:
    try:
        return time.time() + float(_SHIFT.read_text())
    except FileNotFoundError:
        return time.time()


if __name__ == "__main__":
    SystemClock.now = shifted  # type: ignore[method-assign]  # The point of this module.
    sys.exit(main())
