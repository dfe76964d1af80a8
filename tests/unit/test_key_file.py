import os
import struct
from pathlib import Path

import pytest

from broker.errors import SettingsInvalidError
from broker.key_file import load_or_create_secret, read_private, write_private


def test_a_key_is_private_from_the_first_byte_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        write_private(tmp_path / "key", b"x")
    finally:
        os.umask(before)
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600


def test_a_key_is_never_overwritten(tmp_path: Path) -> None:
    write_private(tmp_path / "key", b"x")
    with pytest.raises(SettingsInvalidError, match="never overwritten"):
        write_private(tmp_path / "key", b"y")


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o660, 0o620, 0o601])
def test_a_key_that_others_can_reach_is_refused_with_the_command_that_mends_it(tmp_path: Path, mode: int) -> None:
    file = tmp_path / "key"
    write_private(file, b"x")
    file.chmod(mode)
    with pytest.raises(SettingsInvalidError, match="chmod 600"):
        read_private(file)


def test_in_a_kubernetes_volume_the_manifest_is_what_mends_it(tmp_path: Path) -> None:
    (tmp_path / "..1").mkdir()
    write_private(tmp_path / "..1" / "key", b"x")
    (tmp_path / "..1" / "key").chmod(0o644)
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "key").symlink_to("..data/key")
    with pytest.raises(SettingsInvalidError, match=r"mode 0644 .* defaultMode: 0400") as caught:
        read_private(tmp_path / "key")
    assert "chmod" not in str(caught.value)


def test_the_group_of_a_kubernetes_volume_may_read(tmp_path: Path) -> None:
    file = tmp_path / "key"
    write_private(file, b"x")
    file.chmod(0o440)
    if os.geteuid() == 0:
        assert read_private(file) == b"x"
    else:
        # The exception is for files of root: a volume that the kubelet wrote.
        with pytest.raises(SettingsInvalidError):
            read_private(file)


def test_a_fifo_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "key", 0o600)
    with pytest.raises(SettingsInvalidError, match="regular"):
        read_private(tmp_path / "key")


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsInvalidError, match="nothing"):
        read_private(tmp_path / "nothing")


def test_a_secret_is_made_once_and_kept(tmp_path: Path) -> None:
    first = load_or_create_secret(tmp_path / "key")
    assert len(first) == 32
    assert load_or_create_secret(tmp_path / "key") == first


OWNER, USER, GROUP_OF_FILE, GROUP, MASK, OTHER = 1, 2, 4, 8, 16, 32
NOBODY = 0xFFFFFFFF


def show_by_access_list(file: Path, *entries: tuple[int, int, int]) -> None:
    """Make `file` one of root, of a group that is not ours, with an access list, as systemd does for a credential."""
    write_private(file, b"x")
    os.chown(file, 0, 54321)
    base = [(OWNER, 4, NOBODY), (GROUP_OF_FILE, 0, NOBODY), (MASK, 4, NOBODY), (OTHER, 0, NOBODY)]
    packed = b"".join(struct.pack("<HHI", *entry) for entry in sorted([*base, *entries]))
    os.setxattr(file, "system.posix_acl_access", b"\x02\x00\x00\x00" + packed)
    assert file.stat().st_mode & 0o777 == 0o440


@pytest.mark.skipif(os.geteuid() != 0, reason="root alone can make a file of root, as systemd does")
def test_a_credential_of_systemd_that_an_access_list_shows_to_us_alone_is_read(tmp_path: Path) -> None:
    show_by_access_list(tmp_path / "key", (USER, 4, os.geteuid()))
    assert read_private(tmp_path / "key") == b"x"


@pytest.mark.skipif(os.geteuid() != 0, reason="root alone can make a file of root, as systemd does")
@pytest.mark.parametrize("entry", [(USER, 4, 1234), (GROUP, 4, 1234)], ids=["user", "group"])
def test_an_access_list_that_shows_a_key_to_anybody_else_is_refused(
    tmp_path: Path, entry: tuple[int, int, int]
) -> None:
    show_by_access_list(tmp_path / "key", (USER, 4, os.geteuid()), entry)
    with pytest.raises(SettingsInvalidError, match="lets others at the key"):
        read_private(tmp_path / "key")
