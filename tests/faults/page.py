"""Write `docs/reliability.md` out of the rows and of what the last run saw: `python -m tests.faults.page FILE`."""

import datetime as dt
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from tests.faults.figures import read_figures
from tests.faults.matrix import Fault, Measured, read_results, rows
from tests.faults.setting import FRESH_FOR, MAX_STALE, PER_SECOND

HEAD: Final = f"""\
# Reliability

Written by `make reliability`, which puts each fault on a real OpenBao and writes down what a whole broker and its
agents made of it. A test keeps the list of faults equal to the tests, and the promises are what the tests assert; the
figures are of one run and vary.

Three agents ask over mTLS, ten times a second each, for two secrets with `fresh_for` of {FRESH_FOR:.0f} s and
`max_stale` of {MAX_STALE / 3600:.0f} h, before, during and after each fault. Between broker and store is a relay that
makes the faults of the line. The store's time-outs are 1 s, its budget is {PER_SECOND} requests a
second (`requests_per_second`), it is probed each second while it is away (`probe_seconds`, 5 by default), and readiness
looks at it each second instead of each five.

## What holds for every fault

- No agent gets an error, a wrong value or an old one that is not marked `stale`, inside `max_stale`, except what the
  row says.
- What was never read, and what is past its `max_stale`, is `unavailable` with `Retry-After`, at once or after one
  time-out; nothing old is made up.
- No second has more requests to the store than its budget, and 2, 5 and 10 s have no more than as many seconds' worth,
  by the store's own logs and by the relay.
- `/readyz` and the metrics say what is wrong while it is, where the store as a whole is concerned, and that all is well
  afterwards; all heals without a hand. The metrics count exactly what the agents were told.
- Each answer has its record in the audit trail, and `broker audit verify` finds nothing.

## Who counted the requests

- *Attempts* are counted by the relay: every request that the broker sent, whatever became of it, and every connection
  that was refused or given up in TLS.
- *Answered* is what the store itself logs (`log_requests_level`): every HTTP request that came to it and was answered,
  probes included, once for a cluster whose standby passed it on to the leader.
- *Audited* is what stands in the store's audit log: every request that came to its core, with a token or without,
  answered or refused, logins too; not in it are the probes (`sys/health`, `sys/seal-status`, `sys/leader`), which are
  answered without it, what a sealed store refuses, and a quota's 429 unless `enable_rate_limit_audit_logging` is on, as
  it is here.
"""
_PROMISED: Final = ("fault", "how it is made", "what agents see", "heals within")
_MEASURED: Final = (
    "lasted",
    "`ok` / `stale` / refused",
    "failed",
    "slowest answer",
    "attempts / answered / audited",
    "peak a second at the store",
    "healed",
    "not in the store's logs",
)


def page(measured: Mapping[str, Measured], day: dt.date) -> str:
    """Return the page; every row has to be measured."""
    promised = rows()
    missing = [row.name for row in promised if row.name not in measured]
    if missing:
        raise SystemExit(f"not measured: {', '.join(missing)}; run: make reliability")
    return "\n".join(
        [
            HEAD,
            "## The faults, and what is promised",
            "",
            *_table(_PROMISED, [promise_of(row) for row in promised]),
            "",
            f"## As measured on {day.isoformat()}",
            "",
            "From the begin of the fault until all was fresh and ready. `refused` are answers without a value that the",
            "row promises. A store that is dead or stopped logs nothing meanwhile; one that was stopped answers late.",
            "",
            *_table(
                ("fault", *_MEASURED), [(row.name, *_figures(measured[row.name]), row.unlogged) for row in promised]
            ),
            "",
            "## Under many agents",
            "",
            *_table(
                ("what", "promised", "as measured"), [(one.name, one.promised, one.seen) for one in read_figures()]
            ),
            "",
        ]
    )


def promise_of(row: Fault) -> tuple[str, ...]:
    """Return the cells of a row that are asserted."""
    return row.name, row.made, row.agents, f"{row.heals_within:.0f} s"


def _figures(one: Measured) -> tuple[str, ...]:
    return (
        f"{one.lasted:.1f} s",
        f"{one.fresh} / {one.stale} / {one.refused}",
        str(one.failed),
        f"{one.slowest * 1000:.0f} ms",
        f"{one.attempts} / {one.answered} / {one.audited}",
        str(one.peak),
        f"{one.healed:.1f} s",
    )


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *lines)]


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(page(read_results(), dt.datetime.now(dt.UTC).date()))
