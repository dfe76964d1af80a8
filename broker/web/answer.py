"""What answers are made of: JSON that nobody may keep, and times."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from aiohttp import web


def json_answer(document: Mapping[str, Any], *, status: int = 200) -> web.Response:
    """Return the answer that says `document`."""
    return web.Response(status=status, body=json.dumps(document).encode("ascii"), headers=json_headers())


def json_headers() -> Mapping[str, str]:
    """Return the headers of a JSON answer that must not be kept."""
    return {"Content-Type": "application/json", "Cache-Control": "no-store"}


# Thousands of answers tell the same times. The process may keep it: the result hangs on the argument alone.
@lru_cache(maxsize=4096)
def rfc3339(seconds: float) -> str:
    """Return a wall time as RFC 3339 in UTC, to the millisecond."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
