"""A wrapping token: opened once, and one that somebody else has opened before is an alarm.

Whoever opens it first has the secret id, so a token that can't be opened means that the secret id is in other hands.
"""

from typing import Any, Final

from broker.errors import SourceUnavailableError
from broker.logs import EventLogger
from broker.providers.base import UpstreamObserver
from broker.providers.vault.exchange.answers import BAD_REQUEST, StoreAnswerError
from broker.providers.vault.exchange.failures import NothingSentError
from broker.providers.vault.logins.method import Credential, CredentialSpentError
from broker.secret import Encoding, SecretValue

_LOG: Final = EventLogger("broker.providers.vault")
_SETTING: Final = "providers.vault.auth.approle.wrapped_secret_id"
_USED: Final = "wrapping_token_used"
_ANOTHER_PATH: Final = "wrapping_token_of_another_path"
# The store has looked at neither: it was sealed, or asked too often.
_UNTOUCHED: Final = frozenset({429, 503})


class WrappingToken:
    """Turn the wrapping token of a file into the secret id, and keep that in memory alone."""

    def __init__(self, *, creation_path: str, observer: UpstreamObserver) -> None:
        """Accept only tokens that were made by a request to `creation_path`."""
        self._creation_path = creation_path
        self._observer = observer
        self._digest = b""
        self._secret: SecretValue | None = None
        self._spent = ""

    async def open(self, client: Any, credential: Credential) -> SecretValue:  # noqa: ANN401  hvac has no types.
        """Return the secret id; asks the store once for each token that the file ever held.

        Raises:
            CredentialSpentError: It was opened before, is another path's, or its opening was lost on the way.
            StoreAnswerError: The store has a fault.
            SourceUnavailableError: The store could not be asked.

        """
        if credential.digest != self._digest:
            self._digest, self._secret, self._spent = credential.digest, None, ""
        if self._spent:
            raise CredentialSpentError(self._spent)
        if self._secret is None:
            _, token = credential.reveal()
            await self._check(client, token)
            self._secret = await self._unwrap(client, token)
        return self._secret

    async def _check(self, client: Any, token: str) -> None:  # noqa: ANN401  hvac has no types.
        # The one request about a wrapping token that does not use it up.
        try:
            answer = await client.adapter.post("/v1/sys/wrapping/lookup", json={"token": token})
        except StoreAnswerError as error:
            raise self._refused(error) from None
        if str(answer["data"]["creation_path"]).strip("/") != self._creation_path:
            message = f"{_SETTING}: the wrapping token was made by another path than {self._creation_path}"
            raise self._alarmed(_ANOTHER_PATH, message)

    async def _unwrap(self, client: Any, token: str) -> SecretValue:  # noqa: ANN401  hvac has no types.
        try:
            answer = await client.adapter.post("/v1/sys/wrapping/unwrap", headers={"X-Vault-Token": token})
            return SecretValue(str(answer["data"]["secret_id"]).encode(), encoding=Encoding.TEXT)
        except StoreAnswerError as error:
            raise self._refused(error) from None
        except NothingSentError:
            raise
        except (SourceUnavailableError, AttributeError, KeyError, TypeError, ValueError):
            # It may be open now, with the secret id lost on the way: a second try could only be refused.
            message = f"{_SETTING}: the answer to its opening was lost; put a new wrapping token there"
            raise self._spend(message) from None

    def _refused(self, error: StoreAnswerError) -> Exception:
        if error.status == BAD_REQUEST:
            message = (
                f"{_SETTING}: the wrapping token has been opened before, or has expired; if this broker did not open "
                "it, the secret id is in other hands: revoke it, and put a new wrapping token there"
            )
            return self._alarmed(_USED, message)
        if error.status in _UNTOUCHED:
            return error
        return self._spend(f"{_SETTING}: the store failed to open it; put a new wrapping token there")

    def _alarmed(self, alarm: str, message: str) -> CredentialSpentError:
        _LOG.error("store_alarm", alarm=alarm, reason=message)
        self._observer.upstream_alarm(provider="vault", alarm=alarm)
        return self._spend(message)

    def _spend(self, message: str) -> CredentialSpentError:
        self._spent = message
        return CredentialSpentError(message)
