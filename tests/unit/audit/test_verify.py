"""Every way to change a trail is found, and the report names the record."""

import asyncio
import json
import shutil
import sqlite3
from pathlib import Path

import pytest

from broker.audit.chain import record_hash
from broker.audit.checkpoint import load_or_create_checkpoint_key, notes_in
from broker.audit.verify import VerificationReport
from broker.audit.walk import Tampering
from tests.fakes import FakeClock
from tests.trails import checked, event, running

RECORDS = 12


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("trail")

    async def write() -> None:
        async with running(directory) as trail:
            for number in range(RECORDS - 1):
                await trail.append(event(reference=f"vault:secret/logflux#key{number}"))

    asyncio.run(write())
    return directory


@pytest.fixture
def place(pristine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / "copy"))


def change(place: Path, *statements: str) -> None:
    connection = sqlite3.connect(place / "audit.db")
    with connection:
        for statement in statements:
            connection.execute(statement)
    connection.close()


def found(report: VerificationReport) -> list[tuple[Tampering, int]]:
    return [(finding.what, finding.seq) for finding in report.findings]


def renumber_from(seq: int, by: int) -> tuple[str, str]:
    """Return statements that move the numbers of all records from `seq` on."""
    return (
        f"UPDATE record SET seq = seq + 1000 WHERE seq >= {seq}",
        f"UPDATE record SET seq = seq - 1000 + {by} WHERE seq >= 1000",
    )


def test_an_untouched_trail_is_good(place: Path) -> None:
    report = checked(place)
    assert report.good, report.findings
    assert (report.records, report.checkpoints, report.anchored) == (RECORDS, 2, RECORDS)


def test_an_edited_body_is_found(place: Path) -> None:
    change(place, "UPDATE record SET body = CAST(replace(CAST(body AS TEXT), 'key3', 'key9') AS BLOB) WHERE seq = 5")
    assert found(checked(place)) == [(Tampering.EDITED, 5)]


def test_an_edited_body_with_its_own_hash_made_right_is_found(place: Path) -> None:
    _edit_with_hash(place, 5)
    assert found(checked(place)) == [(Tampering.EDITED, 5)]


def test_the_last_record_edited_with_its_own_hash_made_right_is_found_by_the_checkpoint(place: Path) -> None:
    _edit_with_hash(place, RECORDS)
    report = checked(place)
    assert found(report) == [(Tampering.REWRITTEN, 2)]


def _edit_with_hash(place: Path, seq: int) -> None:
    connection = sqlite3.connect(place / "audit.db")
    with connection:
        body = connection.execute("SELECT body FROM record WHERE seq = ?", (seq,)).fetchone()[0]
        body = body.replace(b'"ok"', b'"no"')
        digest = record_hash(prev=bytes.fromhex(json.loads(body)["prev"]), seq=seq, body=body)
        connection.execute("UPDATE record SET body = ?, hash = ? WHERE seq = ?", (body, digest, seq))
    connection.close()


@pytest.mark.parametrize(
    "assignment",
    ["identity = 'spiffe://example/nobody'", "kind = 'start'", "outcome = 'failure'", "time_ms = time_ms + 1000"],
)
def test_a_changed_column_that_hides_a_record_from_the_search_is_found(place: Path, assignment: str) -> None:
    change(place, f"UPDATE record SET {assignment} WHERE seq = 7")
    assert found(checked(place)) == [(Tampering.EDITED, 7)]


@pytest.mark.parametrize("seq", [2, 6, 11])
def test_a_removed_record_is_found(place: Path, seq: int) -> None:
    change(place, f"DELETE FROM record WHERE seq = {seq}")
    assert found(checked(place)) == [(Tampering.REMOVED, seq)]


def test_the_removed_first_record_is_found(place: Path) -> None:
    key = _key(place)
    change(place, "DELETE FROM record WHERE seq = 1")
    assert (Tampering.REMOVED, 1) in found(checked(place, key=key))


@pytest.mark.parametrize("seq", [2, 6, 11])
def test_a_removed_record_whose_gap_was_closed_is_found(place: Path, seq: int) -> None:
    change(place, f"DELETE FROM record WHERE seq = {seq}", *renumber_from(seq + 1, -1))
    assert found(checked(place)) == [(Tampering.REMOVED, seq)]


def test_several_removed_records_are_one_finding(place: Path) -> None:
    change(place, "DELETE FROM record WHERE seq BETWEEN 4 AND 6")
    report = checked(place)
    assert found(report) == [(Tampering.REMOVED, 4)]
    assert "4 to 6" in report.findings[0].detail


def test_two_swapped_records_are_found(place: Path) -> None:
    change(
        place,
        "UPDATE record SET seq = 1000 WHERE seq = 5",
        "UPDATE record SET seq = 5 WHERE seq = 6",
        "UPDATE record SET seq = 6 WHERE seq = 1000",
    )
    findings = found(checked(place))
    assert (Tampering.REORDERED, 5) in findings
    assert {seq for _, seq in findings} <= {5, 6}


@pytest.mark.parametrize("seq", [2, 6, 12])
def test_an_inserted_record_is_found(place: Path, seq: int) -> None:
    change(
        place,
        *renumber_from(seq, 1),
        f"INSERT INTO record SELECT trail_id, {seq}, time_ms, kind, outcome, identity, body, hash FROM record "
        f"WHERE seq = {seq - 1}",
        f"UPDATE record SET body = CAST(replace(CAST(body AS TEXT), 'logflux', 'forged') AS BLOB) WHERE seq = {seq}",
    )
    findings = found(checked(place))
    assert (Tampering.INSERTED, seq) in findings
    assert {at for _, at in findings} <= {seq - 1, seq, seq + 1}


def test_an_inserted_record_with_a_right_hash_is_found(place: Path) -> None:
    connection = sqlite3.connect(place / "audit.db")
    with connection:
        for statement in renumber_from(6, 1):
            connection.execute(statement)
        row = connection.execute("SELECT * FROM record WHERE seq = 5").fetchone()
        body = json.loads(row[6]) | {"seq": 6, "prev": row[7].hex(), "identity": "spiffe://example/shipper"}
        text = json.dumps(body, sort_keys=True, separators=(",", ":")).encode()
        forged = (row[0], 6, *row[2:6], text, record_hash(prev=row[7], seq=6, body=text))
        connection.execute("INSERT INTO record VALUES (?, ?, ?, ?, ?, ?, ?, ?)", forged)
    connection.close()
    assert found(checked(place)) == [(Tampering.INSERTED, 6)]


def test_a_record_of_another_trail_is_found(place: Path) -> None:
    change(
        place,
        "INSERT INTO record SELECT 'ff', seq, time_ms, kind, outcome, identity, body, hash FROM record WHERE seq = 4",
    )
    assert found(checked(place)) == [(Tampering.INSERTED, 4)]


def test_a_cut_end_is_found_by_the_checkpoint_in_the_database(place: Path) -> None:
    change(place, "DELETE FROM record WHERE seq > 9")
    assert found(checked(place, side_file=False)) == [(Tampering.CUT, 10)]


def test_a_cut_end_with_its_checkpoints_is_found_by_the_file_and_by_nothing_else(place: Path) -> None:
    change(place, "DELETE FROM record WHERE seq > 9", "DELETE FROM checkpoint WHERE size > 9")
    assert checked(place, side_file=False).good
    assert found(checked(place)) == [(Tampering.CUT, 10)]


def test_a_chain_written_again_is_found_by_the_signed_head(place: Path) -> None:
    _rewrite_from(place, 4)
    report = checked(place)
    assert found(report) == [(Tampering.REWRITTEN, 2)]
    assert "2 to 12 was written again" in report.findings[0].detail


def _rewrite_from(place: Path, start: int) -> None:
    connection = sqlite3.connect(place / "audit.db")
    with connection:
        prev = connection.execute("SELECT hash FROM record WHERE seq = ?", (start - 1,)).fetchone()[0]
        for seq, kept in connection.execute(
            "SELECT seq, body FROM record WHERE seq >= ? ORDER BY seq", (start,)
        ).fetchall():
            body = json.loads(kept) | {"prev": prev.hex()}
            if seq == start:
                body["references"][0]["reference"] = "vault:secret/harmless#one"
            text = json.dumps(body, sort_keys=True, separators=(",", ":")).encode()
            prev = record_hash(prev=prev, seq=seq, body=text)
            connection.execute("UPDATE record SET body = ?, hash = ? WHERE seq = ?", (text, prev, seq))
    connection.close()


def test_a_checkpoint_that_was_changed_does_not_verify(place: Path) -> None:
    file = place / "checkpoints.log"
    file.write_bytes(file.read_bytes().replace(b"\n12\n", b"\n11\n"))
    assert found(checked(place)) == [(Tampering.CHECKPOINT, 0)]


def test_a_trail_without_any_checkpoint_is_not_good(place: Path) -> None:
    change(place, "DELETE FROM checkpoint")
    assert found(checked(place, side_file=False)) == [(Tampering.CHECKPOINT, 0)]


def test_a_whole_trail_of_another_key_is_found_by_the_key_kept_elsewhere(place: Path, tmp_path: Path) -> None:
    key = _key(place)
    forged = tmp_path / "forged"

    async def forge() -> None:
        async with running(forged) as trail:
            await trail.append(event())

    forged.mkdir()
    asyncio.run(forge())
    assert checked(forged).good
    assert (Tampering.KEY, 1) in found(checked(forged, key=key))


def test_a_new_trail_in_the_place_of_the_old_is_found_by_the_old_file(place: Path) -> None:
    for file in place.glob("audit.db*"):
        file.unlink()

    async def again() -> None:
        async with running(place):
            pass

    asyncio.run(again())
    assert {what for what, _ in found(checked(place))} >= {Tampering.REWRITTEN, Tampering.CUT}


def test_an_emptied_database_is_found(place: Path) -> None:
    key = _key(place)
    change(place, "DELETE FROM record")
    assert found(checked(place, key=key)) == [(Tampering.CUT, 1)]


def test_a_changed_beginning_is_found(place: Path) -> None:
    connection = sqlite3.connect(place / "audit.db")
    with connection:
        body = json.loads(connection.execute("SELECT body FROM record WHERE seq = 1").fetchone()[0])
        body["details"]["created_ms"] += 1
        text = json.dumps(body, sort_keys=True, separators=(",", ":")).encode()
        digest = record_hash(prev=bytes.fromhex(body["prev"]), seq=1, body=text)
        connection.execute("UPDATE record SET body = ?, hash = ? WHERE seq = 1", (text, digest))
    connection.close()
    assert (Tampering.EDITED, 1) in found(checked(place))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"not json",
        b"[]",
        b'{"seq": "x"}',
        b'{"seq":1e999,"prev":""}',
        b"[" * 100_000,
        b'{"seq":5,"prev":5}',
        b"\xff",
    ],
)
def test_a_body_of_any_kind_is_an_edited_record_and_no_crash(place: Path, body: bytes) -> None:
    change(place, f"UPDATE record SET body = x'{body.hex()}' WHERE seq = 5")
    assert found(checked(place)) == [(Tampering.EDITED, 5)]


def _key(place: Path) -> str:
    return load_or_create_checkpoint_key(place / "checkpoint.key").verifier.text


def test_the_file_and_the_database_keep_the_same_checkpoints(place: Path) -> None:
    connection = sqlite3.connect(place / "audit.db")
    kept = [row[0] for row in connection.execute("SELECT note FROM checkpoint")]
    connection.close()
    assert kept == list(notes_in((place / "checkpoints.log").read_bytes()))


@pytest.fixture(scope="module")
def beating(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("beating")

    async def write() -> None:
        async with running(directory, checkpoint_events=2) as trail:
            for _ in range(RECORDS - 1):
                await trail.append(event())

    asyncio.run(write())
    return directory


def test_a_checkpoint_removed_from_both_places_is_found(beating: Path, tmp_path: Path) -> None:
    place = Path(shutil.copytree(beating, tmp_path / "copy"))
    assert checked(place).good
    notes = list(notes_in((place / "checkpoints.log").read_bytes()))
    assert len(notes) > 4
    removed = notes.pop(2)
    (place / "checkpoints.log").write_bytes(b"\n".join(notes))
    change(place, "DELETE FROM checkpoint WHERE rowid = 3")
    size = int(removed.split(b"\n")[1])
    assert found(checked(place)) == [(Tampering.HEARTBEAT, size - 2)]


def test_the_file_alone_is_enough_for_a_whole_heartbeat(beating: Path, tmp_path: Path) -> None:
    place = Path(shutil.copytree(beating, tmp_path / "copy"))
    change(place, "DELETE FROM checkpoint WHERE rowid = 3")
    assert checked(place).good


def test_records_that_went_on_without_a_checkpoint_are_found(tmp_path: Path) -> None:
    clock = FakeClock()

    async def write() -> None:
        async with running(tmp_path, clock=clock) as trail:
            await trail.append(event())
            # The wall clock alone, so that the trail itself has no reason to sign.
            clock.wall += 3600
            await trail.append(event())

    asyncio.run(write())
    assert checked(tmp_path).good
    # The last checkpoint, signed at the end, is taken away; the one of the start remains.
    change(tmp_path, "DELETE FROM checkpoint WHERE rowid = 2")
    first = next(notes_in((tmp_path / "checkpoints.log").read_bytes()))
    (tmp_path / "checkpoints.log").write_bytes(first)
    assert found(checked(tmp_path)) == [(Tampering.HEARTBEAT, 2)]


async def test_a_checkpoint_that_could_not_be_written_leaves_no_hole(tmp_path: Path) -> None:
    async with running(tmp_path, checkpoint_events=1) as trail:
        (tmp_path / "checkpoints.log").rename(tmp_path / "aside")
        (tmp_path / "checkpoints.log").mkdir()
        await trail.append(event())
        (tmp_path / "checkpoints.log").rmdir()
        (tmp_path / "aside").rename(tmp_path / "checkpoints.log")
        await trail.append(event())
    report = await asyncio.to_thread(checked, tmp_path)
    assert report.good, report.findings
