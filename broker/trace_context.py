"""The trace that a request belongs to: W3C Trace Context, `traceparent` (https://www.w3.org/TR/trace-context/).

The broker takes the header, puts the trace's id into its log and its trail, and passes it on to the store. What
is malformed is ignored and shown nowhere. `tracestate` ends here: it is a vendor's, and the store is another
side of a trust boundary.
"""

import re
from collections.abc import Sequence
from contextvars import Context, ContextVar, copy_context
from dataclasses import dataclass
from typing import Final

HEADER: Final = "traceparent"
# §3.2: version, trace-id, parent-id, flags, all in lower case. A version to come may have more behind a dash (§3.2.4).
_TRACEPARENT: Final = re.compile("([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.DOTALL)
_KNOWN_VERSION: Final = "00"
_NO_VERSION: Final = "ff"
_SAMPLED: Final = 1
# More is no trace of anybody, and would be carried to the store with every read.
_MAX_CHARACTERS: Final = 512


@dataclass(frozen=True, slots=True)
class TraceContext:
    """A place in a trace, ids in lower-case hex."""

    trace_id: str
    parent_id: str
    sampled: bool

    @property
    def header(self) -> str:
        """Return it as a `traceparent` of the version that this module speaks."""
        return f"{_KNOWN_VERSION}-{self.trace_id}-{self.parent_id}-{int(self.sampled):02x}"


# A context variable, because a task begun for a request inherits it: a read that many wait for carries the trace
# of the one that began it.
CURRENT: Final[ContextVar[TraceContext | None]] = ContextVar("trace", default=None)


def parse_traceparent(lines: Sequence[str]) -> TraceContext | None:
    """Return the place that the header names, None when it is absent, malformed, or stands more than once."""
    if len(lines) != 1 or len(lines[0]) > _MAX_CHARACTERS:
        return None
    match = _TRACEPARENT.fullmatch(lines[0])
    if match is None:
        return None
    version, trace_id, parent_id, flags, more = match.groups()
    if version == _NO_VERSION or (version == _KNOWN_VERSION and more is not None):
        return None
    # All zeros are the invalid ids (§3.2.2.3, §3.2.2.4).
    if not trace_id.strip("0") or not parent_id.strip("0"):
        return None
    return TraceContext(trace_id, parent_id, bool(int(flags, 16) & _SAMPLED))


def outgoing() -> dict[str, str]:
    """Return the header of a request that is sent because of the current one."""
    trace = CURRENT.get()
    return {} if trace is None else {HEADER: trace.header}


def audit_details() -> dict[str, str | int]:
    """Return what the trail keeps of the current trace."""
    trace = CURRENT.get()
    return {} if trace is None else {"trace_id": trace.trace_id}


def untraced() -> Context:
    """Return a context for a task that outlives the request in which it begins."""
    context = copy_context()
    context.run(CURRENT.set, None)
    return context
