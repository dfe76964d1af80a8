"""The file that an agent's secret is written to."""

import os
from pathlib import Path

import pytest

from broker.agent.secret_file import write_secret_file
from broker.agent.settings import ClientSettingsError


def test_the_mode_is_what_was_asked_for_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        write_secret_file(tmp_path / "a", b"x", mode=0o440)
        os.umask(0)
        write_secret_file(tmp_path / "b", b"x", mode=0o600)
    finally:
        os.umask(before)
    assert [file.stat().st_mode & 0o777 for file in (tmp_path / "a", tmp_path / "b")] == [0o440, 0o600]


def test_a_reader_of_the_old_file_keeps_the_whole_old_value(tmp_path: Path) -> None:
    file = tmp_path / "key"
    assert write_secret_file(file, b"old value", mode=0o600)
    with file.open("rb") as reader:
        assert write_secret_file(file, b"new", mode=0o600)
        assert reader.read() == b"old value"
    assert file.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [file]


def test_the_same_value_leaves_the_file_alone(tmp_path: Path) -> None:
    file = tmp_path / "key"
    write_secret_file(file, b"value", mode=0o600)
    before = file.stat()
    assert not write_secret_file(file, b"value", mode=0o600)
    assert file.stat().st_ino == before.st_ino


@pytest.mark.parametrize(("data", "mode"), [(b"eulav", 0o600), (b"value", 0o640)])
def test_other_bytes_of_the_same_length_and_another_mode_are_a_change(tmp_path: Path, data: bytes, mode: int) -> None:
    file = tmp_path / "key"
    write_secret_file(file, b"value", mode=0o600)
    assert write_secret_file(file, data, mode=mode)
    assert (file.read_bytes(), file.stat().st_mode & 0o777) == (data, mode)


@pytest.mark.parametrize("kind", ["link", "directory", "fifo"])
def test_what_is_no_regular_file_is_never_replaced(tmp_path: Path, kind: str) -> None:
    target, file = tmp_path / "target", tmp_path / "key"
    target.write_bytes(b"other")
    match kind:
        case "link":
            file.symlink_to(target)
        case "directory":
            file.mkdir()
        case _:
            os.mkfifo(file)
    with pytest.raises(ClientSettingsError, match="no regular file"):
        write_secret_file(file, b"value", mode=0o600)
    assert target.read_bytes() == b"other"


def test_nothing_is_left_behind_when_the_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ClientSettingsError, match="No space left"):
        write_secret_file(tmp_path / "key", b"value", mode=0o600)
    assert list(tmp_path.iterdir()) == []
