"""Tokens as no library would make them: anything at all, signed with the right key."""

import base64
import hashlib
import json

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from broker.identity import IdentityKind, PeerIdentity
from broker.scope import parse_scope
from broker.tokens import SigningKey, TokenClaims, TokenVerifier, sign_token

NOW = 1_795_000_000
ISSUER = "https://broker.example:8443"
NAME = "spiffe://prod.example/shipper"
PEM = SigningKey.generate_pem()
KEY = SigningKey(PEM)
PRIVATE = load_pem_private_key(PEM, None)
HEADER: dict[str, object] = {"alg": "ES256", "typ": "at+jwt", "kid": KEY.kid}


def peer(certificate: bytes = b"leaf", name: str = NAME) -> PeerIdentity:
    thumbprint = base64.urlsafe_b64encode(hashlib.sha256(certificate).digest()).rstrip(b"=").decode()
    return PeerIdentity(IdentityKind.SPIFFE, name, thumbprint, NOW - 100, NOW + 10_000)


def verifier() -> TokenVerifier:
    return TokenVerifier(issuer=ISSUER, audience=ISSUER, keys={KEY.kid: KEY}, max_lifetime=3600)


def issued() -> str:
    granted = TokenClaims(
        token_id="id",
        subject=NAME,
        environment="production",
        scope=parse_scope("env:A vault:secret/a#*"),
        thumbprint=peer().thumbprint,
        issued_at=NOW,
        expires_at=NOW + 300,
    )
    return sign_token(granted, key=KEY, issuer=ISSUER, audience=ISSUER).reveal().decode()


def claims(**changes: object) -> dict[str, object]:
    """Return good claims with `changes`; None takes a claim away."""
    base: dict[str, object] = {
        "iss": ISSUER,
        "aud": ISSUER,
        "sub": NAME,
        "client_id": NAME,
        "jti": "id",
        "iat": NOW,
        "exp": NOW + 300,
        "scope": "env:A",
        "env": "production",
        "cnf": {"x5t#S256": peer().thumbprint},
    }
    return {name: value for name, value in {**base, **changes}.items() if value is not None}


def part(value: object) -> str:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def signed(payload: object, header: object = HEADER) -> str:
    text = f"{part(header)}.{part(payload)}"
    assert isinstance(PRIVATE, ec.EllipticCurvePrivateKey)
    r, s = utils.decode_dss_signature(PRIVATE.sign(text.encode(), ec.ECDSA(hashes.SHA256())))
    return f"{text}.{part(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"
