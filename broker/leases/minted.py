"""What a mint makes of a lease: its record before, and what is known of it after."""

from dataclasses import replace

from broker.clock import Clock
from broker.leases.held import Held, LeaseKey
from broker.leases.record import LeaseReason, LeaseRecord, LeaseState, new_lease_id
from broker.providers.base import Parent
from broker.reference import spell
from broker.secret import Lease, Reading


def begun(key: LeaseKey, parent: Parent, *, clock: Clock) -> Held:
    """Return a lease that is about to be minted under `parent`."""
    now = clock.now()
    record = LeaseRecord(
        id=new_lease_id(),
        provider=key.source.scheme,
        source=spell(key.source, (), None),
        identity_kind=key.kind,
        identity=key.name,
        state=LeaseState.MINTING,
        reason=LeaseReason.NONE,
        handle="",
        parent=parent.accessor,
        renewable=False,
        created=now,
        expires=now,
        due=None,
    )
    return Held(record=record, key=key, born=clock.monotonic())


def held_by(record: LeaseRecord, lease: Lease | None) -> LeaseRecord:
    """Return `record` with that by which `lease` is held, which was minted under its parent."""
    if lease is None:
        return replace(record, handle="", parent="")
    # What does not hang on its parent outlives it, and one that nothing hangs on ends soon by itself.
    return replace(record, handle=lease.handle, parent=record.parent if lease.hangs else "")


def end_of(held: Held, reading: Reading) -> float | None:
    """Return the steady end of what was minted; None when it has none, or is none that lives on."""
    ends = []
    if reading.lease is not None:
        ends.append(held.born + reading.lease.seconds)
    if reading.not_after is not None:
        ends.append(held.born + reading.not_after - held.record.created)
    return min(ends, default=None)


def filled(held: Held, reading: Reading, ends: float) -> float:
    """Let `held` be the lease of `reading`, which ends at the steady time `ends`; return when to look after it."""
    lease = reading.lease
    held.reading = reading
    held.seconds = ends - held.born
    renewable = lease is not None and lease.renewable
    held.record = replace(
        held_by(held.record, lease),
        state=LeaseState.LIVE,
        renewable=renewable,
        expires=held.record.created + held.seconds,
    )
    return held.lives_until(ends, from_=held.born, last=not renewable)
