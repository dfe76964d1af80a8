"""What a store wrote into its audit log of the requests of a broker: when, after what, and which lease."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Asked:
    """One request, in seconds of the store's wall clock; `lease` is a hash of the id, empty without one."""

    at: float
    path: str
    lease: str


def of_the_broker(log: Path, *, since: float = 0.0) -> Iterator[Asked]:
    """Yield what was asked since the wall time `since`, without the requests of the store's administrator."""
    with log.open() as lines:
        for line in lines:
            entry: dict[str, Any] = json.loads(line)
            request = entry["request"]
            if entry["type"] != "request" or "root" in entry.get("auth", {}).get("policies", []):
                continue
            at = datetime.fromisoformat(entry["time"]).timestamp()
            if at >= since:
                yield Asked(at, request["path"], str((request.get("data") or {}).get("lease_id", "")))
