import base64
import hashlib
import json

import jwt as pyjwt
import pytest
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.errors import TokenRefusedError, TokenRefusedReason
from broker.identity import IdentityKind, PeerIdentity
from broker.pattern import parse_scope
from broker.tokens import SigningKey, TokenClaims, TokenVerifier, public_jwks, sign_token

NOW = 1_795_000_000
ISSUER = "https://broker.example:8443"
NAME = "spiffe://prod.example/shipper"
PEM = SigningKey.generate_pem()
KEY = SigningKey(PEM)
PRIVATE = load_pem_private_key(PEM, None)
PUBLIC_PEM = PRIVATE.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def peer(certificate: bytes = b"leaf", name: str = NAME) -> PeerIdentity:
    thumbprint = base64.urlsafe_b64encode(hashlib.sha256(certificate).digest()).rstrip(b"=").decode()
    return PeerIdentity(IdentityKind.SPIFFE, name, thumbprint, NOW - 100, NOW + 10_000)


def verifier() -> TokenVerifier:
    return TokenVerifier(issuer=ISSUER, audience=ISSUER, keys={KEY.kid: KEY}, max_lifetime=3600)


def issued() -> str:
    claims = TokenClaims(
        token_id="id",
        subject=NAME,
        environment="production",
        scope=parse_scope("env:A vault:secret/a#*"),
        thumbprint=peer().thumbprint,
        issued_at=NOW,
        expires_at=NOW + 300,
    )
    return sign_token(claims, key=KEY, issuer=ISSUER, audience=ISSUER).reveal().decode()


def claims(**changes: object) -> dict[str, object]:
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


def signed(payload: object, header: object | None = None) -> str:
    """Sign anything at all with the right key, as no library would."""
    from cryptography.hazmat.primitives import hashes  # noqa: PLC0415  Used here alone.
    from cryptography.hazmat.primitives.asymmetric import ec, utils  # noqa: PLC0415  As above.

    head = {"alg": "ES256", "typ": "at+jwt", "kid": KEY.kid} if header is None else header
    text = f"{part(head)}.{part(payload)}"
    r, s = utils.decode_dss_signature(PRIVATE.sign(text.encode(), ec.ECDSA(hashes.SHA256())))
    return f"{text}.{part(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"


def reason(token: str, *, now: float = NOW, who: PeerIdentity | None = None) -> TokenRefusedReason:
    with pytest.raises(TokenRefusedError) as raised:
        verifier().verify(token, peer=who or peer(), now=now)
    return raised.value.reason


def test_an_issued_token_verifies_and_says_what_it_was_given() -> None:
    found = verifier().verify(issued(), peer=peer(), now=NOW)
    assert (found.token_id, found.subject, found.environment) == ("id", NAME, "production")
    assert [pattern.text for pattern in found.scope] == ["env:A", "vault:secret/a#*"]


def test_an_independent_library_agrees() -> None:
    found = pyjwt.decode(
        issued(),
        PUBLIC_PEM,
        algorithms=["ES256"],
        audience=ISSUER,
        issuer=ISSUER,
        options={"verify_exp": False, "verify_iat": False},
    )
    assert found["cnf"] == {"x5t#S256": peer().thumbprint}
    assert pyjwt.get_unverified_header(issued())["typ"] == "at+jwt"


def test_our_own_forger_makes_tokens_that_verify() -> None:
    # Without this, every refusal below could be one of the forger's mistakes.
    assert verifier().verify(signed(claims()), peer=peer(), now=NOW).token_id == "id"


@pytest.mark.parametrize("algorithm", ["none", "None", "nOnE", "HS256", "RS256", "EdDSA"])
def test_another_algorithm_is_refused(algorithm: str) -> None:
    header = {"alg": algorithm, "typ": "at+jwt", "kid": KEY.kid}
    assert reason(f"{part(header)}.{part(claims())}.{part(b'x')}") is TokenRefusedReason.ALGORITHM


@pytest.mark.parametrize("secret", [PUBLIC_PEM, json.dumps(KEY.public_jwk()).encode()])
def test_the_public_key_is_no_hmac_secret(secret: bytes) -> None:
    import hmac  # noqa: PLC0415  Used here alone.

    text = f"{part({'alg': 'HS256', 'typ': 'at+jwt', 'kid': KEY.kid})}.{part(claims())}"
    forged = f"{text}.{part(hmac.digest(secret, text.encode(), 'sha256'))}"
    assert reason(forged) is TokenRefusedReason.ALGORITHM


def test_a_changed_claim_spoils_the_signature() -> None:
    head, _, signature = issued().split(".")
    assert reason(f"{head}.{part(claims(scope='env:B'))}.{signature}") is TokenRefusedReason.SIGNATURE


def test_another_key_of_the_same_name_is_refused() -> None:
    other = SigningKey(SigningKey.generate_pem())
    forged = pyjwt.encode(claims(), PRIVATE, algorithm="ES256", headers={"typ": "at+jwt", "kid": other.kid})
    assert reason(forged) is TokenRefusedReason.UNKNOWN_KEY


@pytest.mark.parametrize("kid", ["../../dev/null", "https://x/y", "' or 1=1", "k" * 300, 7, None, ["a"]])
def test_an_unknown_key_is_refused(kid: object) -> None:
    assert reason(signed(claims(), {"alg": "ES256", "typ": "at+jwt", "kid": kid})) is TokenRefusedReason.UNKNOWN_KEY


@pytest.mark.parametrize("member", ["jku", "x5u", "jwk", "x5c", "crit", "cty", "zip"])
def test_a_header_that_brings_more_is_refused(member: str) -> None:
    header = {"alg": "ES256", "typ": "at+jwt", "kid": KEY.kid, member: "https://evil.example"}
    assert reason(signed(claims(), header)) is TokenRefusedReason.UNKNOWN_KEY


@pytest.mark.parametrize("kind", ["JWT", "AT+JWT ", "", None, 1])
def test_another_type_is_refused(kind: object) -> None:
    assert reason(signed(claims(), {"alg": "ES256", "typ": kind, "kid": KEY.kid})) is TokenRefusedReason.TYPE


@pytest.mark.parametrize("kind", ["at+jwt", "AT+JWT", "application/at+jwt"])
def test_the_type_compares_without_case(kind: str) -> None:
    token = signed(claims(), {"alg": "ES256", "typ": kind, "kid": KEY.kid})
    assert verifier().verify(token, peer=peer(), now=NOW)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"iss": "https://other"}, TokenRefusedReason.ISSUER),
        ({"aud": "https://other"}, TokenRefusedReason.AUDIENCE),
        ({"aud": [ISSUER, "https://other"]}, TokenRefusedReason.CLAIMS),
        ({"cnf": None}, TokenRefusedReason.CLAIMS),
        ({"cnf": {}}, TokenRefusedReason.BINDING_MISMATCH),
        ({"cnf": "x"}, TokenRefusedReason.CLAIMS),
        ({"sub": "spiffe://prod.example/other"}, TokenRefusedReason.SUBJECT_MISMATCH),
        ({"client_id": "spiffe://prod.example/other"}, TokenRefusedReason.SUBJECT_MISMATCH),
        ({"scope": ""}, TokenRefusedReason.CLAIMS),
        ({"scope": ["env:A"]}, TokenRefusedReason.CLAIMS),
        ({"env": None}, TokenRefusedReason.CLAIMS),
        ({"jti": 1}, TokenRefusedReason.CLAIMS),
        ({"iat": NOW + 60}, TokenRefusedReason.NOT_YET_VALID),
        ({"exp": NOW + 3601}, TokenRefusedReason.LIFETIME),
        ({"iat": NOW, "exp": NOW}, TokenRefusedReason.EXPIRED),
        *(({"exp": value}, TokenRefusedReason.CLAIMS) for value in (str(NOW + 9), NOW + 9.5, -1, 10**30, True, None)),
        *(({"iat": value}, TokenRefusedReason.CLAIMS) for value in (str(NOW), float(NOW), -1, False, None)),
    ],
)
def test_a_claim_that_does_not_hold_is_refused(changes: dict[str, object], expected: TokenRefusedReason) -> None:
    assert reason(signed(claims(**changes))) is expected


def test_expiry_is_exclusive() -> None:
    token = issued()
    assert verifier().verify(token, peer=peer(), now=NOW + 299)
    assert reason(token, now=NOW + 300) is TokenRefusedReason.EXPIRED


def test_another_certificate_of_the_same_identity_is_refused() -> None:
    assert reason(issued(), who=peer(b"renewed")) is TokenRefusedReason.BINDING_MISMATCH


@pytest.mark.parametrize("text", ["", "a", "a.b", "a.b.c.d", "..", "e30.e30.e30==", "é.e30.e30", "x" * 100_000])
def test_what_has_not_the_shape_is_refused_unread(text: str) -> None:
    assert reason(text) is TokenRefusedReason.MALFORMED


def test_a_second_spelling_of_the_same_token_is_refused() -> None:
    assert reason(issued() + "==") is TokenRefusedReason.MALFORMED


def test_a_member_that_stands_twice_is_refused() -> None:
    header = f'{{"alg":"none","alg":"ES256","typ":"at+jwt","kid":"{KEY.kid}"}}'.encode()
    assert reason(signed(claims(), header)) is TokenRefusedReason.MALFORMED
    payload = json.dumps(claims())[:-1] + ',"scope":"env:B"}'
    assert reason(signed(payload.encode())) is TokenRefusedReason.MALFORMED


@settings(max_examples=150, deadline=None)
@given(st.one_of(st.text(), st.from_regex(r"[A-Za-z0-9_-]{1,40}\.[A-Za-z0-9_-]{1,40}\.[A-Za-z0-9_-]{1,40}\Z")))
def test_no_text_raises_anything_but_the_refusal(text: str) -> None:
    reason(text)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_no_changed_token_verifies(data: st.DataObject) -> None:
    token = issued()
    at = data.draw(st.integers(0, len(token) - 1))
    new = data.draw(st.sampled_from("AZaz09-_."))
    changed = token[:at] + new + token[at + 1 :]
    # The last character of a base64url part holds bits that decode to nothing.
    if changed != token and not (at == len(token) - 1 or token[at + 1 : at + 2] == "."):
        reason(changed)


def test_the_published_keys_are_public_and_named_by_their_thumbprint() -> None:
    [key] = public_jwks({KEY.kid: KEY})["keys"]
    assert set(key) == {"kty", "crv", "x", "y", "use", "alg", "kid"}
    members = json.dumps({name: key[name] for name in ("crv", "kty", "x", "y")}, separators=(",", ":"))
    assert key["kid"] == part(hashlib.sha256(members.encode()).digest())


def test_a_key_that_is_not_p256_is_refused() -> None:
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415  Used here alone.

    wrong = ec.generate_private_key(ec.SECP384R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with pytest.raises(ValueError, match="P-256"):
        SigningKey(wrong)


def test_a_key_shows_nothing_but_its_name() -> None:
    assert repr(KEY) == f"SigningKey(kid={KEY.kid!r})"
