"""A stock OAuth client, unchanged, gets a token; what is no token request gets OAuth's own errors."""

import base64
import hashlib
import json
import socket
import ssl
import subprocess
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import jwt as pyjwt
import pytest
from authlib.oauth2.rfc8414 import AuthorizationServerMetadata

from broker.cli.sandbox import SHIPPER
from broker.pki.authority import issue_certificate
from broker.tokens import SigningKey
from tests.running import Answer, RunningBroker, running

FORM = {"Content-Type": "application/x-www-form-urlencoded"}
CLIENT = SHIPPER.replace(":", "%3A").replace("/", "%2F")
GOOD = f"grant_type=client_credentials&client_id={CLIENT}&scope=env%3ALOGFLUX_PAT"


@pytest.fixture(scope="module")
def broker() -> Iterator[RunningBroker]:
    with running() as it:
        yield it


def ask(broker: RunningBroker, body: str | bytes, headers: dict[str, str] | None = None) -> Answer:
    return broker.post("/oauth2/token", body, headers=headers or FORM)


def test_a_stock_client_gets_a_token_that_resolves(broker: RunningBroker) -> None:
    with warnings.catch_warnings():
        # authlib's own deprecations are no concern of ours.
        warnings.simplefilter("ignore")
        from authlib.integrations.requests_client import OAuth2Session  # noqa: PLC0415  As above.

        session = OAuth2Session(client_id=SHIPPER, token_endpoint_auth_method="none", scope="env:LOGFLUX_PAT")
    with session:
        # The environment may name other authorities; requests lets it win.
        session.trust_env = False
        session.verify = str(broker.place.authority)
        session.cert = tuple(str(path) for path in broker.place.certificate("shipper"))
        token = session.fetch_token(f"{broker.place.url}/oauth2/token", grant_type="client_credentials")
        assert token["expires_in"] == 300
        answer = session.post(f"{broker.place.url}/v1/resolve", json={"references": ["env:LOGFLUX_PAT"]})
        assert answer.status_code == 200
        assert answer.json()["results"][0]["status"] == "ok"


def test_the_metadata_is_what_rfc_8414_wants_and_the_keys_are_public(broker: RunningBroker) -> None:
    metadata = _get(broker, "/.well-known/oauth-authorization-server")
    document = AuthorizationServerMetadata(metadata.json)
    document.validate()
    assert document["issuer"] == broker.place.url
    keys = _get(broker, "/.well-known/jwks.json")
    assert keys.headers["Content-Type"].startswith("application/jwk-set+json")
    assert all("d" not in key for key in keys.json["keys"])
    assert "no-store" not in keys.headers["Cache-Control"]


def _get(broker: RunningBroker, path: str) -> Answer:
    return broker.send("GET", path, None, headers={})


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (GOOD.replace("client_credentials", "password"), "unsupported_grant_type"),
        (GOOD.replace("grant_type=client_credentials&", ""), "invalid_request"),
        (GOOD + "&scope=env%3ALOGFLUX_PAT", "invalid_request"),
        (GOOD + "&s%63ope=env%3ALOGFLUX_PAT", "invalid_request"),
        (GOOD.replace("client_id", "client"), "invalid_request"),
        (GOOD.replace("&scope=env%3ALOGFLUX_PAT", ""), "invalid_scope"),
        (GOOD.replace("LOGFLUX_PAT", "PATH"), "invalid_scope"),
        (GOOD + "&x=%00", "invalid_request"),
        (GOOD + "&x=%ff", "invalid_request"),
        (GOOD + "&" + "&".join(f"a{n}=1" for n in range(30)), "invalid_request"),
        ("{}", "invalid_request"),
        ("", "invalid_request"),
    ],
)
def test_a_wrong_request_gets_the_error_of_rfc_6749(broker: RunningBroker, body: str, error: str) -> None:
    answer = ask(broker, body)
    assert (answer.status, answer.json["error"]) == (400, error)
    assert answer.headers["Cache-Control"] == "no-store"
    assert set(answer.json["error_description"]) <= {chr(code) for code in range(0x20, 0x7F)} - {'"', "\\"}


def test_another_client_id_is_invalid_client(broker: RunningBroker) -> None:
    answer = ask(broker, GOOD.replace("shipper", "other"))
    assert (answer.status, answer.json["error"]) == (401, "invalid_client")
    assert "WWW-Authenticate" in answer.headers


@pytest.mark.parametrize("kind", ["application/json", "multipart/form-data; boundary=x", "text/plain"])
def test_another_media_type_is_refused(broker: RunningBroker, kind: str) -> None:
    assert ask(broker, GOOD, {"Content-Type": kind}).status == 415


def test_a_body_of_more_than_16_kib_is_refused(broker: RunningBroker) -> None:
    assert ask(broker, GOOD + "&x=" + "y" * 20_000).status == 413


def test_a_compressed_body_is_refused(broker: RunningBroker) -> None:
    assert ask(broker, GOOD, {**FORM, "Content-Encoding": "gzip"}).status == 415


def test_parameters_in_the_url_are_refused(broker: RunningBroker) -> None:
    assert broker.post(f"/oauth2/token?{GOOD}", GOOD, headers=FORM).status == 400


def test_a_second_way_to_authenticate_is_refused(broker: RunningBroker) -> None:
    answer = ask(broker, GOOD, {**FORM, "Authorization": "Basic eDp5"})
    assert (answer.status, answer.json["error"]) == (401, "invalid_client")


@pytest.mark.parametrize("header", ["Bearer", "Basic eDp5", "Bearer a b", "Token x"])
def test_a_malformed_authorization_header_is_refused_by_resolve(broker: RunningBroker, header: str) -> None:
    body = json.dumps({"references": ["env:LOGFLUX_PAT"]})
    answer = broker.post("/v1/resolve", body, headers={"Authorization": header})
    assert answer.status in {400, 401}
    assert "WWW-Authenticate" in answer.headers


def test_the_bearer_scheme_has_no_case(broker: RunningBroker) -> None:
    token = ask(broker, GOOD).json["access_token"]
    body = json.dumps({"references": ["env:LOGFLUX_PAT"]})
    assert broker.post("/v1/resolve", body, headers={"Authorization": f"bearer {token}"}).status == 200


def test_the_token_verifies_with_the_published_keys_and_names_the_certificate(broker: RunningBroker) -> None:
    token = ask(broker, GOOD).json["access_token"]
    [key] = _get(broker, "/.well-known/jwks.json").json["keys"]
    url = broker.place.url
    found = pyjwt.decode(token, pyjwt.PyJWK(key), algorithms=["ES256"], audience=url, issuer=url)
    certificate = ssl.PEM_cert_to_DER_cert(broker.place.certificate("shipper")[0].read_text())
    thumbprint = base64.urlsafe_b64encode(hashlib.sha256(certificate).digest()).rstrip(b"=").decode()
    assert found["cnf"] == {"x5t#S256": thumbprint}
    assert (found["sub"], found["client_id"], found["scope"]) == (SHIPPER, SHIPPER, "env:LOGFLUX_PAT")
    assert found["exp"] - found["iat"] == 300


def test_a_token_dies_with_the_certificate_that_it_was_issued_to(broker: RunningBroker) -> None:
    issue_certificate(broker.place.directory / "pki", name="renewed", usage="agent", spiffe=SHIPPER, days=1)
    old = ask(broker, GOOD).json["access_token"]
    refused = broker.resolve("env:LOGFLUX_PAT", agent="renewed", token=old)
    assert (refused.status, refused.json["code"]) == (401, "invalid_token")
    assert "renewed certificate needs a new token" in refused.json["detail"]
    assert _last_reason(broker, "auth") == "binding_mismatch"
    new = broker.post("/oauth2/token", GOOD, agent="renewed", headers=FORM).json["access_token"]
    assert broker.resolve("env:LOGFLUX_PAT", agent="renewed", token=new).status == 200


def _last_reason(broker: RunningBroker, kind: str) -> str:
    search = [sys.executable, "-m", "broker", "audit", "search", "--database", str(broker.place.database)]
    found = subprocess.run(
        [*search, "--type", kind, "--json"], capture_output=True, text=True, timeout=60, check=True
    ).stdout
    reason: str = json.loads(found.splitlines()[-1])["reason"]
    return reason


def test_an_identity_that_policy_does_not_know_is_unauthorized(broker: RunningBroker) -> None:
    body = GOOD.replace("logflux%2Fshipper", "other%2Fjob")
    answer = broker.post("/oauth2/token", body, agent="stranger", headers=FORM)
    assert (answer.status, answer.json["error"]) == (400, "unauthorized_client")
    assert _last_reason(broker, "token") == "unauthorized_client"


def test_a_refused_request_is_on_record_and_counted(broker: RunningBroker) -> None:
    assert ask(broker, GOOD.replace("LOGFLUX_PAT", "PATH")).status == 400
    assert _last_reason(broker, "token") == "invalid_scope"
    assert ask(broker, GOOD.replace("client_credentials", "password")).status == 400
    metrics = broker.operations("/metrics").body.decode()
    assert 'broker_tokens_total{outcome="invalid_scope"}' in metrics
    assert 'broker_tokens_total{outcome="unsupported_grant_type"}' in metrics


@pytest.mark.parametrize("member", ["jku", "x5u"])
def test_a_key_that_a_token_points_to_is_never_fetched(broker: RunningBroker, member: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/keys"
        token = _forged(broker, {member: url})
        answer = broker.resolve("env:LOGFLUX_PAT", token=token)
        assert (answer.status, answer.json["code"]) == (401, "invalid_token")
        with pytest.raises(BlockingIOError):
            listener.accept()


def _forged(broker: RunningBroker, header: dict[str, Any]) -> str:
    """Return a token that is right in all but its key and `header`."""
    claims = pyjwt.decode(ask(broker, GOOD).json["access_token"], options={"verify_signature": False})
    [key] = _get(broker, "/.well-known/jwks.json").json["keys"]
    return pyjwt.encode(
        claims, SigningKey.generate_pem(), algorithm="ES256", headers={"typ": "at+jwt", "kid": key["kid"], **header}
    )


def test_a_forged_token_gets_401_and_a_challenge(broker: RunningBroker) -> None:
    answer = broker.resolve("env:LOGFLUX_PAT", token=_forged(broker, {}))
    assert (answer.status, answer.json["code"]) == (401, "invalid_token")
    assert 'error="invalid_token"' in answer.headers["WWW-Authenticate"]
    assert _last_reason(broker, "auth") == "signature"


@pytest.mark.parametrize("size", [7001, 8100])
def test_a_token_that_is_too_long_is_refused(broker: RunningBroker, size: int) -> None:
    assert broker.resolve("env:LOGFLUX_PAT", token="x" * size).status == 401


def test_a_token_of_100_kb_ends_its_connection_and_nothing_else(broker: RunningBroker) -> None:
    try:
        status = broker.resolve("env:LOGFLUX_PAT", token="x" * 100_000).status
    except (ssl.SSLError, ConnectionError):
        # The broker refuses the header before it has all come, so a client that still sends may miss the answer.
        status = 431
    assert status == 431
    assert broker.resolve("env:LOGFLUX_PAT").status == 200
