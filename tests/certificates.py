"""Certificates for tests: good ones, and every oddity that a peer may present."""

import datetime as dt
import ipaddress
import itertools
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

Eku = Literal["both", "client", "server", "any"]
_EKUS = {
    "both": [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH],
    "client": [ExtendedKeyUsageOID.CLIENT_AUTH],
    "server": [ExtendedKeyUsageOID.SERVER_AUTH],
    "any": [ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE],
}
_DAY = dt.timedelta(days=1)


class Files(NamedTuple):
    """A certificate and its key; unpacks as `certificate, key`."""

    certificate: Path
    key: Path

    @property
    def der(self) -> bytes:
        return ssl.PEM_cert_to_DER_cert(self.certificate.read_text())

    @property
    def parsed(self) -> x509.Certificate:
        return x509.load_pem_x509_certificate(self.certificate.read_bytes())


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """A key usage extension; the default is what a leaf should have."""

    digital_signature: bool = True
    key_encipherment: bool = False
    key_cert_sign: bool = False
    crl_sign: bool = False
    critical: bool = True


class TestAuthority:
    """A certificate authority in `directory`: `ca_path`, and as many leaves as a test wants."""

    __test__ = False

    def __init__(
        self, directory: Path, *, common_name: str = "test authority", not_after: dt.timedelta = 30 * _DAY
    ) -> None:
        self.directory = directory
        self._serial = itertools.count(1)
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
        now = dt.datetime.now(dt.UTC)
        builder = _builder(
            self._name, self._name, self._key.public_key(), min(now - _DAY, now + not_after - _DAY), now + not_after
        )
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=1), critical=True)
        builder = builder.add_extension(
            _usage(Usage(digital_signature=False, key_cert_sign=True, crl_sign=True)), critical=True
        )
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), False)
        self.certificate = builder.sign(self._key, hashes.SHA256())
        directory.mkdir(parents=True, exist_ok=True)
        self.ca_path = directory / f"ca-{common_name.replace(' ', '-')}.crt"
        self.ca_path.write_bytes(self.certificate.public_bytes(serialization.Encoding.PEM))

    def server(self, *, dns: Sequence[str] = ("localhost",), ips: Sequence[str] = ("127.0.0.1",)) -> Files:
        """Return a certificate that a broker on this machine can show."""
        return self.leaf(dns=dns, ips=ips, eku="server", common_name="server")

    def agent(self, spiffe: str = "spiffe://test.example/logflux/shipper") -> Files:
        """Return a certificate that an agent can show."""
        return self.leaf(uris=(spiffe,), common_name="agent")

    def leaf(
        self,
        *,
        uris: Sequence[str] = (),
        dns: Sequence[str] = (),
        ips: Sequence[str] = (),
        not_before: dt.datetime | None = None,
        not_after: dt.datetime | None = None,
        eku: Eku | None = "both",
        key_usage: bool | Usage = True,
        ca: bool = False,
        common_name: str | None = "leaf",
        self_signed: bool = False,
        critical_san: bool | None = None,
    ) -> Files:
        """Return a new certificate with its key; times without a zone are UTC."""
        key = ec.generate_private_key(ec.SECP256R1())
        now = dt.datetime.now(dt.UTC)
        subject = x509.Name([] if common_name is None else [x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
        issuer, issuer_key = (subject, key) if self_signed else (self._name, self._key)
        builder = _builder(subject, issuer, key.public_key(), not_before or now - _DAY, not_after or now + _DAY)
        builder = builder.add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
        builder = builder.add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), False
        )
        if key_usage:
            usage = key_usage if isinstance(key_usage, Usage) else Usage()
            builder = builder.add_extension(_usage(usage), critical=usage.critical)
        if eku is not None:
            builder = builder.add_extension(x509.ExtendedKeyUsage(_EKUS[eku]), False)
        names: list[x509.GeneralName] = [
            *(x509.UniformResourceIdentifier._init_without_validation(uri) for uri in uris),
            *(x509.DNSName._init_without_validation(name) for name in dns),
            *(x509.IPAddress(ipaddress.ip_address(ip)) for ip in ips),
        ]
        if names:
            critical = common_name is None if critical_san is None else critical_san
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical)
        return self._write(builder.sign(issuer_key, hashes.SHA256()), key)

    def crl(
        self,
        *revoked: Files,
        number: int = 1,
        start: dt.timedelta = -_DAY,
        end: dt.timedelta = _DAY,
        signer: "TestAuthority | None" = None,
        file: str = "ca.crl",
        encoding: serialization.Encoding = serialization.Encoding.PEM,
    ) -> Path:
        """Write a revocation list of `revoked` with this number, valid from `start` to `end` from now."""
        now = dt.datetime.now(dt.UTC)
        builder = x509.CertificateRevocationListBuilder().issuer_name(self._name).last_update(now + start)
        builder = builder.next_update(now + end)
        builder = builder.add_extension(x509.CRLNumber(number), critical=False)
        key = (signer or self)._key
        builder = builder.add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), False)
        for files in revoked:
            entry = x509.RevokedCertificateBuilder().serial_number(files.parsed.serial_number)
            builder = builder.add_revoked_certificate(entry.revocation_date(now).build())
        path = self.directory / file
        path.write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(encoding))
        return path

    def _write(self, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> Files:
        stem = f"leaf-{next(self._serial)}"
        files = Files(self.directory / f"{stem}.crt", self.directory / f"{stem}.key")
        files.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        files.key.touch(mode=0o600)
        files.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return files


def client_context(ca_path: Path, files: tuple[Path, Path] | None = None) -> ssl.SSLContext:
    """Return the TLS settings of an agent that trusts `ca_path` and shows `files` (certificate, key)."""
    context = ssl.create_default_context(cafile=str(ca_path))
    if files is not None:
        context.load_cert_chain(*files)
    return context


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public_key: ec.EllipticCurvePublicKey,
    not_before: dt.datetime,
    not_after: dt.datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(not_before)
        .not_valid_after(not_after)
    )


def _usage(usage: Usage) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=usage.digital_signature,
        content_commitment=False,
        key_encipherment=usage.key_encipherment,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=usage.key_cert_sign,
        crl_sign=usage.crl_sign,
        encipher_only=False,
        decipher_only=False,
    )
