"""The sealed file: what it gives back, and each way in which it is refused whole."""

import math
import os
from pathlib import Path

import pytest

from broker.cache.remembered import Clocks, Entry
from broker.cache.sealed import SealedCacheError, SealedFile, load_sealing_key
from broker.finding import FoundError
from broker.reference import Source
from broker.secret import Facts, Reading, SecretDocument
from broker.written_json import WrittenNumber
from tests.fakes import START

KEY = b"k" * 32
SOURCE = Source("vault", "secret/app", "previous", (("a", "b"),))
CANARY = "canary-6f1b"


def entry(value: str = CANARY, *, lasts: float = 3600.0, not_after: float | None = None) -> Entry:
    reading = Reading(
        SecretDocument.of_fields({"key": value, "number": WrittenNumber("1.50")}, size=20),
        version="5",
        not_after=not_after,
        created_at=START - 9,
        upstream_request="up-1",
        facts=Facts(owner="team-a", overlap=60.0),
    )

    async def fetch(source: Source) -> Reading:
        raise AssertionError(source)

    return Entry(
        reading=reading,
        fetch=fetch,
        fetched_at=START,
        born=500.0,
        dies=math.inf,
        clocks=Clocks(300, lasts),
        early=1.0,
        lasts_until=500.0 + lasts,
    )


@pytest.fixture
def sealed(tmp_path: Path) -> SealedFile:
    return SealedFile(file=tmp_path / "sealed.cache", key=KEY)


def reason_of(sealed: SealedFile, *, now: float = START + 1) -> str:
    with pytest.raises(SealedCacheError) as caught:
        sealed.load(now=now)
    return caught.value.reason


def test_what_is_sealed_comes_back_with_its_times_and_facts(sealed: SealedFile) -> None:
    assert sealed.save([(SOURCE, entry())])
    [found] = sealed.load(now=START + 1)
    assert (found.source, found.fetched_at, found.ends_at) == (SOURCE, START, START + 3600)
    assert found.reading.document.select(("key",)).reveal() == CANARY.encode()
    assert (found.reading.version, found.reading.created_at) == ("5", START - 9)
    assert (found.reading.facts, found.reading.not_after) == (Facts(owner="team-a", overlap=60.0), START + 3600)


def test_a_document_without_fields_comes_back_as_it_was(sealed: SealedFile) -> None:
    held = entry()
    held.reading = Reading(SecretDocument.of_bytes(b"\xff{"))
    sealed.save([(SOURCE, held), (Source("vault", "secret/b"), entry())])
    first, second = sealed.load(now=START + 1)
    assert first.reading.document.select(()).reveal() == b"\xff{"
    assert first.reading.document.size == 2
    assert second.reading.document.select(("key",)).reveal() == CANARY.encode()


def test_no_file_is_nothing_remembered(sealed: SealedFile) -> None:
    assert sealed.load(now=START) == []


def test_the_file_shows_no_value_and_nobody_else_may_read_it(sealed: SealedFile, tmp_path: Path) -> None:
    sealed.save([(SOURCE, entry())])
    for file in tmp_path.iterdir():
        assert CANARY.encode() not in file.read_bytes()
        assert file.stat().st_mode & 0o077 == 0
    assert sorted(file.name for file in tmp_path.iterdir()) == ["sealed.cache", "sealed.number"]


def test_files_and_variables_are_not_sealed(sealed: SealedFile) -> None:
    sealed.save([(Source("env", "A"), entry()), (Source("file", "/a"), entry())])
    assert sealed.load(now=START + 1) == []


def test_an_entry_dies_with_its_second_clock_and_with_its_sources_end(sealed: SealedFile) -> None:
    sealed.save([(SOURCE, entry())])
    assert len(sealed.load(now=START + 3599)) == 1
    assert sealed.load(now=START + 3600) == []
    sealed.save([(SOURCE, entry(not_after=START + 60))])
    assert len(sealed.load(now=START + 59)) == 1
    assert sealed.load(now=START + 60) == []


def test_an_entry_of_the_future_is_left_out(sealed: SealedFile) -> None:
    sealed.save([(SOURCE, entry())])
    assert sealed.load(now=START - 1) == []


def test_another_key_opens_nothing(sealed: SealedFile, tmp_path: Path) -> None:
    sealed.save([(SOURCE, entry())])
    assert reason_of(SealedFile(file=tmp_path / "sealed.cache", key=b"x" * 32)) == "changed"


def test_every_changed_byte_is_found(sealed: SealedFile, tmp_path: Path) -> None:
    file = tmp_path / "sealed.cache"
    sealed.save([(SOURCE, entry())])
    good = file.read_bytes()
    for place in range(len(good)):
        changed = bytearray(good)
        changed[place] ^= 1
        file.write_bytes(changed)
        assert reason_of(sealed) == "changed", place


def test_every_cut_is_found(sealed: SealedFile, tmp_path: Path) -> None:
    file = tmp_path / "sealed.cache"
    sealed.save([(SOURCE, entry()), (SOURCE._replace(path="secret/b"), entry())])
    good = file.read_bytes()
    for length in range(len(good)):
        file.write_bytes(good[:length])
        assert reason_of(sealed) == "changed", length
    file.write_bytes(good + b"\0")
    assert reason_of(sealed) == "changed"


def test_an_entry_of_another_file_is_found(sealed: SealedFile, tmp_path: Path) -> None:
    file = tmp_path / "sealed.cache"
    sealed.save([(SOURCE, entry("old"))])
    old = file.read_bytes()
    sealed.save([(SOURCE, entry("new", lasts=3601))])
    new = file.read_bytes()
    assert len(old) == len(new)
    # The last record is as long in both; what is before it belongs to the older file.
    last = len(new) - new.index(b"end", len(new) - 300) + 8
    file.write_bytes(old[:-last] + new[-last:])
    assert reason_of(sealed) == "changed"


def test_each_file_is_sealed_with_a_key_of_its_own(tmp_path: Path) -> None:
    texts = set()
    for name in ("one", "two"):
        SealedFile(file=tmp_path / name, key=KEY).save([(SOURCE, entry())])
        texts.add((tmp_path / name).read_bytes()[-60:])
    assert len(texts) == 2, "with the same key, the same nonces would make the same bytes"


def test_entries_that_changed_places_are_found(sealed: SealedFile, tmp_path: Path) -> None:
    file = tmp_path / "sealed.cache"
    sealed.save([(SOURCE, entry("first")), (SOURCE, entry("other"))])
    data = file.read_bytes()
    begin, end = data.index(b"{") - 8, data.rindex(b"end") - 8
    half = (end - begin) // 2
    file.write_bytes(data[:begin] + data[begin + half : end] + data[begin : begin + half] + data[end:])
    assert reason_of(sealed) == "changed"


def test_a_file_that_was_rolled_back_is_refused(sealed: SealedFile, tmp_path: Path) -> None:
    file = tmp_path / "sealed.cache"
    sealed.save([(SOURCE, entry("revoked"))])
    old = file.read_bytes()
    sealed.save([])
    file.write_bytes(old)
    assert reason_of(sealed) == "rolled_back"


def test_a_crash_between_file_and_number_loses_nothing(sealed: SealedFile, tmp_path: Path) -> None:
    sealed.save([(SOURCE, entry())])
    number = (tmp_path / "sealed.number").read_bytes()
    sealed.save([(SOURCE, entry(lasts=7200))])
    (tmp_path / "sealed.number").write_bytes(number)
    assert [found.ends_at for found in sealed.load(now=START + 1)] == [START + 7200]


def test_a_file_open_to_others_is_refused(sealed: SealedFile, tmp_path: Path) -> None:
    sealed.save([(SOURCE, entry())])
    (tmp_path / "sealed.cache").chmod(0o644)
    with pytest.raises(FoundError):
        sealed.load(now=START + 1)


def test_nothing_is_written_while_nothing_changes(sealed: SealedFile) -> None:
    held = [(SOURCE, entry())]
    assert sealed.save(held)
    assert not sealed.save(held)
    assert sealed.save([])


def test_a_directory_that_can_not_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(SealedCacheError) as caught:
        SealedFile(file=tmp_path / "none" / "sealed.cache", key=KEY).save([(SOURCE, entry())])
    assert caught.value.reason == "unwritable"


@pytest.mark.parametrize("length", [0, 31, 33])
def test_a_key_has_32_bytes(tmp_path: Path, length: int) -> None:
    file = tmp_path / "seal.key"
    file.touch(mode=0o600)
    file.write_bytes(os.urandom(length))
    with pytest.raises(ValueError, match="32 random bytes"):
        load_sealing_key(file)
