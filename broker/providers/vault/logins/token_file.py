"""A token that stands somewhere, which somebody else may keep fresh: the agent of Vault or OpenBao, an operator."""

from typing import Any, Final

from broker.logs import EventLogger
from broker.providers.vault.exchange.answers import StoreAnswerError
from broker.providers.vault.logins.method import Credential, CredentialReader, Grant, Refusals
from broker.providers.vault.places import Located

_LOG: Final = EventLogger("broker.providers.vault")


class TokenFileLogin:
    """Use the token that stands there."""

    follows_file = True
    refusals = Refusals.FINAL

    def __init__(self, *, token: Located, reader: CredentialReader) -> None:
        """Keep where the token is."""
        self._token = token
        self._reader = reader

    def read(self) -> Credential:
        """Return the token, as `LoginMethod.read`."""
        return Credential.of(self._reader.secret(self._token))

    async def log_in(self, client: Any, credential: Credential) -> Grant:  # noqa: ANN401  hvac has no types.
        """Ask the store how long the token lives, as `LoginMethod.log_in`."""
        (client.adapter.token,) = credential.reveal()
        try:
            facts = (await client.auth.token.lookup_self())["data"]
        except StoreAnswerError as error:
            if not error.says_policy:
                raise
            _LOG.warning("store_rights_missing", path="auth/token/lookup-self", capability="read", lost="renewal")
            return Grant(seconds=0, renewable=False, uses=0)
        return Grant.of({"auth": {**facts, "lease_duration": facts["ttl"]}})
