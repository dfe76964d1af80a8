"""One walk along the chain of a trail: each record against the one before it, and what is found on the way."""

import json
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from broker.audit.chain import TrailRecord, genesis_hash, record_hash
from broker.audit.checkpoint import Checkpoint, VerifierKey
from broker.audit.event import EventKind, Outcome, rfc3339
from broker.errors import SettingsInvalidError


class Tampering(StrEnum):
    """What happened to a trail."""

    EDITED = "edited"
    REMOVED = "removed"
    REORDERED = "reordered"
    INSERTED = "inserted"
    CUT = "cut"
    REWRITTEN = "rewritten"
    KEY = "key"
    CHECKPOINT = "checkpoint"
    HEARTBEAT = "heartbeat"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong; `seq` is the first record that it is about, 0 for the trail as a whole."""

    what: Tampering
    seq: int
    detail: str


@dataclass(slots=True)
class Walk:
    """Where the walk along the chain is, and what it found.

    `shift` is by how much the numbers of the rows are ahead of those in the bodies, which changes when
    somebody removes or inserts a record and renumbers the rows behind it.
    """

    findings: list[Finding] = field(default_factory=list)
    trail_id: str = ""
    count: int = 0
    seq: int = 0
    prev: bytes = b""
    shift: int = 0
    # The record before was found out, so what this one says about it is no second finding.
    resync: bool = False
    good_anchor: int = 0
    # The records that say that nothing could be written before them, and so explain why nothing was signed.
    outages: list[int] = field(default_factory=list)
    time_ms: int = 0

    def find(self, what: Tampering, seq: int, detail: str) -> None:
        """Keep a finding about the record that is being taken."""
        self.findings.append(Finding(what, seq, detail))
        self.resync = True

    def step(self, record: TrailRecord, following: TrailRecord | None) -> None:
        """Take one record."""
        self.count += 1
        claim = _Claim.of(record)
        if self.count == 1:
            self._begin(record, claim)
        suspected, self.resync = self.resync, False
        if record.trail_id != self.trail_id:
            self.find(Tampering.INSERTED, record.seq, f"a record of another trail stands at {record.seq}")
            return
        if record.seq > self.seq + 1:
            self._gap(self.seq + 1, record.seq - 1)
            suspected = True
        if not claim.consistent:
            self._inconsistent(record, following)
        else:
            self._place(record, claim, following, suspected=suspected or self.resync)
        if (record.kind, record.outcome) == (EventKind.CHECKPOINT, Outcome.FAILURE):
            self.outages.append(record.seq)
        self.seq, self.prev, self.time_ms = record.seq, record.hash, record.time_ms

    def compare(self, anchors: dict[int, list[Checkpoint]]) -> None:
        """Compare the record that was just taken with the checkpoints of its size."""
        for anchor in anchors.get(self.seq, ()):
            if anchor.head == self.prev:
                self.good_anchor = self.seq
            elif not self.findings:
                where = f"{self.good_anchor + 1} to {self.seq}" if self.good_anchor + 1 < self.seq else str(self.seq)
                detail = f"a signed checkpoint gives record {self.seq} another hash: {where} was written again"
                self.find(Tampering.REWRITTEN, self.good_anchor + 1, detail)

    def _begin(self, record: TrailRecord, claim: "_Claim") -> None:
        self.trail_id = record.trail_id
        self.prev = claim.prev
        if record.seq == 1 and claim.seq == 1 and claim.genesis != claim.prev:
            self.find(Tampering.EDITED, 1, "record 1 does not begin the chain that it names")

    def _gap(self, first: int, last: int) -> None:
        which = f"record {first} is" if first == last else f"records {first} to {last} are"
        self.find(Tampering.REMOVED, first, f"{which} missing")

    def _inconsistent(self, record: TrailRecord, following: TrailRecord | None) -> None:
        """Tell an edited record from an inserted one, which pushed the next record away from its place."""
        after = _Claim.of(following) if following else None
        if after and after.consistent and after.seq == record.seq - self.shift and after.prev == self.prev:
            self.find(Tampering.INSERTED, record.seq, f"record {record.seq} was never written by the broker")
            self.shift += 1
        else:
            self.find(Tampering.EDITED, record.seq, f"record {record.seq} is not what was written")

    def _place(self, record: TrailRecord, claim: "_Claim", following: TrailRecord | None, *, suspected: bool) -> None:
        """Find out whether a record that is whole in itself is the one that belongs here."""
        shift = record.seq - claim.seq
        if shift != self.shift:
            after = _Claim.of(following) if following else None
            moved_on = after is None or (following is not None and following.seq - after.seq == shift)
            if not moved_on:
                detail = f"record {claim.seq} stands at the place of record {record.seq - self.shift}"
                self.find(Tampering.REORDERED, record.seq - self.shift, detail)
            elif shift < self.shift:
                self._gap(record.seq - self.shift, claim.seq - 1)
                self.shift = shift
            else:
                self.find(
                    Tampering.INSERTED, record.seq - 1, f"record {record.seq - 1} was never written by the broker"
                )
                self.shift = shift
        elif claim.prev != self.prev and not suspected:
            detail = f"record {record.seq - 1} is not what was written: record {record.seq} knows another hash of it"
            self.find(Tampering.EDITED, record.seq - 1, detail)
        elif not claim.columns:
            detail = f"the columns of record {record.seq} differ from its body, so that a search misses it"
            self.find(Tampering.EDITED, record.seq, detail)


@dataclass(frozen=True, slots=True)
class _Claim:
    """What a record says of itself.

    `consistent`: its hash is right for its own body, number and predecessor. `columns`: so are its columns.
    """

    consistent: bool
    columns: bool
    seq: int
    prev: bytes
    genesis: bytes

    @classmethod
    def of(cls, record: TrailRecord) -> "_Claim":
        try:
            body = json.loads(record.body)
            seq, prev = int(body["seq"]), bytes.fromhex(body["prev"])
            whole = record_hash(prev=prev, seq=seq, body=record.body) == record.hash
            named = (body["trail_id"], body["kind"], body["outcome"], body.get("identity", ""), body["time"])
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError, AttributeError):
            return cls(consistent=False, columns=False, seq=0, prev=b"", genesis=b"")
        columns = (record.trail_id, record.kind, record.outcome, record.identity, _time_of(record))
        return cls(whole, named == columns, seq, prev, _genesis_of(body) if seq == 1 else b"")


def _time_of(record: TrailRecord) -> str:
    try:
        return rfc3339(record.time_ms)
    except (ValueError, OverflowError, OSError):
        return ""


def _genesis_of(body: dict[str, Any]) -> bytes:
    """Return the hash of the beginning that record 1 describes, empty when it describes none."""
    try:
        details = body["details"]
        key = VerifierKey.parse(details["key"])
        return genesis_hash(trail_id=body["trail_id"], created_ms=details["created_ms"], public_key=key.public_key)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, SettingsInvalidError):
        return b""
