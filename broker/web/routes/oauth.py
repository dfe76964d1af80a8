"""The OAuth endpoints: client credentials over mTLS, metadata and keys, in the shapes that stock clients expect.

Their errors are those of RFC 6749 §5.2 and no problem documents, but for what happens before OAuth begins:
a refused certificate, and a trail that can't be written.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NoReturn
from urllib.parse import parse_qsl

from aiohttp import web

from broker.audit.event import EventKind
from broker.errors import (
    BrokerError,
    InvalidClientError,
    ScopeRefusedError,
    UnauthorizedClientError,
)
from broker.issue import IssuedToken, IssueToken
from broker.web.body import BodyLimits, read_raw
from broker.web.callers import AgentDoor
from broker.web.problems import OUTCOME, PROBLEMS, HttpRefusedError

TOKEN_PATH: Final = "/oauth2/token"  # noqa: S105  A path, not a credential.
METADATA_PATH: Final = "/.well-known/oauth-authorization-server"
JWKS_PATH: Final = "/.well-known/jwks.json"
GRANT: Final = "client_credentials"

_MAX_BODY_BYTES: Final = 16 * 1024
_MAX_FIELDS: Final = 20
_FORM: Final = "application/x-www-form-urlencoded"
_NO_STORE: Final = {"Cache-Control": "no-store", "Pragma": "no-cache"}
# RFC 9110 §15.5.2: a 401 names how to authenticate.
_CHALLENGE: Final = {"WWW-Authenticate": 'Bearer realm="broker"'}


class OAuthError(BrokerError):
    """An error of RFC 6749 §5.2: `error` is its code there."""

    code = "oauth_error"

    def __init__(self, error: str, detail: str, *, status: int = 400) -> None:
        """Keep the code; the detail holds neither quotes, backslashes nor anything that the caller wrote."""
        super().__init__(detail)
        self.error = error
        self.status = status


@dataclass(frozen=True, slots=True, kw_only=True)
class _TokenEndpoint:
    issue: IssueToken
    door: AgentDoor
    body_seconds: float

    async def handle(self, request: web.Request) -> web.Response:
        """Answer `POST /oauth2/token`."""
        caller = await self.door.admit(request, EventKind.TOKEN)
        try:
            form = await _form(request, seconds=self.body_seconds)
            issued = await self.issue.issue(
                peer=caller.peer,
                client_id=form.get("client_id", ""),
                unverified_scope=form.get("scope", ""),
                address=str(caller.address),
                request=caller.request,
            )
        except OAuthError as error:
            self.issue.count_refusal(error.error)
            return _refusal(error.error, error.detail, error.status)
        except InvalidClientError as error:
            return _refusal("invalid_client", error.detail, 401)
        except UnauthorizedClientError as error:
            return _refusal("unauthorized_client", error.detail, 400)
        except ScopeRefusedError as error:
            return _refusal("invalid_scope", error.detail, 400)
        return _granted(issued)


def oauth_routes(
    *,
    issue: IssueToken,
    door: AgentDoor,
    jwks: Mapping[str, Any],
    issuer: str,
    body_seconds: float = 10.0,
) -> list[web.RouteDef]:
    """Return the routes of the token endpoint, its metadata (RFC 8414) and its keys (RFC 7517)."""
    endpoint = _TokenEndpoint(
        issue=issue,
        door=door,
        body_seconds=body_seconds,
    )
    keys, described = json.dumps(jwks).encode(), json.dumps(metadata(issuer)).encode()

    async def metadata_document(_request: web.Request) -> web.Response:
        return web.Response(body=described, content_type="application/json", headers={"Cache-Control": "max-age=300"})

    async def key_set(_request: web.Request) -> web.Response:
        headers = {"Cache-Control": "max-age=300"}
        return web.Response(body=keys, content_type="application/jwk-set+json", headers=headers)

    return [
        web.post(TOKEN_PATH, endpoint.handle),
        web.get(METADATA_PATH, metadata_document, allow_head=False),
        web.get(JWKS_PATH, key_set, allow_head=False),
    ]


def metadata(issuer: str) -> dict[str, Any]:
    """Return the metadata (RFC 8414 §2); `none` as response type because there is no authorization endpoint."""
    return {
        "issuer": issuer,
        "token_endpoint": f"{issuer}{TOKEN_PATH}",
        "jwks_uri": f"{issuer}{JWKS_PATH}",
        "response_types_supported": ["none"],
        "grant_types_supported": [GRANT],
        "token_endpoint_auth_methods_supported": ["tls_client_auth"],
        "tls_client_certificate_bound_access_tokens": True,
    }


async def _form(request: web.Request, *, seconds: float) -> dict[str, str]:
    """Return the parameters of a token request, each at most once (RFC 6749 §3.2)."""
    _check_head(request)
    form = _parsed(await _body(request, seconds))
    if not form.get("grant_type"):
        _refuse("invalid_request", "grant_type is missing")
    if form["grant_type"] != GRANT:
        _refuse("unsupported_grant_type", f"the one grant_type here is {GRANT}")
    if not form.get("client_id"):
        _refuse("invalid_request", "client_id is missing; it is the identity of the client certificate")
    return form


def _check_head(request: web.Request) -> None:
    # A second line of a header could be read by somebody before us instead of the first.
    if len(request.headers.getall("Authorization", [])) > 1:
        _refuse("invalid_request", "the Authorization header stands twice")
    if "Authorization" in request.headers:
        _refuse("invalid_client", "the client proves itself by its certificate, not by Authorization", status=401)
    if (
        len(request.headers.getall("Content-Type", [])) != 1
        or request.content_type != _FORM
        or (request.charset or "utf-8").lower() != "utf-8"
    ):
        _refuse("invalid_request", f"send the parameters as {_FORM}, in UTF-8", status=415)
    if "Content-Encoding" in request.headers:
        _refuse("invalid_request", "send the body without Content-Encoding", status=415)


def _parsed(raw: bytes) -> dict[str, str]:
    try:
        pairs = parse_qsl(
            raw.decode("ascii"),
            keep_blank_values=True,
            strict_parsing=True,
            encoding="utf-8",
            errors="strict",
            max_num_fields=_MAX_FIELDS,
        )
    except ValueError:
        _refuse("invalid_request", "the body is no form of key=value pairs in percent-encoded UTF-8")
    form = dict(pairs)
    if len(form) != len(pairs):
        _refuse("invalid_request", "a parameter stands twice")
    if any(not text.isprintable() for pair in pairs for text in pair):
        _refuse("invalid_request", "a parameter holds a control character")
    return form


async def _body(request: web.Request, seconds: float) -> bytes:
    try:
        return await read_raw(request, BodyLimits(max_bytes=_MAX_BODY_BYTES, seconds=seconds))
    except HttpRefusedError as error:
        _refuse("invalid_request", error.detail, status=PROBLEMS[error.code].status)


def _granted(issued: IssuedToken) -> web.Response:
    document = {
        "access_token": issued.access_token.reveal().decode("ascii"),
        "token_type": "Bearer",
        "expires_in": issued.expires_in,
        "scope": issued.scope,
    }
    return web.Response(body=json.dumps(document).encode(), content_type="application/json", headers=_NO_STORE)


def _refusal(error: str, detail: str, status: int) -> web.Response:
    further: Mapping[str, str] = {}
    if status == web.HTTPUnauthorized.status_code:
        further = _CHALLENGE
    elif status == web.HTTPRequestTimeout.status_code:
        # The rest of the body may still come, and it is no next request.
        further = {"Connection": "close"}
    response = web.Response(
        status=status,
        body=json.dumps({"error": error, "error_description": detail}).encode(),
        content_type="application/json",
        headers={**_NO_STORE, **further},
    )
    response[OUTCOME] = error
    return response


def _refuse(error: str, detail: str, *, status: int = 400) -> NoReturn:
    raise OAuthError(error, detail, status=status)
