"""What the certificates of a small authority say: whose they are, what for, and from when to when."""

import datetime as dt
import ipaddress
from collections.abc import Sequence
from typing import Final, Literal

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from broker.errors import SettingsInvalidError

KeyType = Literal["ec", "rsa4096"]
Usage = Literal["server", "agent"]
PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey

# So that a machine whose clock runs a little behind accepts what has just been made.
_CLOCK_SKEW: Final = dt.timedelta(minutes=5)
_DAYS_LIMIT: Final = 36_500
_RSA_BITS: Final = 4096
_RSA_EXPONENT: Final = 65_537


def new_key(key_type: KeyType) -> PrivateKey:
    """Return a new private key."""
    if key_type == "ec":
        return ec.generate_private_key(ec.SECP256R1())
    return rsa.generate_private_key(public_exponent=_RSA_EXPONENT, key_size=_RSA_BITS)


def validity_of(days: int) -> tuple[dt.datetime, dt.datetime]:
    """Return from when to when what is made now counts, for so many `days`.

    Raises:
        SettingsInvalidError: That is no time, or longer than anybody means.

    """
    if not 1 <= days <= _DAYS_LIMIT:
        message = f"{days} days: ask for 1 to {_DAYS_LIMIT}"
        raise SettingsInvalidError(message)
    # Certificates count whole seconds.
    now = dt.datetime.now(dt.UTC).replace(microsecond=0)
    return now - _CLOCK_SKEW, now + dt.timedelta(days=days)


def certificate_of_authority(
    common_name: str, key: PrivateKey, *, start: dt.datetime, end: dt.datetime
) -> x509.CertificateBuilder:
    """Return what an authority says of itself, to be signed by its own `key`."""
    name = _name(common_name)
    builder = _builder(name, name, key, key, start, end)
    # No path length: it makes leaves only, and none of them may sign anything.
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    return builder.add_extension(_key_usage(authority=True), critical=True)


def certificate_of_leaf(
    common_name: str,
    key: PrivateKey,
    *,
    issuer: x509.Name,
    issuer_key: PrivateKey,
    purposes: x509.ExtendedKeyUsage,
    names: Sequence[x509.GeneralName],
    start: dt.datetime,
    end: dt.datetime,
) -> x509.CertificateBuilder:
    """Return what an authority says of a server or an agent, to be signed by `issuer_key`."""
    builder = _builder(_name(common_name), issuer, key, issuer_key, start, end)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_key_usage(authority=False), critical=True)
    builder = builder.add_extension(purposes, critical=False)
    return builder.add_extension(x509.SubjectAlternativeName(names), critical=False) if names else builder


def alternative_names(spiffe: str | None, dns: Sequence[str], ips: Sequence[str]) -> list[x509.GeneralName]:
    """Return the names as a certificate has them.

    Raises:
        SettingsInvalidError: One is none.

    """
    names: list[x509.GeneralName] = []
    try:
        if spiffe is not None:
            names.append(x509.UniformResourceIdentifier(spiffe))
        names.extend(x509.DNSName(name) for name in dns)
    except ValueError:
        message = "a SPIFFE id and DNS names are ASCII; write an international name as xn--..."
        raise SettingsInvalidError(message) from None
    for ip in ips:
        try:
            names.append(x509.IPAddress(ipaddress.ip_address(ip)))
        except ValueError:
            message = f"{ip!r} is no IP address"
            raise SettingsInvalidError(message) from None
    return names


def purposes_of(usage: Usage, spiffe: str | None) -> x509.ExtendedKeyUsage:
    """Return what a certificate is for; with a SPIFFE id it may serve and connect (X509-SVID §4.4)."""
    if spiffe is not None:
        return x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
    return x509.ExtendedKeyUsage(
        [ExtendedKeyUsageOID.SERVER_AUTH if usage == "server" else ExtendedKeyUsageOID.CLIENT_AUTH]
    )


def _builder(
    subject: x509.Name, issuer: x509.Name, key: PrivateKey, issuer_key: PrivateKey, start: dt.datetime, end: dt.datetime
) -> x509.CertificateBuilder:
    builder = x509.CertificateBuilder(
        issuer_name=issuer,
        subject_name=subject,
        public_key=key.public_key(),
        serial_number=x509.random_serial_number(),
        not_valid_before=start,
        not_valid_after=end,
    )
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    return builder.add_extension(
        x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False
    )


def _key_usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
