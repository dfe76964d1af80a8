"""The broker's own keys: made once, kept to their owner, and shown by no repr."""

import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from broker.assembly.own_keys import OwnKeys, load_or_create_signing_key
from broker.audit.checkpoint import CheckpointKey
from broker.audit.fingerprint import Fingerprinter
from broker.errors import SettingsInvalidError
from broker.tokens import SigningKey


def test_no_key_is_in_the_repr_of_the_keys() -> None:
    pem, fingerprint, checkpoint = (
        SigningKey.generate_pem(),
        b"fingerprint-key-of-32-bytes-or-so",
        Ed25519PrivateKey.generate(),
    )
    keys = OwnKeys(
        token=SigningKey(pem),
        checkpoint=CheckpointKey(checkpoint),
        fingerprints=Fingerprinter(key=fingerprint, key_id="k1"),
    )
    shown = repr(keys)
    assert "fingerprint-key" not in shown
    assert pem.decode().splitlines()[1] not in shown
    assert repr(checkpoint.private_bytes_raw())[2:-1] not in shown


def test_the_key_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    file = tmp_path / "token.key"
    made = load_or_create_signing_key(file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert load_or_create_signing_key(file).kid == made.kid


def test_the_file_holds_pkcs8_that_another_library_reads(tmp_path: Path) -> None:
    file = tmp_path / "token.key"
    load_or_create_signing_key(file)
    assert file.read_bytes().startswith(b"-----BEGIN PRIVATE KEY-----")
    key = load_pem_private_key(file.read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert key.curve.name == "secp256r1"


@pytest.mark.parametrize("mode", [0o604, 0o602, 0o660, 0o666])
def test_a_key_that_others_can_reach_is_refused(tmp_path: Path, mode: int) -> None:
    file = tmp_path / "token.key"
    load_or_create_signing_key(file)
    file.chmod(mode)
    with pytest.raises(SettingsInvalidError, match="chmod 600"):
        load_or_create_signing_key(file)


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"canary-6f1b",
        b"-----BEGIN PRIVATE KEY-----\ncanary-6f1b\n-----END PRIVATE KEY-----\n",
        _pem(ec.generate_private_key(ec.SECP384R1())),
        _pem(ec.generate_private_key(ec.SECP256R1()))[:80],
        b'{"kty":"oct","k":"canary"}',
        b"\xff\xfe\x00",
    ],
    ids=["empty", "text", "pem of nothing", "another curve", "cut", "symmetric", "binary"],
)
def test_a_file_that_holds_another_thing_is_refused_without_showing_it(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "token.key"
    file.write_bytes(content)
    file.chmod(0o600)
    with pytest.raises(SettingsInvalidError) as raised:
        load_or_create_signing_key(file)
    assert "token.key" in raised.value.detail
    assert "canary" not in raised.value.detail
    assert raised.value.__cause__ is None
    assert file.read_bytes() == content
