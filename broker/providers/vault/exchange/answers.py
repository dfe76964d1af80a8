"""What the store's error answers mean. Status and structure decide; a text is matched only where nothing else tells."""

from typing import Any, Final

from broker.errors import FetchError, MissingPart, SecretMissingError, SourceUnavailableError
from broker.source_words import SourceWords

NO_CONTENT: Final = 204
BAD_REQUEST: Final = 400
FORBIDDEN: Final = 403
NOT_FOUND: Final = 404
METHOD_NOT_ALLOWED: Final = 405
# Of Vault, by a node that has not yet the state that it is asked for; OpenBao passes such a request on.
BEHIND: Final = 412
TOO_MANY: Final = 429
SERVER_FAULT: Final = 500
_SHUT: Final = 503

# The body of a denial by policy; that of a dead token is another one. No contract, so it never decides alone.
_POLICY_DENIAL: Final = ("1 error occurred:\n\t* permission denied\n\n",)


# Not initialised, a proxy without a store behind it, sealed.
_OUTAGES: Final = frozenset({501, 502, 503, 504})

_ERROR_KEYS: Final = frozenset({"errors", "data", "initialized"})

# What one namespace alone says, at every address of the store; tried against a real one.
_SHUT_PLACES: Final = ("locked by an administrator", "namespace is sealed")

# Status, a part of the text ("" for any), and what it means; the first that fits counts.
_STATES: Final = (
    (400, "resume service", "the secrets engine is being set up in the store, and serves in a moment"),
    (404, "namespace not found", "the store knows no such namespace; look at providers.vault.namespace"),
    (412, "", "a node of the store has not come yet to what another has told"),
    (429, "", "the store limits the rate of requests"),
    (500, "active cluster node not found", "the store has no leader"),
    (500, "internal error", "the store serves nobody, as it does while its audit device can't write"),
    (500, "missing name in alias", "the broker's login certificate has no common name, which the store asks for"),
    (501, "", "the store is not initialised"),
    (503, "locked by an administrator", "an administrator of the store has locked its namespace"),
    (503, "namespace is sealed", "the namespace is sealed, and the store as a whole is not"),
    # The store's health document, which is no error, has this status too when it is sealed.
    (503, "", "the store is sealed"),
)


class StoreAnswerError(Exception):
    """The store answered with an error status; `document` is its JSON, or None when it sent none.

    `asked` names the request, without parameters.
    """

    def __init__(self, status: int, document: Any, retry_after: float | None, *, asked: str) -> None:  # noqa: ANN401  JSON can be anything.
        """Keep the answer; the text of this exception names the status alone."""
        super().__init__(f"the store answered {status}")
        self.status = status
        self.document = document
        self.retry_after = retry_after
        self.asked = asked

    @property
    def errors(self) -> tuple[str, ...]:
        """Return the store's `errors`, empty when it sent none."""
        return _errors(self.document)

    @property
    def words(self) -> SourceWords:
        """Return what the store said, for the audit record."""
        request = self.document.get("request_id") if isinstance(self.document, dict) else None
        return SourceWords(asked=self.asked, status=self.status, texts=self.errors, request=str(request or ""))

    @property
    def says_policy(self) -> bool:
        """Tell whether this 403 reads like a denial by policy, which only a live token gets."""
        denial = self.errors == _POLICY_DENIAL or self.says("preflight capability check")
        return self.status == FORBIDDEN and denial

    def says(self, text: str) -> bool:
        """Tell whether one of the store's errors holds `text`; every answer holds the empty text."""
        return not text or any(text in error for error in self.errors)


class WrongEngineError(SecretMissingError):
    """The answer is not of the engine that was asked: the mount is gone, or became another one."""

    def __init__(self, words: SourceWords) -> None:
        """Say what the store says when it is true."""
        super().__init__("nothing is mounted there", part=MissingPart.MOUNT, words=words)


def read_error(error: StoreAnswerError, *, versioned: bool) -> FetchError:
    """Return what the error answer to the read of a secret means; `versioned` when a version was asked for."""
    if error.status == METHOD_NOT_ALLOWED:
        return WrongEngineError(error.words)
    if error.status != NOT_FOUND or error.says("namespace not found"):
        return unavailable(error)
    return _not_found(error, error.document if isinstance(error.document, dict) else {}, versioned=versioned)


def _not_found(error: StoreAnswerError, document: dict[str, Any], *, versioned: bool) -> FetchError:
    if error.says("no handler for route") or document.get("warnings"):
        return WrongEngineError(error.words)
    envelope = document.get("data")
    metadata = envelope.get("metadata") if isinstance(envelope, dict) else None
    if isinstance(metadata, dict):
        if metadata.get("destroyed"):
            return SecretMissingError("this version was destroyed", part=MissingPart.DESTROYED, words=error.words)
        message = "this version was deleted; it can be undeleted in the store"
        return SecretMissingError(message, part=MissingPart.DELETED, words=error.words)
    if "errors" not in document:
        # A 404 of something else: a proxy in front, a web server.
        return bad_answer()
    if versioned:
        message = "there is no such version of this secret"
        return SecretMissingError(message, part=MissingPart.VERSION, words=error.words)
    return SecretMissingError("there is no secret at this path", part=MissingPart.PATH, words=error.words)


def is_outage(status: int, document: Any) -> bool:  # noqa: ANN401  JSON can be anything.
    """Tell whether an answer says that its sender can serve nothing at all, and another address might."""
    if status == SERVER_FAULT:
        return "active cluster node not found" in " ".join(_errors(document))
    return status in _OUTAGES and not is_shut_place(status, document)


def is_shut_place(status: int, document: Any) -> bool:  # noqa: ANN401  As above.
    """Tell whether an answer says that one namespace is locked or sealed, while the store serves all others."""
    return status == _SHUT and any(text in error for error in _errors(document) for text in _SHUT_PLACES)


def stopped_by_itself(status: int, document: Any) -> bool:  # noqa: ANN401  As above.
    """Tell whether the store can't write its audit log, and so serves nobody; an engine's fault reads otherwise."""
    return status == SERVER_FAULT and _errors(document) == ("internal error",)


def is_error(document: Any) -> bool:  # noqa: ANN401  As above.
    """Tell whether it is what the store itself sends with an error status: errors, a deleted secret, or its health."""
    return isinstance(document, dict) and not _ERROR_KEYS.isdisjoint(document)


def foreign_error(status: int, retry_after: float | None) -> SourceUnavailableError:
    """Return the error for an error status that is not the store's own, and so says nothing of what was asked."""
    message = f"something before the store answered {status} in its place; look at the proxies and firewalls on the way"
    return SourceUnavailableError(message, retry_after=retry_after)


def is_envelope(document: Any) -> bool:  # noqa: ANN401  As above.
    """Tell whether it is a good answer of the store itself, each of which has the id of its request."""
    return isinstance(document, dict) and "request_id" in document


def is_health(document: Any) -> bool:  # noqa: ANN401  As above.
    """Tell whether it is a health document: a standby sends its own with the status of a limit."""
    return isinstance(document, dict) and "standby" in document


def unavailable(error: StoreAnswerError) -> SourceUnavailableError:
    """Return the error for an answer that says nothing about the secret."""
    state = state_of(error.status, error.document)
    return SourceUnavailableError(state, retry_after=error.retry_after, words=error.words)


def state_of(status: int, document: Any) -> str:  # noqa: ANN401  As above.
    """Return what an answer that gives nothing says about the store, in fixed words."""
    errors = _errors(document)
    for known, text, state in _STATES:
        if status == known and (not text or any(text in error for error in errors)):
            return state
    if status >= SERVER_FAULT:
        return f"the store, or something before it, has a fault (it answered {status})"
    return f"the store answered {status}, which was not expected"


def bad_answer() -> SourceUnavailableError:
    """Return the error for a 200 that is not the store's."""
    message = "the answer is not what Vault or OpenBao says; is something else listening at providers.vault.address?"
    return SourceUnavailableError(message)


def _errors(document: Any) -> tuple[str, ...]:  # noqa: ANN401  As above.
    found = document.get("errors") if isinstance(document, dict) else None
    return tuple(str(text) for text in found) if isinstance(found, list) else ()
