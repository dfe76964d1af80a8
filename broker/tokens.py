"""Scoped, short-lived, certificate-bound access tokens (RFC 9068, RFC 8705). Pure.

`sign_token` makes a text out of `TokenClaims`, `TokenVerifier.verify` makes `TokenClaims` out of an
`unverified_token`, and nothing else does. ES256 only, one key a `kid`, and a header of exactly three members.
"""

import re
from base64 import urlsafe_b64decode
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from joserfc import jwt
from joserfc.jwk import ECKey

from broker import strict_json
from broker.errors import ScopeRefusedError, TokenRefusedError, TokenRefusedReason
from broker.identity import PeerIdentity
from broker.pattern import Pattern
from broker.scope import format_scope, parse_scope
from broker.secret import Encoding, SecretValue

ALGORITHM: Final = "ES256"
TYPE: Final = "at+jwt"
MAX_TOKEN_CHARACTERS: Final = 7000
_MAX_HEADER_CHARACTERS: Final = 512
_SHAPE: Final = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.[A-Za-z0-9_-]+\Z")
_MEMBERS: Final = {"alg", "typ", "kid"}
_TEXTS: Final = ("iss", "aud", "sub", "client_id", "jti", "scope", "env")
_TIMES: Final = ("iat", "exp")
_LATEST_TIME: Final = 2**40


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenClaims:
    """What a verified token says; made only by `TokenVerifier.verify` and the issuer."""

    token_id: str
    subject: str
    environment: str
    scope: tuple[Pattern, ...]
    thumbprint: str
    issued_at: int
    expires_at: int


class SigningKey:
    """An EC P-256 key pair, named by its thumbprint (RFC 7638)."""

    __slots__ = ("_key", "kid")

    def __init__(self, pem: bytes) -> None:
        """Read a private key in PEM (PKCS 8).

        Raises:
            ValueError: It is no EC P-256 key.

        """
        key = ECKey.import_key(pem)
        if key.curve_name != "P-256" or not key.is_private:
            message = "the signing key is no private EC P-256 key"
            raise ValueError(message)
        self._key = key
        self.kid: str = key.thumbprint()

    def __repr__(self) -> str:
        """Return the name of the key."""
        return f"SigningKey(kid={self.kid!r})"

    @classmethod
    def generate_pem(cls) -> bytes:
        """Return a new private key in PEM."""
        return bytes(ECKey.generate_key("P-256").as_pem(private=True))

    def public_jwk(self) -> dict[str, Any]:
        """Return the public members only (RFC 7517 §4)."""
        return dict(self._key.as_dict(private=False, kid=self.kid, use="sig", alg=ALGORITHM))

    def sign(self, claims: Mapping[str, Any]) -> str:
        """Return `claims` as a signed token."""
        header = {"alg": ALGORITHM, "typ": TYPE, "kid": self.kid}
        return jwt.encode(header, dict(claims), self._key, algorithms=[ALGORITHM])

    def verify(self, unverified_token: str) -> None:
        """Check the signature alone.

        Raises:
            Exception: It is wrong; the library's errors are of several families.

        """
        jwt.decode(unverified_token, self._key, algorithms=[ALGORITHM])


def public_jwks(keys: Mapping[str, SigningKey]) -> dict[str, Any]:
    """Return the key set that verifies the broker's tokens (RFC 7517 §5)."""
    return {"keys": [key.public_jwk() for key in keys.values()]}


def sign_token(claims: TokenClaims, *, key: SigningKey, issuer: str, audience: str) -> SecretValue:
    """Return the token (RFC 9068 §2.2), bound to the certificate of `claims.thumbprint` (RFC 8705 §3.1)."""
    text = key.sign(
        {
            "iss": issuer,
            "aud": audience,
            "sub": claims.subject,
            "client_id": claims.subject,
            "jti": claims.token_id,
            "iat": claims.issued_at,
            "exp": claims.expires_at,
            "scope": format_scope(claims.scope),
            "env": claims.environment,
            "cnf": {"x5t#S256": claims.thumbprint},
        }
    )
    return SecretValue(text.encode("ascii"), encoding=Encoding.TEXT)


class TokenVerifier:
    """Turn an unverified token into claims, in the order of RFC 9068 §4."""

    def __init__(self, *, issuer: str, audience: str, keys: Mapping[str, SigningKey], max_lifetime: int) -> None:
        """Trust `keys`, by their `kid`; `max_lifetime` is in seconds."""
        self._issuer = issuer
        self._audience = audience
        self._keys = dict(keys)
        self._max_lifetime = max_lifetime

    def verify(self, unverified_token: str, *, peer: PeerIdentity, now: float) -> TokenClaims:
        """Return what the token says, when all of it holds for `peer` now.

        Raises:
            TokenRefusedError: Something does not hold; carries which.

        """
        header, claims = _read(unverified_token)
        key = self._key_for(header)
        try:
            key.verify(unverified_token)
        except Exception:  # noqa: BLE001  The library's errors have no common root, and every one means the same.
            _refuse(TokenRefusedReason.SIGNATURE, "the token's signature is wrong")
        return self._checked(claims, peer, now)

    def _key_for(self, header: Mapping[str, Any]) -> SigningKey:
        kind = header.get("typ")
        if not isinstance(kind, str) or kind.lower() not in {TYPE, f"application/{TYPE}"}:
            _refuse(TokenRefusedReason.TYPE, f"the token is no access token; its typ has to be {TYPE}")
        if header.get("alg") != ALGORITHM:
            _refuse(TokenRefusedReason.ALGORITHM, f"the token is not signed with {ALGORITHM}")
        kid = header.get("kid")
        key = self._keys.get(kid) if isinstance(kid, str) else None
        if key is None or set(header) != _MEMBERS:
            _refuse(TokenRefusedReason.UNKNOWN_KEY, "the token names no key of this broker, or brings one of its own")
        return key

    def _checked(self, claims: Mapping[str, Any], peer: PeerIdentity, now: float) -> TokenClaims:
        cnf = claims.get("cnf")
        if (
            not all(isinstance(claims.get(name), str) for name in _TEXTS)
            or not all(_is_time(claims.get(name)) for name in _TIMES)
            or not _is_time(claims.get("nbf", 0))
            or not isinstance(cnf, dict)
        ):
            _refuse(TokenRefusedReason.CLAIMS, "a claim of the token is missing or of the wrong kind")
        if claims["iss"] != self._issuer:
            _refuse(TokenRefusedReason.ISSUER, "another broker issued the token")
        if claims["aud"] != self._audience:
            _refuse(TokenRefusedReason.AUDIENCE, "the token is for another audience")
        self._check_times(claims["iat"], claims["exp"], claims.get("nbf", 0), now)
        if cnf.get("x5t#S256") != peer.thumbprint:
            _refuse(
                TokenRefusedReason.BINDING_MISMATCH,
                "the token is bound to another certificate; a renewed certificate needs a new token",
            )
        if not claims["sub"] == claims["client_id"] == peer.name:
            _refuse(TokenRefusedReason.SUBJECT_MISMATCH, "the token belongs to another identity")
        try:
            scope = parse_scope(claims["scope"])
        except ScopeRefusedError:
            _refuse(TokenRefusedReason.CLAIMS, "the token's scope can't be read")
        return TokenClaims(
            token_id=claims["jti"],
            subject=claims["sub"],
            environment=claims["env"],
            scope=scope,
            thumbprint=peer.thumbprint,
            issued_at=claims["iat"],
            expires_at=claims["exp"],
        )

    def _check_times(self, issued: int, expires: int, not_before: int, now: float) -> None:
        if expires <= now:
            _refuse(TokenRefusedReason.EXPIRED, "the token has expired; ask for a new one")
        if max(issued, not_before) > now + 1:
            _refuse(TokenRefusedReason.NOT_YET_VALID, "the token begins in the future; look at the clocks")
        if not 0 < expires - issued <= self._max_lifetime:
            _refuse(TokenRefusedReason.LIFETIME, "the token lives longer than tokens of this broker do")


def _read(unverified_token: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return header and claims, unverified: cut, decoded, each member once."""
    shape = _SHAPE.match(unverified_token) if len(unverified_token) <= MAX_TOKEN_CHARACTERS else None
    if shape is None or len(shape[1]) > _MAX_HEADER_CHARACTERS:
        _refuse(TokenRefusedReason.MALFORMED, "the token is not three base64url parts of reasonable length")
    return _object(shape[1]), _object(shape[2])


def _object(part: str) -> dict[str, Any]:
    try:
        found = strict_json.read(urlsafe_b64decode(part + "=" * (-len(part) % 4)), what="a part of the token")
    except ValueError:
        found = None
    if not isinstance(found, dict):
        _refuse(TokenRefusedReason.MALFORMED, "a part of the token is no JSON object with each member once")
    return found


def _is_time(value: object) -> bool:
    """Tell whether `value` is whole seconds since 1970; `True` is an int to Python and no time."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _LATEST_TIME


def _refuse(reason: TokenRefusedReason, detail: str) -> NoReturn:
    raise TokenRefusedError(detail, reason=reason)
