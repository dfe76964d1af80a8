"""`broker audit search` and `broker audit verify` on a real database."""

import asyncio
import json
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from broker.__main__ import main
from broker.audit.event import AuditEvent, EventKind, Outcome, ReferenceRecord
from tests.trails import event, running

SHIPPER = "spiffe://example/shipper"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    async def write() -> None:
        async with running(tmp_path) as trail:
            for number in range(4):
                await trail.append(event(reference=f"vault:secret/logflux#key{number}"))
            await trail.append(
                AuditEvent(
                    kind=EventKind.AUTHENTICATION,
                    outcome=Outcome.FAILURE,
                    identity="dns:a\x1b[31m\nfake",
                    address="10.0.0.9",
                    reason="no_rule",
                )
            )
            await trail.append(
                AuditEvent(
                    kind=EventKind.RESOLVE,
                    outcome=Outcome.FAILURE,
                    identity="spiffe://example/other",
                    request="0123456789abcdef",
                    references=(ReferenceRecord(reference="env:LOGFLUX_PAT", status="denied", reason="no_rule"),),
                )
            )

    asyncio.run(write())
    return tmp_path


def found(place: Path, capsys: pytest.CaptureFixture[str], *flags: str) -> list[int]:
    assert main(["audit", "search", "--database", str(place / "audit.db"), "--json", *flags]) == 0
    return [json.loads(line)["seq"] for line in capsys.readouterr().out.splitlines()]


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ([], [1, 2, 3, 4, 5, 6, 7]),
        (["--type", "auth"], [6]),
        (["--type", "resolve", "--outcome", "failure"], [7]),
        (["--outcome", "failure"], [6, 7]),
        (["--since", "24h"], [1, 2, 3, 4, 5, 6, 7]),
        (["--since", "2001-01-01T00:00:00Z", "--type", "auth"], [6]),
        (["--since", "2999-01-01"], []),
        (["--until", "2999-01-01"], [1, 2, 3, 4, 5, 6, 7]),
        (["--until", "24h"], []),
        (["--request", "0123456789abcdef"], [7]),
        (["--request", "0123456789abcde"], []),
        (["--request", "spiffe://example/other"], []),
        (["--identity", SHIPPER], [2, 3, 4, 5]),
        (["--identity", "spiffe://example/*"], [2, 3, 4, 5, 7]),
        (["--identity", "dns:a\x1b[31m\nfake"], [6]),
        (["--reference", "vault:secret/logflux#key1"], [3]),
        (["--reference", "vault:secret/logflux#key*"], [2, 3, 4, 5]),
        (["--reference", "vault:secret/logflux#key"], []),
        (["--reference", "${LOGFLUX_PAT}"], [7]),
        (["--limit", "2"], [6, 7]),
        (["--limit", "2", "--reference", "vault:*"], [4, 5]),
    ],
)
def test_the_flags_narrow_and_the_newest_comes_last(
    place: Path, capsys: pytest.CaptureFixture[str], flags: list[str], expected: list[int]
) -> None:
    assert found(place, capsys, *flags) == expected


@pytest.mark.parametrize(
    "flags",
    [
        ["--type", "nothing"],
        ["--outcome", "maybe"],
        ["--since", "soon"],
        ["--until", "soon"],
        ["--limit", "0"],
        ["--limit", "-1"],
    ],
)
def test_a_wrong_flag_is_refused_with_status_2(place: Path, flags: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["audit", "search", "--database", str(place / "audit.db"), *flags])
    assert ended.value.code == 2


def test_a_line_says_who_what_and_how_it_ended_and_hides_nothing(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["audit", "search", "--database", str(place / "audit.db")]) == 0
    out = capsys.readouterr().out
    assert len(out.splitlines()) == 7
    assert "\x1b" not in out
    assert r"dns:a\u001b[31m\u000afake  reason=no_rule  address=10.0.0.9" in out
    assert "resolve  failure  spiffe://example/other  request=0123456789abcdef  env:LOGFLUX_PAT=denied(no_rule)" in out


def test_what_somebody_else_put_into_the_database_does_not_reach_the_terminal(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change(place, "UPDATE record SET body = x'1b5b324a0a41' WHERE seq = 3")
    for flags in ([], ["--json"]):
        assert main(["audit", "search", "--database", str(place / "audit.db"), *flags]) == 0
        out = capsys.readouterr().out
        assert "\x1b" not in out
        assert len(out.splitlines()) == 7


def test_follow_goes_on_with_what_is_written_later(tmp_path: Path) -> None:
    asyncio.run(_write_one(tmp_path, "env:FIRST"))
    command = ["audit", "search", "--database", str(tmp_path / "audit.db"), "--type", "resolve", "--follow"]
    with subprocess.Popen(
        [sys.executable, "-m", "broker", *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert "env:FIRST" in child.stdout.readline()
        asyncio.run(_write_one(tmp_path, "env:SECOND"))
        assert "env:SECOND" in child.stdout.readline()
        child.kill()


async def _write_one(directory: Path, reference: str) -> None:
    async with running(directory) as trail:
        await trail.append(event(reference=reference))


def change(place: Path, statement: str) -> None:
    connection = sqlite3.connect(place / "audit.db")
    with connection:
        connection.execute(statement)
    connection.close()


def verify(place: Path, *flags: str) -> int:
    return main(["audit", "verify", "--database", str(place / "audit.db"), *flags])


def test_a_good_trail_verifies_and_the_key_is_told(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert verify(place) == 0
    out = capsys.readouterr().out
    assert out.startswith("good: 7 records, 2 checkpoints, signed up to record 7\n")
    key = next(line for line in out.splitlines() if line.startswith("verifier key: ")).removeprefix("verifier key: ")
    assert verify(place, "--key", key) == 0


def test_a_tampered_record_is_named_with_status_1(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change(place, "DELETE FROM record WHERE seq = 4")
    assert verify(place) == 1
    assert capsys.readouterr().out.startswith("removed: record 4: record 4 is missing\nTAMPERED WITH: 6 records")
    assert verify(place, "--json") == 1
    report = json.loads(capsys.readouterr().out)
    assert (report["good"], report["findings"]) == (
        False,
        [{"what": "removed", "seq": 4, "detail": "record 4 is missing"}],
    )


def test_a_cut_end_is_found_by_the_file_beside_the_database(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change(place, "DELETE FROM record WHERE seq > 5")
    change(place, "DELETE FROM checkpoint WHERE size > 5")
    assert verify(place) == 1
    assert "cut: record 6: the end was cut: records 6 to 7 are missing" in capsys.readouterr().out
    kept = place / "copy.log"
    (place / "checkpoints.log").rename(kept)
    assert verify(place) == 0
    assert "a cut end can't be found" in capsys.readouterr().out
    assert verify(place, "--checkpoints", str(kept)) == 1


@pytest.mark.parametrize(
    "flags", [["--checkpoints", "/nonexistent/file"], ["--key", "nonsense"], ["--database", "/nonexistent/audit.db"]]
)
def test_what_can_not_be_read_is_status_3_with_a_stable_code(
    place: Path, capsys: pytest.CaptureFixture[str], flags: list[str]
) -> None:
    assert verify(place, *flags) == 3
    assert "error[settings_invalid]" in capsys.readouterr().err


def test_nothing_is_written_by_reading(place: Path) -> None:
    before = {file.name: file.read_bytes() for file in place.iterdir()}
    assert verify(place) == 0
    assert {file.name: file.read_bytes() for file in place.iterdir() if file.name in before} == before


def series(file: Path) -> dict[str, float]:
    lines = [line for line in file.read_text().splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


def test_a_verification_leaves_its_result_for_prometheus(place: Path, tmp_path: Path) -> None:
    file = tmp_path / "broker_audit.prom"
    arguments = ["audit", "verify", "--database", str(place / "audit.db"), "--metrics", str(file)]
    before = time.time()
    assert main(arguments) == 0
    found = series(file)
    assert (found["broker_audit_verify_good"], found["broker_audit_verify_records"]) == (1, 7)
    assert found["broker_audit_verify_timestamp_seconds"] >= before
    assert {value for name, value in found.items() if "findings" in name} == {0.0}
    # Another user collects it, whatever the umask is.
    assert file.stat().st_mode & 0o777 == 0o644
    assert [one.name for one in tmp_path.iterdir() if "prom" in one.name] == ["broker_audit.prom"]

    with closing(sqlite3.connect(place / "audit.db")) as connection, connection:
        connection.execute("UPDATE record SET outcome = 'success' WHERE seq = 6")
    assert main(arguments) == 1
    found = series(file)
    assert found["broker_audit_verify_good"] == 0
    assert found['broker_audit_verify_findings{what="edited"}'] == 1


def test_a_trail_that_can_not_be_read_leaves_the_last_result_to_grow_old(place: Path, tmp_path: Path) -> None:
    file = tmp_path / "broker_audit.prom"
    assert main(["audit", "verify", "--database", str(place / "audit.db"), "--metrics", str(file)]) == 0
    before = file.read_bytes()
    assert main(["audit", "verify", "--database", str(place / "gone.db"), "--metrics", str(file)]) == 3
    assert file.read_bytes() == before


@pytest.mark.parametrize(
    ("name", "status", "message"),
    [
        ("broker_audit.txt", 2, "does not end in .prom"),
        ("absent/broker_audit.prom", 3, "No such file or directory; --metrics names a file in a directory"),
    ],
)
def test_a_place_that_no_collector_reads_is_refused(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, status: int, message: str
) -> None:
    arguments = ["audit", "verify", "--database", str(place / "audit.db"), "--metrics", str(tmp_path / name)]
    try:
        ended = main(arguments)
    except SystemExit as end:
        ended = int(end.code or 0)
    assert ended == status
    assert message in capsys.readouterr().err


def test_another_database_is_told_from_the_trail(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    connection = sqlite3.connect(tmp_path / "state.db")
    connection.executescript("PRAGMA user_version = 1; CREATE TABLE lease (id TEXT);")
    connection.close()
    assert main(["audit", "search", "--database", str(tmp_path / "state.db")]) == 3
    assert "is it the broker's audit.db?" in capsys.readouterr().err
