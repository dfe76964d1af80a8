"""Fingerprints say who received the same value, and nothing of the value."""

import hashlib
import hmac

import pytest

from broker.audit.fingerprint import Fingerprinter
from broker.errors import SettingsInvalidError
from broker.secret import SecretValue

KEY = bytes(range(32))


def of(value: bytes, key: bytes = KEY, key_id: str = "k1") -> str:
    return Fingerprinter(key=key, key_id=key_id).of(SecretValue.from_bytes(value))


def test_it_is_an_hmac_over_the_labelled_value_cut_to_128_bits() -> None:
    mac = hmac.new(KEY, b"lf-fp/v1\0" + b"correct horse", hashlib.sha256).hexdigest()
    assert of(b"correct horse") == f"fp:k1:{mac[:32]}"


def test_another_key_or_value_gives_another_fingerprint() -> None:
    assert len({of(b"12345678"), of(b"12345679"), of(b"12345678", key=bytes(32)), of(b"12345678", key_id="k2")}) == 4


@pytest.mark.parametrize("value", [b"", b"1234", b"1234567"])
def test_a_short_value_has_none(value: bytes) -> None:
    assert of(value) == ""


def test_a_short_key_is_refused() -> None:
    with pytest.raises(SettingsInvalidError, match="16 bytes and needs 32"):
        Fingerprinter(key=bytes(16), key_id="k1")
