"""Verify a trail: find the record that was edited, removed, moved, inserted, and the end that was cut."""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import chain, pairwise
from typing import Final

from broker.audit.chain import TrailRecord
from broker.audit.checkpoint import Checkpoint, VerifierKey, open_note
from broker.audit.heartbeat import Beat, silences
from broker.audit.search import Query, TrailReader
from broker.audit.walk import Finding, Tampering, Walk
from broker.errors import SettingsInvalidError
from broker.escape import clean

MAX_FINDINGS: Final = 100


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
    walk = Walk()
    key = _key_of(first, verifier_key, walk)
    anchors = _anchors(notes, key, walk)
    if first is not None:
        for record, following in pairwise(chain((first,), records, (None,))):
            if record is not None:
                walk.step(record, following)
                walk.compare(anchors)
                progress(record.seq)
    _compare_end(walk, anchors)
    _compare_beats(walk, anchors)
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


def _key_of(first: TrailRecord | None, verifier_key: str | None, walk: Walk) -> VerifierKey | None:
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


def _anchors(notes: Iterable[bytes], key: VerifierKey | None, walk: Walk) -> dict[int, list[Checkpoint]]:
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


def _compare_end(walk: Walk, anchors: dict[int, list[Checkpoint]]) -> None:
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


def _compare_beats(walk: Walk, anchors: dict[int, list[Checkpoint]]) -> None:
    """Find checkpoints that a running broker must have signed and that are not there."""
    ours = [one for one in _all(anchors) if one.trail_id == walk.trail_id]
    beats = [Beat(one.size, one.heartbeat) for one in ours if one.heartbeat is not None]
    for silence in silences(beats, outages=walk.outages):
        detail = f"the checkpoint up to this record: {silence.detail}"
        walk.findings.append(Finding(Tampering.HEARTBEAT, silence.size, detail))
    last_size = max(anchors, default=0)
    last = [(one.time, one.heartbeat) for one in anchors.get(last_size, ()) if one.heartbeat is not None]
    patience = [(_milliseconds(time), heartbeat.patience_ms) for time, heartbeat in last]
    if not patience or walk.seq <= last_size or any(seq > last_size for seq in walk.outages):
        return
    signed_ms, patience_ms = max(patience)
    unsigned_ms = walk.time_ms - signed_ms
    if unsigned_ms > patience_ms:
        detail = f"records from here on were written for {unsigned_ms // 1000} s without a checkpoint"
        walk.findings.append(Finding(Tampering.HEARTBEAT, last_size + 1, detail))


def _milliseconds(time: str) -> int:
    return int(datetime.fromisoformat(time).timestamp() * 1000)


def _all(anchors: dict[int, list[Checkpoint]]) -> Iterator[Checkpoint]:
    return chain.from_iterable(anchors.values())
