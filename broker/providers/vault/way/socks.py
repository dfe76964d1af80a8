"""SOCKS5, in a file of its own because its library is an extra."""

import asyncio
from ssl import SSLCertVerificationError, SSLContext

import python_socks
from aiohttp.client_proto import ResponseHandler
from aiohttp_socks import ProxyConnector

from broker.providers.vault.exchange.failures import UnreachableError, failure_of


class SocksConnector(ProxyConnector):
    """Say in the broker's own words what fails between here and the store."""

    async def _connect_via_proxy(
        self,
        host: str,
        port: int,
        ssl: SSLContext | None = None,
        timeout: float | None = None,  # noqa: ASYNC109  The library's own signature.
    ) -> tuple[asyncio.Transport, ResponseHandler]:
        try:
            return await super()._connect_via_proxy(host, port, ssl, timeout)
        except SSLCertVerificationError as error:
            raise failure_of(error) from None
        except python_socks.ProxyConnectionError:
            message = "the proxy can't be reached; look at providers.vault.proxy"
        except python_socks.ProxyTimeoutError:
            message = "the proxy does not answer in time; look at providers.vault.proxy"
        except python_socks.ProxyError as error:
            cause = error.__cause__
            if isinstance(cause, SSLCertVerificationError):
                raise failure_of(cause) from None
            message = "the proxy refuses the way to the store; look at providers.vault.proxy"
        raise UnreachableError(message)
