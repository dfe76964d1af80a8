"""Every error that the broker raises on purpose.

Each carries a stable `code` that callers may match, and a `detail` that is safe to show: it names
what is wrong, where, and what to do, and never holds a value, a store's URL or the text of a foreign
exception. Nothing here knows HTTP; `web/problems.py` maps codes to statuses.
"""

from enum import StrEnum
from typing import ClassVar

from broker.source_words import SourceWords


class BrokerError(Exception):
    """The root of the family; catch it to catch every refusal of the broker and no bug."""

    code: ClassVar[str] = "internal"

    def __init__(self, detail: str) -> None:
        """Keep `detail`, one sentence or two that a person can act on."""
        super().__init__(detail)
        self.detail = detail


class MalformedReferenceError(BrokerError):
    """The text is not a reference; `position` is the index of the first offending character."""

    code = "reference_malformed"

    def __init__(self, detail: str, *, position: int) -> None:
        """Keep where the text went wrong, counted in characters from 0."""
        super().__init__(detail)
        self.position = position


class MalformedPatternError(BrokerError):
    """The text is not a reference pattern; `position` as in `MalformedReferenceError`."""

    code = "pattern_malformed"

    def __init__(self, detail: str, *, position: int) -> None:
        """Keep where the text went wrong, counted in characters from 0."""
        super().__init__(detail)
        self.position = position


class DocumentInvalidError(BrokerError):
    """A YAML document is refused; `line` and `column` count from 1, 0 when unknown."""

    code = "document_invalid"

    def __init__(self, detail: str, *, line: int = 0, column: int = 0) -> None:
        """Keep where the document went wrong."""
        super().__init__(detail)
        self.line = line
        self.column = column


class PolicyInvalidError(DocumentInvalidError):
    """The policy file can't be used as it stands."""

    code = "policy_invalid"


class SettingsInvalidError(BrokerError):
    """The settings can't be used as they stand, or something that they name can't."""

    code = "settings_invalid"


class IdentityRefusedReason(StrEnum):
    """Why a certificate that passed the handshake is no identity."""

    NO_CERTIFICATE = "no_certificate"
    NO_SAN = "no_san"
    TWO_URI_SANS = "two_uri_sans"
    SEVERAL_DNS_SANS = "several_dns_sans"
    URI_NOT_SPIFFE = "uri_not_spiffe"
    SPIFFE_ID_MALFORMED = "spiffe_id_malformed"
    DNS_SAN_MALFORMED = "dns_san_malformed"
    CA_CERTIFICATE = "ca_certificate"
    KEY_USAGE = "key_usage"
    EXTENDED_KEY_USAGE = "extended_key_usage"
    OUTSIDE_VALIDITY = "outside_validity"
    REVOKED = "revoked"
    REVOCATION_UNKNOWN = "revocation_unknown"
    AUTHORITY_DROPPED = "authority_dropped"
    UNPARSABLE = "unparsable"


class IdentityRefusedError(BrokerError):
    """The peer's certificate names no single identity that the broker can use."""

    code = "identity_refused"

    def __init__(self, detail: str, *, reason: IdentityRefusedReason) -> None:
        """Keep the reason for the audit record."""
        super().__init__(detail)
        self.reason = reason


class TokenRefusedReason(StrEnum):
    """Why a token is refused; the caller learns it in words, the audit in this form."""

    MALFORMED = "malformed"
    TYPE = "type"
    ALGORITHM = "algorithm"
    UNKNOWN_KEY = "unknown_key"
    SIGNATURE = "signature"
    ISSUER = "issuer"
    AUDIENCE = "audience"
    EXPIRED = "expired"
    NOT_YET_VALID = "not_yet_valid"
    LIFETIME = "lifetime"
    CLAIMS = "claims"
    BINDING_MISMATCH = "binding_mismatch"
    SUBJECT_MISMATCH = "subject_mismatch"
    ENVIRONMENT = "environment"
    REVOKED = "revoked"


class TokenRefusedError(BrokerError):
    """The presented token proves nothing (RFC 6750 `invalid_token`)."""

    code = "invalid_token"

    def __init__(self, detail: str, *, reason: TokenRefusedReason) -> None:
        """Keep the reason for the audit record."""
        super().__init__(detail)
        self.reason = reason


class ScopeRefusedError(BrokerError):
    """The asked scope is malformed, empty, or more than policy gives (RFC 6749 `invalid_scope`)."""

    code = "invalid_scope"


class FetchError(BrokerError):
    """A source was asked and gave no value; the subclass says what that means.

    `words` are the source's own, for the audit record alone; None when it did not say so, or not in words.
    """

    def __init__(self, detail: str, *, words: SourceWords | None = None) -> None:
        """Keep what the source said."""
        super().__init__(detail)
        self.words = words


class MissingPart(StrEnum):
    """Which part of an allowed reference is absent."""

    PATH = "path"
    FIELD = "field"
    VERSION = "version"
    DELETED = "deleted"
    DESTROYED = "destroyed"
    MOUNT = "mount"
    VALUE = "value"


class SecretMissingError(FetchError):
    """The source answered, and what the reference names is not there."""

    code = "secret_missing"

    def __init__(self, detail: str, *, part: MissingPart, words: SourceWords | None = None) -> None:
        """Keep which part is missing."""
        super().__init__(detail, words=words)
        self.part = part


class UpstreamDeniedError(FetchError):
    """The source itself refuses the broker this secret, with a credential that is good."""

    code = "upstream_denied"


class SourceUnavailableError(FetchError):
    """The source can't answer now; `retry_after` is in seconds, None when nobody knows.

    `was_asked` tells whether the source said so, or failed to; a class for what was held back before says False.
    """

    code = "source_unavailable"
    was_asked: ClassVar[bool] = True

    def __init__(self, detail: str, *, retry_after: float | None = None, words: SourceWords | None = None) -> None:
        """Keep when asking again may help."""
        super().__init__(detail, words=words)
        self.retry_after = retry_after


class LeaseLimitError(SourceUnavailableError):
    """The identity has as many leases as one may have; it gets another when one of them ends or is given back."""

    code = "lease_limit"
    was_asked = False


class InFlightLimitError(SourceUnavailableError):
    """As many bytes are on their way as the broker has memory for; it says nothing of a source."""

    code = "in_flight_limit"
    was_asked = False


class SourceMintsError(FetchError):
    """Reading the source would make something for one asker, so it has to be minted; it says nothing of a fault."""

    code = "source_mints"


class SecretUnusableError(FetchError):
    """The source has something there that can't be handed out: too large, not base64, no regular file."""

    code = "secret_unusable"


class AnswerTooLargeError(SecretUnusableError):
    """The values of one request are together more than one answer may have; each alone may be had."""

    code = "answer_too_large"


class AuditUnavailableError(BrokerError):
    """The audit record can't be made durable, so nothing may be revealed."""

    code = "audit_unavailable"


class StateUnavailableError(BrokerError):
    """What the broker has to remember can't be made durable, so nothing may be done that depends on it."""

    code = "state_unavailable"


class LeaseUnknownError(BrokerError):
    """There is no such lease, or it is another identity's: the asker does not learn which."""

    code = "lease_unknown"


class ReferenceCountError(BrokerError):
    """The request names no reference at all, or more than one request may."""

    code = "reference_count"


class NotAdministratorError(BrokerError):
    """The identity may not give orders to the broker."""

    code = "not_administrator"


class OrderRateError(BrokerError):
    """More orders than the broker takes; `retry_after` is in seconds."""

    code = "order_rate"

    def __init__(self, detail: str, *, retry_after: float) -> None:
        """Keep when the next order is taken."""
        super().__init__(detail)
        self.retry_after = retry_after


class WebhookRefusedReason(StrEnum):
    """Why a webhook is refused."""

    UNSIGNED = "unsigned"
    TIMESTAMP = "timestamp"
    SIGNATURE = "signature"
    REPLAYED = "replayed"


class WebhookRefusedError(BrokerError):
    """The webhook proves nothing."""

    code = "webhook_refused"

    def __init__(self, detail: str, *, reason: WebhookRefusedReason) -> None:
        """Keep the reason for the audit record."""
        super().__init__(detail)
        self.reason = reason


class ThrottledError(BrokerError):
    """An identity asks too often; `retry_after` is in seconds, `is_news` says that it belongs on record."""

    code = "rate_limited"

    def __init__(self, detail: str, *, retry_after: float, is_news: bool) -> None:
        """Keep when asking again helps, and whether this is to be recorded."""
        super().__init__(detail)
        self.retry_after = retry_after
        self.is_news = is_news


class InvalidClientError(BrokerError):
    """The client says it is somebody else than its certificate (RFC 6749 `invalid_client`)."""

    code = "invalid_client"


class UnauthorizedClientError(BrokerError):
    """The client may not ask for tokens (RFC 6749 `unauthorized_client`)."""

    code = "unauthorized_client"
