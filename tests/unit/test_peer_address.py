"""An address has one form, whichever socket shows it."""

import pytest

from broker.peer_address import parse_address


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("10.1.2.3", "10.1.2.3"),
        ("::ffff:10.1.2.3", "10.1.2.3"),
        ("2001:db8::1", "2001:db8::1"),
        ("::1", "::1"),
        ("fe80::1%eth0", "fe80::1%eth0"),
    ],
)
def test_a_mapped_address_is_the_one_that_is_meant(text: str, meant: str) -> None:
    assert str(parse_address(text)) == meant


@pytest.mark.parametrize("text", ["", "localhost", "10.1.2.3:80", "/run/broker.sock"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="IPv4 or IPv6"):
        parse_address(text)
