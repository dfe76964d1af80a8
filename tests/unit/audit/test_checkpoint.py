"""Checkpoints are signed notes in the C2SP form."""

import base64
import os
import resource
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from broker.audit.checkpoint import (
    Checkpoint,
    CheckpointKey,
    VerifierKey,
    append_note,
    load_or_create_checkpoint_key,
    notes_in,
    open_note,
)
from broker.audit.heartbeat import Heartbeat
from broker.errors import SettingsInvalidError

CHECKPOINT = Checkpoint(
    trail_id="ab" * 16,
    size=42,
    head=bytes(range(32)),
    time="2026-01-31T12:00:00.000Z",
    heartbeat=Heartbeat(run="cd" * 8, number=7, uptime_ms=360_250, interval_ms=60_000),
)
# The example key and note that golang.org/x/mod/sumdb/note publishes.
GO_KEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
GO_TEXT = b"If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
GO_SIGNATURE = "x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM="


@pytest.fixture
def key(tmp_path: Path) -> CheckpointKey:
    return load_or_create_checkpoint_key(tmp_path / "checkpoint.key")


def test_a_note_says_what_was_signed(key: CheckpointKey) -> None:
    note = key.sign(CHECKPOINT)
    assert note.decode().split("\n")[:3] == ["logflux-broker/chain", "42", base64.b64encode(CHECKPOINT.head).decode()]
    assert open_note(note, key.verifier) == CHECKPOINT


def test_a_note_of_an_older_broker_has_no_heartbeat_and_is_as_good(key: CheckpointKey) -> None:
    older = replace(CHECKPOINT, heartbeat=None)
    assert open_note(key.sign(older), key.verifier) == older


def test_the_published_go_example_verifies() -> None:
    verifier = VerifierKey.parse(GO_KEY)
    signature = base64.b64decode(GO_SIGNATURE)
    assert signature[:4] == verifier.key_id
    assert verifier.verifies(signature[4:], GO_TEXT)
    assert not verifier.verifies(signature[4:], GO_TEXT + b"\n")


def test_every_changed_byte_spoils_the_note(key: CheckpointKey) -> None:
    note = key.sign(CHECKPOINT)
    for place in range(len(note) - 1):
        changed = note[:place] + bytes([note[place] ^ 1]) + note[place + 1 :]
        assert open_note(changed, key.verifier) is None, changed


def test_signatures_of_other_keys_are_ignored_and_one_of_ours_must_be_there(key: CheckpointKey, tmp_path: Path) -> None:
    other = load_or_create_checkpoint_key(tmp_path / "other.key")
    note = key.sign(CHECKPOINT)
    both = note + other.sign(CHECKPOINT).split(b"\n\n")[1]
    assert open_note(both, key.verifier) == open_note(both, other.verifier) == CHECKPOINT
    assert open_note(note, other.verifier) is None


def test_the_key_file_is_private_and_read_back(tmp_path: Path) -> None:
    file = tmp_path / "checkpoint.key"
    first, second = load_or_create_checkpoint_key(file), load_or_create_checkpoint_key(file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert first.verifier == second.verifier
    assert VerifierKey.parse(first.verifier.text) == first.verifier


def test_a_file_with_another_kind_of_key_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "checkpoint.key"
    file.touch(mode=0o600)
    file.write_bytes(b"-----BEGIN NOTHING-----\n")
    with pytest.raises(SettingsInvalidError, match="no Ed25519 private key"):
        load_or_create_checkpoint_key(file)


@pytest.mark.parametrize("text", ["", "a+b+c", "name+00000000+" + GO_KEY.split("+")[2], GO_KEY + "x"])
def test_a_verifier_key_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(SettingsInvalidError, match="verifier key"):
        VerifierKey.parse(text)


def test_the_file_keeps_every_note_and_a_torn_one_is_none(key: CheckpointKey, tmp_path: Path) -> None:
    file = tmp_path / "checkpoints.log"
    note = key.sign(CHECKPOINT)
    append_note(file, note)
    with file.open("ab") as handle:
        handle.write(note[:60])
    append_note(file, note)
    with file.open("ab") as handle:
        handle.write(note[:-1])
    assert list(notes_in(file.read_bytes())) == [note, note]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_disk_that_takes_half_a_note_keeps_none_of_it(key: CheckpointKey, tmp_path: Path) -> None:
    file = tmp_path / "checkpoints.log"
    note = key.sign(CHECKPOINT)
    append_note(file, note)
    size = file.stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, hard))
    try:
        with pytest.raises(OSError, match=os.strerror(28)):
            append_note(file, note)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert file.stat().st_size == size
