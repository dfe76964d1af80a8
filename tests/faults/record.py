"""What a store was asked, as it says itself: in its audit log, and in its own log of every HTTP request.

The audit log has what the store's core was asked, with a token or without, answered or refused: reads, logins,
look-ups. It has no `sys/health`, `sys/seal-status` and `sys/leader`, which are answered in front of the core, and
nothing that a sealed store refuses there; those are in the other log, as soon as they are answered.

A standby passes on what it may not answer itself, on behalf of the same client: then both nodes have it in their logs,
and it counts once.
"""

import json
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from tests.faults.asked import Asked
from tests.openbao import OpenBao

# Where the relay comes from, which tells the broker's requests from those of the test's administrator.
SOURCE: Final = "127.0.0.2"
_COMPLETED: Final = re.compile(
    rf"(\S+) \[INFO\] +core: completed_request: .*duration=(\d+)ms .*client_address={re.escape(SOURCE)}:(\d+) .*"
    r"request_path=/v1/(\S+) request_method=(\S+)"
)
# Both times of the log are whole milliseconds.
_ROUNDED: Final = 0.002


class StoreRecord:
    """Both logs of one store, or of the nodes of one, which have one audit log."""

    def __init__(self, *stores: OpenBao, audit_log: Path | None = None) -> None:
        """Read the logs of `stores`; `audit_log` is where the test keeps the audit log, if that is no plain file."""
        assert stores[0].audit_log is not None
        self._audit_log = audit_log or stores[0].audit_log
        self._logs = [store.log for store in stores]

    def audited(self) -> list[Asked]:
        """Return the requests of the broker in the audit log; never to be called while that is no file."""
        return sorted(_audited(self._audit_log, nodes=len(self._logs)), key=lambda one: one.at)

    def answered(self) -> list[Asked]:
        """Return every request of the broker that was answered, when it came."""
        answered = sorted((one for log in self._logs for one in _answered(log)), key=lambda one: one.came)
        return [
            Asked(one.came, one.method, one.path)
            for number, one in enumerate(answered)
            if not any(_passed_on(one, other, answered[:number]) for other in answered if other is not one)
        ]


def _audited(log: Path, *, nodes: int) -> Iterator[Asked]:
    # The request that each connection waits for: one that begins meanwhile is the same, at the other node.
    waiting: dict[int, str] = {}
    for line in log.read_text().splitlines():
        entry = json.loads(line)
        request = entry["request"]
        if request.get("remote_address") != SOURCE:
            continue
        port = request["remote_port"]
        if entry["type"] == "response":
            if waiting.get(port) == request["id"]:
                del waiting[port]
        elif port not in waiting:
            if nodes > 1:
                waiting[port] = request["id"]
            yield Asked(_steady(entry["time"]), request["operation"], request["path"])


@dataclass(frozen=True, slots=True)
class _Answered:
    came: float
    spent: int
    port: str
    method: str
    path: str

    @property
    def left(self) -> float:
        return self.came + self.spent / 1000


def _answered(log: Path) -> Iterator[_Answered]:
    for line in log.read_text(errors="replace").splitlines():
        if found := _COMPLETED.match(line):
            moment, milliseconds, port, path, method = found.groups()
            spent = int(milliseconds)
            yield _Answered(_steady(moment) - spent / 1000, spent, port, method, path)


def _passed_on(one: _Answered, other: _Answered, earlier: Sequence[_Answered]) -> bool:
    """Tell whether `one` is what the node that was asked `other` passed on to the leader while it answered."""
    return (
        (other.port, other.path) == (one.port, one.path)
        and other.came <= one.came + _ROUNDED
        and other.left >= one.left - _ROUNDED
        and (other.spent > one.spent or (other.spent == one.spent and other in earlier))
    )


def _steady(moment: str) -> float:
    return time.monotonic() - (time.time() - datetime.fromisoformat(moment).timestamp())
