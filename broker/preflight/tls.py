"""The listener's files: what the start would refuse, and what agents would refuse later."""

import ipaddress
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.x509.oid import ExtendedKeyUsageOID

from broker.finding import Finding, FoundError, Severity
from broker.web.tls.certificates import (
    ClientTrust,
    ServerPair,
    TlsFiles,
    is_authority,
    read_certificates,
    read_pair,
    read_trust,
)

_SOON_SECONDS: Final = 30 * 86_400.0
# Short-lived certificates are renewed at two thirds of their life; what has less than a fifth left is late.
_SOON_PART: Final = 0.2


def examine_tls(files: TlsFiles, *, hosts: Sequence[str], now: float) -> Iterator[Finding]:
    """Find what is wrong with certificate, key, authorities and lists; `hosts` is what agents connect to. Blocks."""
    try:
        pair = read_pair(files, now=now)
    except FoundError as error:
        yield error.finding
    else:
        yield from _examine_pair(files, pair, hosts=hosts, now=now)
    try:
        trust = read_trust(files, now=now)
    except FoundError as error:
        yield error.finding
    else:
        yield from _examine_trust(files, trust, now=now)


def _examine_pair(files: TlsFiles, pair: ServerPair, *, hosts: Sequence[str], now: float) -> Iterator[Finding]:
    where = str(files.certificate)
    leaf = pair.certificates[0]
    yield from _examine_purpose(where, leaf)
    yield from _examine_names(where, leaf, hosts)
    yield from _examine_chain(where, pair.certificates, now=now)
    if _ends_soon(leaf, now):
        yield _warning("certificate_expires_soon", where, f"expires at {_date(leaf)}", "issue a new certificate")


def _examine_purpose(where: str, leaf: x509.Certificate) -> Iterator[Finding]:
    if is_authority(leaf):
        why = "is an authority's certificate, which agents refuse as a server's"
        yield Finding(code="certificate_purpose", where=where, why=why, fix="issue one for the broker")
    try:
        purposes = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return
    if ExtendedKeyUsageOID.SERVER_AUTH not in purposes:
        why = "has an extended key usage without serverAuth, so agents refuse it"
        yield Finding(code="certificate_purpose", where=where, why=why, fix="issue it with serverAuth")


def _examine_names(where: str, leaf: x509.Certificate, hosts: Sequence[str]) -> Iterator[Finding]:
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        names = x509.SubjectAlternativeName([])
    dns = [name.lower() for name in names.get_values_for_type(x509.DNSName)]
    addresses = [str(address) for address in names.get_values_for_type(x509.IPAddress)]
    if not dns and not addresses:
        why = "names neither a host nor an address, so no agent accepts it"
        yield Finding(code="certificate_names", where=where, why=why, fix="issue it with the names that agents use")
        return
    for host in hosts:
        if not _is_named(host, dns, addresses):
            why = f"does not name {host!r}, by which agents may connect"
            yield _warning("certificate_names", where, why, "issue it with that name too")


def _is_named(host: str, dns: Sequence[str], addresses: Sequence[str]) -> bool:
    try:
        return str(ipaddress.ip_address(host.strip("[]"))) in addresses
    except ValueError:
        lower = host.lower()
        return lower in dns or f"*.{lower.partition('.')[2]}" in dns


def _examine_chain(where: str, chain: Sequence[x509.Certificate], *, now: float) -> Iterator[Finding]:
    for certificate, issuer in pairwise(chain):
        try:
            certificate.verify_directly_issued_by(issuer)
        except (ValueError, TypeError, InvalidSignature):
            why = f"the certificate of {_name(certificate)} is not issued by the next one, {_name(issuer)}"
            fix = "order it: the broker's first, then each issuer"
            yield Finding(code="chain_broken", where=where, why=why, fix=fix)
        if now > issuer.not_valid_after_utc.timestamp():
            why = f"the intermediate {_name(issuer)} expired at {_date(issuer)}"
            yield Finding(code="chain_expired", where=where, why=why, fix="fetch the issuer's new certificate")
        elif _ends_soon(issuer, now):
            why = f"the intermediate {_name(issuer)} expires at {_date(issuer)}"
            yield _warning("certificate_expires_soon", where, why, "fetch the issuer's new certificate")


def _examine_trust(files: TlsFiles, trust: ClientTrust, *, now: float) -> Iterator[Finding]:
    where = str(files.client_ca)
    for authority in trust.authorities:
        if now > authority.not_valid_after_utc.timestamp():
            why = f"the authority {_name(authority)} expired at {_date(authority)}, so its agents are refused"
            yield _warning("client_ca_expired", where, why, "remove it, once no agent uses it")
        elif _ends_soon(authority, now):
            why = f"the authority {_name(authority)} expires at {_date(authority)}"
            yield _warning("client_ca_expires_soon", where, why, "add the new authority beside it")
    for certificate in read_certificates(files.client_ca)[1]:
        if not is_authority(certificate):
            why = f"{_name(certificate)} is no authority, and is passed over"
            yield _warning("client_ca_leaf", where, why, "remove it")
    if trust.lists is not None and files.client_crl is not None:
        left = trust.lists.next_update - now
        if left <= 0:
            yield _warning("crl_stale", str(files.client_crl), "has ended, and is kept", "fetch the newest list")
        elif left < _SOON_PART * (trust.lists.next_update - trust.lists.last_update):
            yield _warning("crl_ends_soon", str(files.client_crl), "ends soon", "fetch the newest list")


def _ends_soon(certificate: x509.Certificate, now: float) -> bool:
    start, end = certificate.not_valid_before_utc.timestamp(), certificate.not_valid_after_utc.timestamp()
    return now <= end < now + min(_SOON_SECONDS, _SOON_PART * (end - start))


def _name(certificate: x509.Certificate) -> str:
    return repr(certificate.subject.rfc4514_string())


def _date(certificate: x509.Certificate) -> str:
    return f"{certificate.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}"


def _warning(code: str, where: str, why: str, fix: str) -> Finding:
    return Finding(code=code, where=where, why=why, fix=fix, severity=Severity.WARNING)
