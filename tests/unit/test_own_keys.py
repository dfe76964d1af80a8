"""The broker's own keys, which no repr shows."""

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from broker.assembly.own_keys import OwnKeys
from broker.audit.checkpoint import CheckpointKey
from broker.audit.fingerprint import Fingerprinter
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
