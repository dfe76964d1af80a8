"""One certificate, one identity or a reason why not."""

import base64
import hashlib
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.errors import IdentityRefusedError, IdentityRefusedReason
from broker.identity import IdentityKind, PeerIdentity, identity_of, require_valid
from tests.certificates import TestAuthority, Usage

SHIPPER = "spiffe://prod.example/logflux/shipper"


@pytest.fixture
def authority(tmp_path: Path) -> TestAuthority:
    return TestAuthority(tmp_path)


def refused(certificate: bytes) -> IdentityRefusedReason:
    with pytest.raises(IdentityRefusedError) as caught:
        identity_of(certificate)
    return caught.value.reason


def test_one_spiffe_uri_is_the_identity(authority: TestAuthority) -> None:
    leaf = authority.leaf(uris=(SHIPPER,))

    identity = identity_of(leaf.der)

    assert (identity.kind, identity.name) == (IdentityKind.SPIFFE, SHIPPER)
    assert identity.not_before == leaf.parsed.not_valid_before_utc.timestamp()
    assert identity.not_after == leaf.parsed.not_valid_after_utc.timestamp()


def test_thumbprint_is_base64url_sha256_of_the_leaf_without_padding(authority: TestAuthority) -> None:
    der = authority.leaf(uris=(SHIPPER,)).der

    thumbprint = identity_of(der).thumbprint

    assert re.fullmatch(r"[A-Za-z0-9_-]{43}", thumbprint)
    assert base64.urlsafe_b64decode(thumbprint + "=") == hashlib.sha256(der).digest()


def test_dns_names_beside_a_spiffe_id_are_ignored(authority: TestAuthority) -> None:
    leaf = authority.leaf(uris=(SHIPPER,), dns=("a.example", "*.b.example"))
    assert identity_of(leaf.der).name == SHIPPER


def test_one_dns_name_is_the_identity_in_lower_case(authority: TestAuthority) -> None:
    identity = identity_of(authority.leaf(dns=("Agent-1.XN--bcher-kva.Example",), ips=("10.0.0.1",)).der)
    assert (identity.kind, identity.name) == (IdentityKind.DNS, "agent-1.xn--bcher-kva.example")


@pytest.mark.parametrize("ips", [(), ("10.0.0.1",)], ids=["no SAN", "an address only"])
def test_without_a_name_the_fingerprint_names_the_peer_and_never_the_common_name(
    authority: TestAuthority, ips: tuple[str, ...]
) -> None:
    der = authority.leaf(common_name="admin.example", ips=ips).der

    identity = identity_of(der)

    assert identity.kind is IdentityKind.FINGERPRINT
    assert identity.name == f"sha256:{hashlib.sha256(der).hexdigest()}"


def test_two_uri_names_are_refused_even_if_one_alone_is_spiffe(authority: TestAuthority) -> None:
    assert refused(authority.leaf(uris=(SHIPPER, SHIPPER)).der) is IdentityRefusedReason.TWO_URI_SANS
    assert refused(authority.leaf(uris=(SHIPPER, "http://a/b")).der) is IdentityRefusedReason.TWO_URI_SANS


def test_several_dns_names_without_a_uri_are_refused(authority: TestAuthority) -> None:
    assert refused(authority.leaf(dns=("a.example", "b.example")).der) is IdentityRefusedReason.SEVERAL_DNS_SANS


@pytest.mark.parametrize("uri", ["http://x/a", "SPIFFE://prod.example/a", "spiffe:/prod/a", "urn:spiffe://p/a", ""])
def test_a_uri_that_is_not_spiffe_is_refused_and_no_dns_name_stands_in(authority: TestAuthority, uri: str) -> None:
    assert refused(authority.leaf(uris=(uri,), dns=("a.example",)).der) is IdentityRefusedReason.URI_NOT_SPIFFE


@pytest.mark.parametrize(
    "uri",
    [
        "spiffe://prod.example",
        "spiffe://prod.example/",
        "spiffe://prod.example/a/",
        "spiffe://prod.example//a",
        "spiffe://prod.example/a/../b",
        "spiffe://prod.example/.",
        "spiffe:///a",
        "spiffe://Prod.example/a",
        "spiffe://prod.example:443/a",
        "spiffe://me@prod.example/a",
        "spiffe://[::1]/a",
        "spiffe://prod.example/%61",
        "spiffe://pr%6fd.example/a",
        "spiffe://prod.example/a?b=c",
        "spiffe://prod.example/a#b",
        "spiffe://prod.example/a\n",
        "spiffe://prod.example/a\x00b",
        "spiffe://prod.example/a b",
        f"spiffe://{'p' * 256}/a",
        f"spiffe://p/{'a' * 2048}",
    ],
)
def test_a_malformed_spiffe_id_is_refused(authority: TestAuthority, uri: str) -> None:
    assert refused(authority.leaf(uris=(uri,)).der) is IdentityRefusedReason.SPIFFE_ID_MALFORMED


@pytest.mark.parametrize("uri", ["spiffe://10.0.0.1/a", "spiffe://a_b-c.d/A.B_c-1/...", f"spiffe://p/{'a' * 2036}"])
def test_a_rare_but_legal_spiffe_id_is_kept_to_the_byte(authority: TestAuthority, uri: str) -> None:
    assert identity_of(authority.leaf(uris=(uri,)).der).name == uri


@pytest.mark.parametrize(
    "name",
    [
        "*.example",
        "localhost",
        "a.example.",
        "a_b.example",
        "-a.example",
        "a-.example",
        "a..example",
        ".a.example",
        "a.example\n",
        "a.example\x00.b",
        "10.0.0.1",
        f"{'a' * 64}.example",
        f"{'a.' * 127}aa",
        "",
    ],
)
def test_a_dns_name_that_can_not_be_an_identity_is_refused(authority: TestAuthority, name: str) -> None:
    assert refused(authority.leaf(dns=(name,)).der) is IdentityRefusedReason.DNS_SAN_MALFORMED


def test_an_authority_is_no_peer(authority: TestAuthority) -> None:
    assert refused(authority.leaf(uris=(SHIPPER,), ca=True).der) is IdentityRefusedReason.CA_CERTIFICATE


@pytest.mark.parametrize(
    "usage",
    [False, Usage(key_cert_sign=True), Usage(crl_sign=True), Usage(digital_signature=False, key_encipherment=True)],
    ids=["absent", "signs certificates", "signs CRLs", "no digitalSignature"],
)
def test_a_wrong_key_usage_is_refused(authority: TestAuthority, usage: bool | Usage) -> None:
    assert refused(authority.leaf(uris=(SHIPPER,), key_usage=usage).der) is IdentityRefusedReason.KEY_USAGE


def test_key_usage_must_be_critical_with_a_spiffe_id_only(authority: TestAuthority) -> None:
    loose = Usage(critical=False)
    assert refused(authority.leaf(uris=(SHIPPER,), key_usage=loose).der) is IdentityRefusedReason.KEY_USAGE
    assert identity_of(authority.leaf(dns=("a.example",), key_usage=loose).der).name == "a.example"


@pytest.mark.parametrize("eku", ["server", "any", None])
def test_without_client_auth_a_certificate_is_refused(authority: TestAuthority, eku: object) -> None:
    assert refused(authority.leaf(uris=(SHIPPER,), eku=eku).der) is IdentityRefusedReason.EXTENDED_KEY_USAGE


def test_client_auth_alone_is_enough(authority: TestAuthority) -> None:
    assert identity_of(authority.leaf(uris=(SHIPPER,), eku="client").der).name == SHIPPER


def test_the_setting_allows_no_eku_and_still_no_wrong_one(authority: TestAuthority) -> None:
    assert identity_of(authority.leaf(uris=(SHIPPER,), eku=None).der, allow_no_eku=True).name == SHIPPER
    with pytest.raises(IdentityRefusedError):
        identity_of(authority.leaf(uris=(SHIPPER,), eku="server").der, allow_no_eku=True)


def test_a_non_ascii_uri_is_unparsable_or_refused(authority: TestAuthority) -> None:
    assert refused(authority.leaf(uris=("spiffe://prod.example/ü",)).der) in {
        IdentityRefusedReason.UNPARSABLE,
        IdentityRefusedReason.SPIFFE_ID_MALFORMED,
    }


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=600))
def test_garbage_is_unparsable_and_nothing_else(garbage: bytes) -> None:
    assert refused(garbage) is IdentityRefusedReason.UNPARSABLE


@pytest.mark.filterwarnings("ignore:Parsed a serial number")
def test_a_damaged_certificate_gives_an_identity_or_the_declared_error(authority: TestAuthority) -> None:
    good = authority.leaf(uris=(SHIPPER,), dns=("a.example",)).der
    refusals = set()
    for position in range(len(good)):
        for byte in (0, 3, 0xFF, good[position] ^ 1):
            damaged = good[:position] + bytes([byte]) + good[position + 1 :]
            try:
                identity_of(damaged)
            except IdentityRefusedError as error:
                refusals.add(error.reason)
    # The signature is no business of this module, so a change may pass; these are seen all the same.
    assert {IdentityRefusedReason.UNPARSABLE, IdentityRefusedReason.URI_NOT_SPIFFE} <= refusals


@pytest.mark.parametrize(("now", "valid"), [(99.9, False), (100.0, True), (200.0, True), (200.1, False)])
def test_validity_is_asked_at_the_time_of_use_bounds_included(now: float, valid: bool) -> None:
    identity = PeerIdentity(kind=IdentityKind.DNS, name="a.b", thumbprint="", not_before=100.0, not_after=200.0)
    if valid:
        require_valid(identity, now=now)
        return
    with pytest.raises(IdentityRefusedError) as caught:
        require_valid(identity, now=now)
    assert caught.value.reason is IdentityRefusedReason.OUTSIDE_VALIDITY
