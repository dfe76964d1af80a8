"""`broker serve` that looks at its dependencies every second, as the Prometheus of the walks looks at it.

Run as `python -m tests.runbooks.hurried serve --config FILE`; with `WALL_SHIFT`, by the clock of `tests.shifting`.
"""

import os
import sys

from broker import readiness
from broker.__main__ import main
from broker.clock import SystemClock

if __name__ == "__main__":
    readiness._PING_SECONDS = 1.0  # type: ignore[misc]  The point of this module.
    if "WALL_SHIFT" in os.environ:
        from tests.shifting import shifted

        SystemClock.now = shifted  # type: ignore[method-assign]  As there.
    sys.exit(main())
