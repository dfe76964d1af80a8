"""Verify a trail: find the record that was edited, removed, moved, inserted, and the end that was cut."""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import chain, pairwise
from typing import Any, Final

from broker.audit.chain import TrailRecord, genesis_hash, record_hash
from broker.audit.checkpoint import Checkpoint, VerifierKey, open_note
from broker.audit.event import rfc3339
from broker.audit.search import Query, TrailReader
from broker.errors import SettingsInvalidError
from broker.escape import clean

MAX_FINDINGS: Final = 100


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


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong; `seq` is the first record that it is about, 0 for the trail as a whole."""

    what: Tampering
    seq: int
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class VerificationReport:
    """What was verified, and everything that is wrong with it.

    Attributes:
        trail_id: The trail, empty when there is none.
        records: How many records were read.
        head: The hash of the last one, in hex.
        checkpoints: How many checkpoints verify.
        anchored: The largest of their sizes: records up to here can't be changed without the signing key.
        verifier_key: The key that the checkpoints were verified with.
        findings: What is wrong, in the order of the records.

    """

    trail_id: str
    records: int
    head: str
    checkpoints: int
    anchored: int
    verifier_key: str
    findings: tuple[Finding, ...]

    @property
    def good(self) -> bool:
        """Tell whether nothing was found."""
        return not self.findings


def verify(
    reader: TrailReader,
    *,
    checkpoints: Iterable[bytes] = (),
    verifier_key: str | None = None,
    progress: Callable[[int], None] = lambda _seq: None,
) -> VerificationReport:
    """Read the whole trail and return what is wrong with it.

    Args:
        reader: The trail, which may be growing.
        checkpoints: Signed notes kept elsewhere, beside those in the store.
        verifier_key: The key to trust; without it the one that record 1 names, which proves less.
        progress: Called with the number of each record.

    Raises:
        SettingsInvalidError: The store can't be read, or the key is none.

    """
    # The notes are read before the records, so that a trail that grows meanwhile is at least as long as they say.
    notes = [*checkpoints, *reader.checkpoints()]
    records = reader.records(Query())
    first = next(records, None)
    walk = _Walk()
    key = _key_of(first, verifier_key, walk)
    anchors = _anchors(notes, key, walk)
    if first is not None:
        for record, following in pairwise(chain((first,), records, (None,))):
            if record is not None:
                walk.step(record, following)
                walk.compare(anchors)
                progress(record.seq)
    _compare_end(walk, anchors)
    findings = sorted(walk.findings[:MAX_FINDINGS], key=lambda finding: finding.seq)
    return VerificationReport(
        trail_id=walk.trail_id,
        records=walk.count,
        head=walk.prev.hex(),
        checkpoints=sum(map(len, anchors.values())),
        anchored=max(anchors, default=0),
        verifier_key=key.text if key else "",
        findings=tuple(findings),
    )


@dataclass(slots=True)
class _Walk:
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

    def find(self, what: Tampering, seq: int, detail: str) -> None:
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
        self.seq, self.prev = record.seq, record.hash

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


def _key_of(first: TrailRecord | None, verifier_key: str | None, walk: _Walk) -> VerifierKey | None:
    """Return the key to trust; a trail that was begun with another one than the given is a finding."""
    begun_with: VerifierKey | None = None
    if first is not None:
        try:
            begun_with = VerifierKey.parse(json.loads(first.body)["details"]["key"])
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError, SettingsInvalidError):
            begun_with = None
    if verifier_key is None:
        return begun_with
    key = VerifierKey.parse(verifier_key)
    if begun_with is not None and begun_with != key:
        detail = f"the trail was begun with another key: {clean(begun_with.text)}"
        walk.findings.append(Finding(Tampering.KEY, 1, detail))
    return key


def _anchors(notes: Iterable[bytes], key: VerifierKey | None, walk: _Walk) -> dict[int, list[Checkpoint]]:
    """Return the checkpoints that verify, by size; report those that do not, and that there are none."""
    found: dict[int, list[Checkpoint]] = {}
    bad = 0
    for note in dict.fromkeys(notes):
        checkpoint = open_note(note, key) if key else None
        if checkpoint is None:
            bad += 1
        else:
            found.setdefault(checkpoint.size, []).append(checkpoint)
    if bad:
        walk.findings.append(Finding(Tampering.CHECKPOINT, 0, f"{bad} checkpoints do not verify with the key"))
    elif not found:
        walk.findings.append(Finding(Tampering.CHECKPOINT, 0, "there is no signed checkpoint at all"))
    return found


def _compare_end(walk: _Walk, anchors: dict[int, list[Checkpoint]]) -> None:
    """Compare the end of the trail with the largest checkpoint, and its name with all of them."""
    largest = max(anchors, default=0)
    if largest > walk.seq:
        first, last = walk.seq + 1, largest
        which = f"record {first} is" if first == last else f"records {first} to {last} are"
        if not (walk.shift < 0 and largest == walk.seq - walk.shift):
            detail = f"the end was cut: {which} missing, which a signed checkpoint covers"
            walk.findings.append(Finding(Tampering.CUT, first, detail))
    others = {one.trail_id for one in _all(anchors)} - {walk.trail_id}
    if others and walk.count:
        detail = f"there are signed checkpoints of another trail ({clean(min(others))}): this one stands in its place"
        walk.findings.append(Finding(Tampering.REWRITTEN, 0, detail))


def _all(anchors: dict[int, list[Checkpoint]]) -> Iterator[Checkpoint]:
    return chain.from_iterable(anchors.values())
