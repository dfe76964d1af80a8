"""How leases end, and how many there may be."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseSettings:
    """How leases end.

    Attributes:
        overlap_seconds: How long a lease lives on after another has replaced it.
        revoke_at_stop: Whether the end of the broker is the end of its leases.
        stop_seconds: How long the broker may take to revoke them then.
        max_per_identity: How many leases are handed out to one identity at once.
        refused_seconds: How long it is remembered that a back end refuses an identity a lease.

    """

    overlap_seconds: float = 300.0
    revoke_at_stop: bool = True
    stop_seconds: float = 10.0
    max_per_identity: int = 256
    refused_seconds: float = 3.0
