"""Questions to one store: requests that change nothing there, asked with a token that is good."""

from typing import Any

from broker.providers.vault.exchange.answers import StoreAnswerError, bad_answer, unavailable
from broker.providers.vault.own_token.login import StoreLogin


class Questions:
    """Ask a store what it has."""

    def __init__(self, *, login: StoreLogin) -> None:
        """Keep the login."""
        self._login = login

    async def get(self, path: str, params: dict[str, str] | None = None, *, mount: str = "") -> dict[str, Any]:
        """Return the JSON that a GET of an encoded `path` gives; `mount` is where it goes.

        Raises:
            UpstreamDeniedError: The store denies it, and the broker's token is good.
            SourceUnavailableError: The store can't answer now.
            SecretUnusableError: The answer is larger than one may be.
            StoreAnswerError: The store answers with another error than 403.

        """
        document = await self._login.call(
            lambda client: client.adapter.get(path, params=params, repeatable=True, mount=mount)
        )
        if not isinstance(document, dict):
            raise bad_answer()
        return document

    async def look(self, path: str) -> dict[str, Any]:
        """Return what `get` returns, where an error answer can only mean that the store can't tell now.

        Raises:
            UpstreamDeniedError: As `get`.
            SourceUnavailableError: The store can't answer now.
            SecretUnusableError: As `get`.

        """
        try:
            return await self.get(path)
        except StoreAnswerError as error:
            raise unavailable(error) from None
