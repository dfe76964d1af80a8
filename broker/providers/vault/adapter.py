"""hvac's API over our own transport.

`hvac.Client(adapter=...)` calls `request` and returns what it returns, so a coroutine function makes hvac's
methods awaitable. Some of hvac's methods break silently that way (`is_authenticated`, `delete`): only those
that this package calls were tried.
"""

from functools import partial
from typing import Any, Final
from urllib.parse import unquote

import hvac
import hvac.adapters

from broker.errors import SourceUnavailableError
from broker.providers.vault.exchange.answers import StoreAnswerError, foreign_error, is_error
from broker.providers.vault.exchange.request import StoreRequest, is_about_token
from broker.providers.vault.settings import VaultSettings
from broker.providers.vault.transport.transport import StoreTransport

_ERRORS: Final = 400
_HEADERS: Final = {"X-Vault-Request": "true", "Accept-Encoding": "identity"}


class AsyncAdapter(hvac.adapters.Adapter):  # type: ignore[misc]  # hvac has no types.
    """Let hvac build requests, and send them through a `StoreTransport`. One adapter holds one token."""

    def __init__(
        self,
        *args: Any,  # noqa: ANN401  hvac's own signature.
        transport: StoreTransport,
        login_namespace: str | None,
        **kwargs: Any,  # noqa: ANN401  As above.
    ) -> None:
        """Keep the transport, and the namespace of the auth method, beside what hvac keeps."""
        super().__init__(*args, **kwargs)
        self._transport = transport
        self._login_namespace = login_namespace

    def get_login_token(self, response: Any) -> str:  # noqa: ANN401  hvac's own signature.
        """Return the token of a login's answer."""
        return str(response["auth"]["client_token"])

    async def request(
        self,
        method: str,
        url: str,
        headers: dict[str, str] | None = None,
        raise_exception: bool = True,  # noqa: FBT001, FBT002  hvac's own signature.
        **kwargs: Any,  # noqa: ANN401  As above.
    ) -> Any:  # noqa: ANN401  As above.
        """Return the JSON of the answer, or its status when it has none.

        `repeatable=True` says that the request may be sent twice: never for one that mints. `mount=` names the
        mount that it goes to, and `raw_types=` the content types in which the bytes of the answer are returned.

        Raises:
            StoreAnswerError: The status is 400 or more.
            SourceUnavailableError: There is no answer that can be read.
            SecretUnusableError: The secret is larger than an answer may be.

        """
        del raise_exception
        namespace = self._login_namespace if is_about_token(url) else self.namespace
        mine = {"X-Vault-Token": self.token, "X-Vault-Namespace": namespace}
        request = StoreRequest(
            method=method.upper(),
            path=url,
            headers={**{name: value for name, value in mine.items() if value}, **_HEADERS, **(headers or {})},
            params=kwargs.get("params"),
            body=kwargs.get("json"),
            repeatable=kwargs.get("repeatable", False),
            mount=kwargs.get("mount", ""),
            raw_types=kwargs.get("raw_types"),
        )
        response = await self._transport.send(request)
        if response.is_redirect:
            message = (
                "the store redirects to another address, as a standby does that can't pass a request on to its leader; "
                "name its active node, or a load balancer that knows it"
            )
            raise SourceUnavailableError(message)
        if response.status >= _ERRORS:
            if not is_error(response.document):
                raise foreign_error(response.status, response.retry_after)
            asked = f"{request.method} {_path_of(request)}"
            raise StoreAnswerError(response.status, response.document, response.retry_after, asked=asked)
        if response.raw is not None:
            return response.raw
        return response.document if response.document is not None else response.status

    async def login(self, url: str, use_token: bool = True, **kwargs: Any) -> Any:  # noqa: ANN401, FBT001, FBT002  hvac's own signature.
        """Return the answer of a login, and use its token from now on when `use_token`.

        Raises:
            StoreAnswerError: As `request`.
            SourceUnavailableError: As `request`.

        """
        document = await self.post(url, **kwargs)
        if use_token:
            self.token = self.get_login_token(document)
        return document


def _path_of(request: StoreRequest) -> str:
    """Return the whole path of a request as a policy of the store would name it."""
    namespace = request.place.namespace.strip("/")
    path = unquote(request.path.removeprefix("/v1/"))
    return f"{namespace}/{path}" if namespace else path


def make_client(*, settings: VaultSettings, transport: StoreTransport, token: str | None) -> Any:  # noqa: ANN401  hvac has no types.
    """Return an hvac client whose methods are coroutine functions."""
    login_namespace = settings.auth.namespace or settings.namespace
    client = hvac.Client(
        # The transport picks the address; any URL keeps hvac from looking for one in the environment.
        url=settings.endpoints[0],
        namespace=settings.namespace,
        # Any token keeps hvac from looking for one in the environment and in the home directory.
        token="none",  # noqa: S106  Not a credential.
        adapter=partial(
            AsyncAdapter,
            transport=transport,
            login_namespace=None if login_namespace == "/" else login_namespace,
        ),
    )
    # A login is sent without a token.
    client.adapter.token = token
    return client
