"""Errors as answers: RFC 9457 problem documents, with one table from stable code to status and title."""

import json
import math
import secrets
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Final, NamedTuple

from aiohttp import web

from broker.errors import (
    BrokerError,
    IdentityRefusedError,
    OrderRateError,
    SourceUnavailableError,
    ThrottledError,
    TokenRefusedError,
    WebhookRefusedError,
)
from broker.resolution.results import Refused, Resolution, Status

TYPE_PREFIX: Final = "urn:logflux-broker:error:"
CONTENT_TYPE: Final = "application/problem+json"
# Why an answer is a refusal, as a slug; the request's line in the log tells it. An answer without it is a good one.
OUTCOME: Final = web.ResponseKey("outcome", str)
BUG: Final = "the broker met a bug; its log names it by `instance`"
_REALM: Final = 'Bearer realm="broker"'
_RETRY_SECONDS: Final = 2.0
_MAX_RETRY_SECONDS: Final = 300.0


class WebCode(StrEnum):
    """What can be wrong with a request before any decision is made about it."""

    AUTHORIZATION_MALFORMED = "authorization_malformed"
    BODY_INCOMPLETE = "body_incomplete"
    BODY_NOT_JSON = "body_not_json"
    BODY_TIMEOUT = "body_timeout"
    BODY_TOO_LARGE = "body_too_large"
    CONTENT_ENCODING = "content_encoding_unsupported"
    CONTENT_TYPE = "content_type_unsupported"
    HEAD_TOO_LARGE = "head_too_large"
    HOST_UNKNOWN = "host_unknown"
    HTTP_VERSION = "http_version_unsupported"
    INTERNAL = "internal"
    MESSAGE_MALFORMED = "message_malformed"
    METHOD_UNKNOWN = "method_unknown"
    QUERY_UNEXPECTED = "query_unexpected"
    REQUEST_INVALID = "request_invalid"
    REQUEST_REFUSED = "request_refused"
    ROUTE_UNKNOWN = "route_unknown"


class Problem(NamedTuple):
    """How one code is answered."""

    status: int
    title: str


PROBLEMS: Final[Mapping[str, Problem]] = {
    "answer_too_large": Problem(422, "The values are too much for one answer"),
    "audit_unavailable": Problem(503, "The audit record can't be made durable"),
    "authorization_malformed": Problem(400, "The Authorization header can't be used"),
    "body_incomplete": Problem(400, "The body ended early"),
    "body_not_json": Problem(400, "The body is not acceptable JSON"),
    "body_timeout": Problem(408, "The body arrived too slowly"),
    "body_too_large": Problem(413, "The body is too large"),
    "content_encoding_unsupported": Problem(415, "The body must not be encoded"),
    "content_type_unsupported": Problem(415, "The body has the wrong type"),
    "head_too_large": Problem(431, "The head of the request is too large"),
    "host_unknown": Problem(421, "The request is for another host"),
    "http_version_unsupported": Problem(505, "The HTTP version is not spoken here"),
    "identity_refused": Problem(401, "The certificate is no identity"),
    "in_flight_limit": Problem(503, "Too many bytes are on their way"),
    "internal": Problem(500, "Internal error"),
    "invalid_token": Problem(401, "The token is refused"),
    "lease_limit": Problem(503, "The identity has too many leases"),
    "lease_unknown": Problem(404, "There is no such lease"),
    "message_malformed": Problem(400, "The HTTP message is malformed"),
    "method_unknown": Problem(405, "The method is not allowed here"),
    "not_administrator": Problem(403, "The identity is no administrator"),
    "order_rate": Problem(429, "Too many orders"),
    "pattern_malformed": Problem(400, "A pattern is malformed"),
    "query_unexpected": Problem(400, "A query is not accepted"),
    "rate_limited": Problem(429, "This identity asks too often"),
    "reference_count": Problem(400, "Too few or too many references"),
    "reference_denied": Problem(403, "Policy denies a reference"),
    "reference_malformed": Problem(400, "A reference is malformed"),
    "request_invalid": Problem(400, "The body does not fit its schema"),
    "request_refused": Problem(400, "The request is refused"),
    "route_unknown": Problem(404, "There is nothing here"),
    "secret_missing": Problem(404, "A secret is missing"),
    "secret_too_old": Problem(403, "A secret is too old"),
    "secret_unusable": Problem(422, "A secret can't be handed out"),
    "source_unavailable": Problem(503, "A source can't answer now"),
    "state_unavailable": Problem(503, "The state can't be made durable"),
    "upstream_denied": Problem(403, "A store refuses a secret to the broker"),
    "webhook_refused": Problem(401, "The webhook is refused"),
}

# With several failures the first of these that occurs names the status; nothing is lost, `results` has them all.
WORST_FIRST: Final = (
    "reference_malformed",
    "reference_denied",
    "secret_too_old",
    "upstream_denied",
    "secret_missing",
    "secret_unusable",
    "answer_too_large",
    "lease_limit",
    "in_flight_limit",
    "source_unavailable",
)


class HttpRefusedError(Exception):
    """A request is refused for its form. `detail` is fixed text of ours, never of the request."""

    def __init__(self, code: WebCode, detail: str, *, headers: Mapping[str, str] | None = None) -> None:
        """Keep what `problem` needs."""
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.headers = headers or {}


def problem(
    code: str,
    detail: str,
    *,
    instance: str,
    headers: Mapping[str, str] | None = None,
    members: Mapping[str, Any] | None = None,
) -> web.Response:
    """Return the problem document of `code`; `instance` is the request id."""
    known = PROBLEMS.get(code) or PROBLEMS["internal"]
    document = {
        "type": TYPE_PREFIX + code,
        "title": known.title,
        "status": known.status,
        "detail": detail,
        "code": code,
        "instance": instance,
        **(members or {}),
    }
    response = web.Response(
        status=known.status, body=json.dumps(document).encode("ascii"), content_type=CONTENT_TYPE, headers=headers
    )
    response[OUTCOME] = code
    return response


def problem_of(error: Exception, *, instance: str) -> web.Response:
    """Return the answer to anything that a handler raised; what is not ours gets one fixed text."""
    if isinstance(error, HttpRefusedError):
        return problem(error.code, error.detail, instance=instance, headers=error.headers)
    if isinstance(error, BrokerError) and error.code in PROBLEMS:
        return problem(error.code, error.detail, instance=instance, headers=_headers_of(error))
    if isinstance(error, web.HTTPException):
        return _foreign_problem(error, instance)
    return problem(WebCode.INTERNAL, BUG, instance=instance)


def resolution_problem(resolution: Resolution, *, instance: str) -> web.Response:
    """Return the answer to a request that needed every value and did not get it: what failed, and no value."""
    refused = [result for result in resolution.results if isinstance(result, Refused)]
    codes = {result.code for result in refused}
    code = next((candidate for candidate in WORST_FIRST if candidate in codes), "internal")
    headers = {}
    if PROBLEMS[code].status == PROBLEMS["source_unavailable"].status:
        waits = [result.retry_after for result in refused if result.status is Status.UNAVAILABLE]
        headers["Retry-After"] = retry_after(max((wait for wait in waits if wait is not None), default=None))
    count = len(refused)
    return problem(
        code,
        f"{count} reference{'s' if count > 1 else ''} could not be resolved, so no value is handed out; see `results`",
        instance=instance,
        headers=headers,
        members={"results": [refused_result(result) for result in refused]},
    )


def refused_result(result: Refused) -> dict[str, Any]:
    """Return one failed reference as it stands in `results`."""
    answer: dict[str, Any] = {
        "reference": result.reference,
        "status": result.status,
        "code": result.code,
        "detail": result.detail,
    }
    if result.position is not None:
        answer["position"] = result.position
    if result.retry_after is not None:
        answer["retry_after"] = max(1, math.ceil(result.retry_after))
    return answer


def retry_after(seconds: float | None) -> str:
    """Return a `Retry-After`, longer by up to half, so that agents refused together do not come back together."""
    base = min(max(_RETRY_SECONDS if seconds is None else seconds, 1.0), _MAX_RETRY_SECONDS)
    return str(math.ceil(base * (1.0 + secrets.SystemRandom().random() / 2)))


def _headers_of(error: BrokerError) -> dict[str, str]:
    if isinstance(error, TokenRefusedError):
        return {"WWW-Authenticate": f'{_REALM}, error="invalid_token"'}
    if isinstance(error, IdentityRefusedError):
        return {"WWW-Authenticate": _REALM}
    if isinstance(error, WebhookRefusedError):
        return {"WWW-Authenticate": "Webhook-Signature"}
    if isinstance(error, OrderRateError | ThrottledError):
        return {"Retry-After": retry_after(error.retry_after)}
    if PROBLEMS[error.code].status == PROBLEMS["audit_unavailable"].status:
        return {"Retry-After": retry_after(error.retry_after if isinstance(error, SourceUnavailableError) else None)}
    return {}


def _foreign_problem(error: web.HTTPException, instance: str) -> web.Response:
    if isinstance(error, web.HTTPNotFound):
        return problem(WebCode.ROUTE_UNKNOWN, "there is no such route; see openapi.yaml", instance=instance)
    if isinstance(error, web.HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(error.allowed_methods))
        return problem(
            WebCode.METHOD_UNKNOWN, f"this route takes {allowed}", instance=instance, headers={"Allow": allowed}
        )
    if isinstance(error, web.HTTPRequestEntityTooLarge):
        return problem(WebCode.BODY_TOO_LARGE, "the body is over the limit", instance=instance)
    if isinstance(error, web.HTTPExpectationFailed):
        return problem(WebCode.REQUEST_REFUSED, "nothing but `Expect: 100-continue` is known", instance=instance)
    return problem(WebCode.REQUEST_REFUSED, "the request can't be served as it stands", instance=instance)
