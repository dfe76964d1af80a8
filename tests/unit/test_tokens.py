import hashlib
import hmac
import json

import jwt as pyjwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from broker.errors import TokenRefusedError, TokenRefusedReason
from broker.identity import PeerIdentity
from broker.tokens import SigningKey, public_jwks
from tests.forging import HEADER, ISSUER, KEY, NAME, NOW, PRIVATE, claims, issued, part, peer, signed, verifier

PUBLIC = PRIVATE.public_key()
PUBLIC_PEM = PUBLIC.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
PUBLIC_DER = PUBLIC.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


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


@pytest.mark.parametrize(
    "secret", [PUBLIC_PEM, PUBLIC_DER, json.dumps(KEY.public_jwk()).encode()], ids=["pem", "der", "jwk"]
)
def test_the_public_key_is_no_hmac_secret(secret: bytes) -> None:
    text = f"{part({'alg': 'HS256', 'typ': 'at+jwt', 'kid': KEY.kid})}.{part(claims())}"
    forged = f"{text}.{part(hmac.digest(secret, text.encode(), 'sha256'))}"
    assert reason(forged) is TokenRefusedReason.ALGORITHM


def test_a_changed_claim_spoils_the_signature() -> None:
    head, _, signature = issued().split(".")
    assert reason(f"{head}.{part(claims(scope='env:B'))}.{signature}") is TokenRefusedReason.SIGNATURE


def test_another_key_under_our_name_is_refused() -> None:
    stranger = ec.generate_private_key(ec.SECP256R1())
    forged = pyjwt.encode(claims(), stranger, algorithm="ES256", headers={"typ": "at+jwt", "kid": KEY.kid})
    assert reason(forged) is TokenRefusedReason.SIGNATURE


def test_a_token_of_another_broker_is_refused() -> None:
    other = SigningKey(SigningKey.generate_pem())
    assert reason(other.sign(claims())) is TokenRefusedReason.UNKNOWN_KEY


def test_a_token_that_is_well_signed_with_rsa_is_refused() -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    forged = pyjwt.encode(claims(), key, algorithm="RS256", headers={"typ": "at+jwt", "kid": KEY.kid})
    assert reason(forged) is TokenRefusedReason.ALGORITHM


def test_an_empty_signature_is_refused() -> None:
    assert reason(issued().rpartition(".")[0] + ".") is TokenRefusedReason.MALFORMED


@pytest.mark.parametrize(
    ("member", "expected"),
    [
        ("alg", TokenRefusedReason.ALGORITHM),
        ("typ", TokenRefusedReason.TYPE),
        ("kid", TokenRefusedReason.UNKNOWN_KEY),
    ],
)
def test_a_header_that_lacks_a_member_is_refused(member: str, expected: TokenRefusedReason) -> None:
    header = {name: value for name, value in HEADER.items() if name != member}
    assert reason(signed(claims(), header)) is expected


@pytest.mark.parametrize("size", [500, 10_000])
def test_a_long_header_is_refused_unread(size: int) -> None:
    assert reason(signed(claims(), {**HEADER, "kid": "k" * size})) is TokenRefusedReason.MALFORMED


def test_a_token_of_7000_characters_is_read_and_one_more_is_not() -> None:
    def padded(size: int) -> str:
        return signed(claims(jti="j" * size))

    sizes = {len(padded(size)): size for size in range(4700, 4800)}
    longest = max(length for length in sizes if length <= 7000)
    assert verifier().verify(padded(sizes[longest]), peer=peer(), now=NOW)
    shortest_over = min(length for length in sizes if length > 7000)
    assert reason(padded(sizes[shortest_over])) is TokenRefusedReason.MALFORMED


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
        ({"aud": [ISSUER]}, TokenRefusedReason.CLAIMS),
        ({"cnf": None}, TokenRefusedReason.CLAIMS),
        ({"cnf": {}}, TokenRefusedReason.BINDING_MISMATCH),
        ({"cnf": "x"}, TokenRefusedReason.CLAIMS),
        ({"cnf": {"x5t#S256": [peer().thumbprint]}}, TokenRefusedReason.BINDING_MISMATCH),
        ({"cnf": {"x5t": peer().thumbprint}}, TokenRefusedReason.BINDING_MISMATCH),
        ({"sub": "spiffe://prod.example/other"}, TokenRefusedReason.SUBJECT_MISMATCH),
        ({"client_id": "spiffe://prod.example/other"}, TokenRefusedReason.SUBJECT_MISMATCH),
        ({"scope": ""}, TokenRefusedReason.CLAIMS),
        ({"scope": ["env:A"]}, TokenRefusedReason.CLAIMS),
        ({"env": None}, TokenRefusedReason.CLAIMS),
        ({"jti": 1}, TokenRefusedReason.CLAIMS),
        ({"iat": NOW + 60}, TokenRefusedReason.NOT_YET_VALID),
        ({"nbf": NOW + 60}, TokenRefusedReason.NOT_YET_VALID),
        ({"iat": NOW + 1, "exp": NOW + 1}, TokenRefusedReason.LIFETIME),
        ({"iat": NOW - 3500, "exp": NOW + 300}, TokenRefusedReason.LIFETIME),
        ({"exp": NOW + 3601}, TokenRefusedReason.LIFETIME),
        ({"iat": NOW, "exp": NOW}, TokenRefusedReason.EXPIRED),
        *(({"exp": value}, TokenRefusedReason.CLAIMS) for value in (str(NOW + 9), NOW + 9.5, -1, 10**30, True, None)),
        *(({"iat": value}, TokenRefusedReason.CLAIMS) for value in (str(NOW), float(NOW), -1, False, None)),
        *(({"nbf": value}, TokenRefusedReason.CLAIMS) for value in (str(NOW), float(NOW), -1, False)),
        *(({name: None}, TokenRefusedReason.CLAIMS) for name in ("iss", "aud", "sub", "client_id", "jti", "scope")),
    ],
)
def test_a_claim_that_does_not_hold_is_refused(changes: dict[str, object], expected: TokenRefusedReason) -> None:
    assert reason(signed(claims(**changes))) is expected


def test_a_token_may_say_that_it_has_begun() -> None:
    assert verifier().verify(signed(claims(nbf=NOW)), peer=peer(), now=NOW)


def test_a_token_of_another_identity_with_the_same_certificate_is_refused() -> None:
    other = peer(name="spiffe://prod.example/other")
    assert reason(issued(), who=other) is TokenRefusedReason.SUBJECT_MISMATCH


@pytest.mark.parametrize("number", ["NaN", "Infinity", "9" * 5000])
def test_what_is_no_json_number_is_refused(number: str) -> None:
    payload = json.dumps(claims())[:-1] + f',"x":{number}}}'
    assert reason(signed(payload.encode())) is TokenRefusedReason.MALFORMED


@pytest.mark.parametrize("payload", [b"[]", b'"x"', b"7", b"[" * 4000, b"\xff\xfe{}", b"\xef\xbb\xbf{}", b"{} {}"])
def test_claims_that_are_no_object_are_refused(payload: bytes) -> None:
    assert reason(signed(payload)) is TokenRefusedReason.MALFORMED


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


def test_the_published_keys_are_public_and_named_by_their_thumbprint() -> None:
    [key] = public_jwks({KEY.kid: KEY})["keys"]
    assert set(key) == {"kty", "crv", "x", "y", "use", "alg", "kid"}
    members = json.dumps({name: key[name] for name in ("crv", "kty", "x", "y")}, separators=(",", ":"))
    assert key["kid"] == part(hashlib.sha256(members.encode()).digest())


def test_a_key_that_is_not_p256_is_refused() -> None:
    wrong = ec.generate_private_key(ec.SECP384R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with pytest.raises(ValueError, match="P-256"):
        SigningKey(wrong)


def test_a_key_shows_nothing_but_its_name() -> None:
    assert repr(KEY) == f"SigningKey(kid={KEY.kid!r})"


def test_a_public_key_can_not_sign() -> None:
    with pytest.raises(ValueError, match="private"):
        SigningKey(PUBLIC_PEM)


def test_a_refusal_does_not_repeat_the_token() -> None:
    token = signed(claims(jti="canary-6f1b", scope="canary-6f1b"))
    with pytest.raises(TokenRefusedError) as raised:
        verifier().verify(token, peer=peer(), now=NOW)
    assert "canary" not in repr(raised.value)
    assert token[-20:] not in raised.value.detail
