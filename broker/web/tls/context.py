"""The context of the TLS library: strict, and given the very bytes that were checked."""

import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Literal

from broker.secret import SecretValue

# Six suites: key exchange that keeps the past secret, and nothing but AEAD. TLS 1.3 has its own three, all AEAD.
_SUITES_OF_TLS_1_2: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"
_MINIMUM: Final = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


def new_context(*, minimum: Literal["1.2", "1.3"] = "1.3") -> ssl.SSLContext:
    """Return a strict context without a certificate and without anybody whom it admits.

    It is never changed once it is in force: a new certificate or authority means a new context, because
    session tickets and everything else that a context remembers would outlive the change.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = _MINIMUM[minimum]
    context.set_ciphers(_SUITES_OF_TLS_1_2)
    context.set_alpn_protocols(["http/1.1"])
    # A resumed session skips every check of the certificate. Each of these two leaves a gap without the other:
    # the number of tickets counts in TLS 1.3 only, the option in 1.2 only. The listener refuses what is left,
    # the sessions of TLS 1.2 that OpenSSL knows by their ids.
    context.num_tickets = 0
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    return context


def load_pair(context: ssl.SSLContext, *, pem: bytes, key: SecretValue) -> None:
    """Let `context` show the certificate and chain in `pem`, whose key is `key`.

    Raises:
        OSError, ValueError: The TLS library does not take them.

    """
    with _as_file(pem) as certificate, _as_file(key.reveal()) as key_file:
        # An encrypted key would make OpenSSL ask the terminal; whoever read the files has refused it already.
        context.load_cert_chain(certificate, key_file, password="")


def load_trust(context: ssl.SSLContext, *, pem: bytes, lists: bytes | None) -> None:
    """Let `context` admit those whom the authorities in `pem` have signed, but for what `lists` revokes.

    Raises:
        OSError, ValueError: The TLS library does not take them.

    """
    with _as_file(pem + (b"" if lists is None else b"\n" + lists)) as file:
        context.load_verify_locations(cafile=file)
    if lists is not None:
        if not context.cert_store_stats()["crl"]:
            message = "the TLS library took no revocation list"
            raise ValueError(message)
        # LEAF alone would accept a revoked authority between the root and the leaf; CHAIN contains it.
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_CHAIN


@contextmanager
def _as_file(data: bytes) -> Iterator[str]:
    """Give `data` a name for OpenSSL, which reads files only; it never reaches a disk."""
    descriptor = os.memfd_create("broker-tls", os.MFD_CLOEXEC)
    try:
        with os.fdopen(os.dup(descriptor), "wb") as handle:
            handle.write(data)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)
