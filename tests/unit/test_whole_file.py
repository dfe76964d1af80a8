import os
import stat
from pathlib import Path

import pytest

from broker.whole_file import replace_whole


def test_a_file_gets_the_mode_that_was_asked_for_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        replace_whole(tmp_path / "ca.crl", [b"list"], mode=0o644)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "ca.crl").stat().st_mode) == 0o644


def test_a_link_is_replaced_and_what_it_leads_to_is_not_written(tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(b"theirs")
    (tmp_path / "file").symlink_to(tmp_path / "other")
    replace_whole(tmp_path / "file", [b"ours"], mode=0o600)
    assert ((tmp_path / "file").read_bytes(), (tmp_path / "other").read_bytes()) == (b"ours", b"theirs")


def test_a_failure_leaves_what_was_there_and_nothing_beside_it(tmp_path: Path) -> None:
    (tmp_path / "in the way").mkdir()
    with pytest.raises(OSError, match="directory"):
        replace_whole(tmp_path / "in the way", [b"secret"], mode=0o600)
    assert [entry.name for entry in tmp_path.iterdir()] == ["in the way"]
