"""What the broker answered, read with care: whatever it sends, a value never ends in an error's text."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

from broker import written_json
from broker.errors import BrokerError, MalformedReferenceError
from broker.reference import parse
from broker.secret import Encoding, SecretValue

_FOREIGN: Final = "what answers at this address is no broker, or one of another version"
_WITH_VALUE: Final = frozenset({"ok", "stale"})


class MalformedAnswerError(BrokerError):
    """What answered speaks no interface of ours: a proxy's page, another service, another version."""

    code = "answer_malformed"


class ResolveRefusedError(BrokerError):
    """The broker answered, and gives no value; `results` tells why, one entry a reference."""

    code = "resolve_refused"

    def __init__(
        self, detail: str, *, code: str, status: int, results: Sequence[Mapping[str, Any]], request: str = ""
    ) -> None:
        """Keep the broker's own code and HTTP status, what it said of each reference, and its name of the request."""
        super().__init__(detail)
        self.broker_code = code
        self.status = status
        self.results = tuple(results)
        self.request = request


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the broker said of one reference; `value` is None unless it may be used.

    Attributes:
        reference: As the broker repeats it.
        status: `ok` or `stale` with a value; `denied`, `missing`, `unavailable` or `invalid` without.
        value: The secret.
        detail: Why there is none.
        code: The stable code of that reason.
        version: The source's own name of the version.
        lease: The broker's name of the lease of a credential that was made for its asker.
        fetched_at: When it was read, in RFC 3339.
        fresh_until: Until when it counts as fresh.
        stale_until: Until when it may be used at all.

    """

    reference: str
    status: str
    value: SecretValue | None
    detail: str = ""
    code: str = ""
    version: str | None = None
    lease: str | None = None
    fetched_at: str | None = None
    fresh_until: str | None = None
    stale_until: str | None = None


def read_answers(status: int, body: bytes, *, asked: Sequence[str]) -> tuple[Answer, ...]:
    """Return one answer for each reference that was asked, in that order.

    Raises:
        MalformedAnswerError: It is no answer of a broker, or one to other references.
        ResolveRefusedError: It is a problem document (RFC 9457): no value is given.

    """
    document = _document(body)
    if status != HTTPStatus.OK:
        raise refusal(status, document)
    results = document.get("results") if document is not None else None
    if not isinstance(results, list) or not all(isinstance(result, dict) for result in results):
        raise MalformedAnswerError(_FOREIGN)
    answers = tuple(_answer(result) for result in results)
    # A value in another variable's place would be worse than none.
    if [_canonical(answer.reference) for answer in answers] != [_canonical(reference) for reference in asked]:
        message = "the broker answered other references than were asked, so no value of it is used"
        raise MalformedAnswerError(message)
    return answers


def read_object(status: int, body: bytes) -> Mapping[str, Any]:
    """Return the JSON object of an answer without values.

    Raises:
        MalformedAnswerError: It is no answer of a broker.
        ResolveRefusedError: It is a problem document (RFC 9457).

    """
    if status != HTTPStatus.OK:
        raise read_refusal(status, body)
    document = _document(body)
    if document is None:
        raise MalformedAnswerError(_FOREIGN)
    return document


def read_refusal(status: int, body: bytes) -> ResolveRefusedError:
    """Return what a problem document says, or that there was none."""
    return refusal(status, _document(body))


def refusal(status: int, document: Mapping[str, Any] | None) -> ResolveRefusedError:
    """Return the error that a problem document describes."""
    told = document or {}
    results = told.get("results")
    return ResolveRefusedError(
        _text(told, "detail") or f"the broker answered {status} and gave no reason",
        code=_text(told, "code") or f"http_{status}",
        status=status,
        results=[result for result in results if isinstance(result, dict)] if isinstance(results, list) else [],
        request=_text(told, "instance"),
    )


def _document(body: bytes) -> dict[str, Any] | None:
    try:
        document = written_json.read(body)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def _answer(result: Mapping[str, Any]) -> Answer:
    status = _text(result, "status")
    return Answer(
        reference=_text(result, "reference"),
        status=status,
        value=_value(result) if status in _WITH_VALUE else None,
        detail=_text(result, "detail"),
        code=_text(result, "code"),
        version=_text(result, "version") or None,
        lease=_lease(result),
        fetched_at=_text(result, "fetched_at") or None,
        fresh_until=_text(result, "fresh_until") or None,
        stale_until=_text(result, "stale_until") or None,
    )


def _lease(result: Mapping[str, Any]) -> str | None:
    lease = result.get("lease")
    return _text(lease, "id") or None if isinstance(lease, dict) else None


def _text(told: Mapping[str, Any], key: str) -> str:
    found = told.get(key)
    return found if isinstance(found, str) else ""


def _value(result: Mapping[str, Any]) -> SecretValue:
    try:
        encoding = Encoding(result["encoding"])
        data = _bytes_of(result["value"], encoding)
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError):
        # Python's own text would repeat the value.
        message = "the broker sent a value in a form that this version does not know"
        raise MalformedAnswerError(message) from None
    return SecretValue(data, encoding=encoding)


def _bytes_of(value: Any, encoding: Encoding) -> bytes:  # noqa: ANN401  What a peer sends can be anything.
    match encoding:
        case Encoding.JSON:
            return written_json.spell(value).encode("utf-8")
        case Encoding.BASE64:
            return base64.b64decode(value, validate=True)
        case Encoding.TEXT:
            return bytes(value.encode("utf-8"))


def _canonical(text: str) -> str:
    try:
        return parse(text).text
    except MalformedReferenceError:
        return text
