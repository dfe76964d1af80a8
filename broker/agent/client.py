"""The agent's client: references out, values in, over mTLS, with the standard library alone."""

import http.client
import json
import random
import ssl
import time
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

from broker.agent.answer import Answer, read_answers, read_object, read_refusal
from broker.agent.settings import ClientSettings, ClientSettingsError
from broker.errors import BrokerError

_MAX_ANSWER_BYTES: Final = 512 * 1024 * 1024
_MAX_EVENT_BYTES: Final = 4 * 1024 * 1024
# Signs of life come every 15 seconds by default.
_SILENCE_SECONDS: Final = 90.0
_FIRST_PAUSE: Final = 0.2
_LONGEST_PAUSE: Final = 5.0
# What passes by itself: the broker can't answer now, or this identity asks too often.
_LATER: Final = frozenset({HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.TOO_MANY_REQUESTS})


class BrokerUnreachableError(BrokerError):
    """The broker does not answer, or can't answer now."""

    code = "broker_unreachable"


class CertificateRefusedError(BrokerError):
    """The broker refuses this agent's certificate, or shows one that this agent does not trust."""

    code = "certificate_refused"


class BrokerClient:
    """Ask one broker."""

    def __init__(self, *, settings: ClientSettings) -> None:
        """Load the certificates.

        Raises:
            ClientSettingsError: A file is missing or is no certificate or key.

        """
        self._settings = settings
        address = urllib.parse.urlsplit(settings.url)
        self._host, self._port = address.hostname or "", address.port or 443
        try:
            self._context = ssl.create_default_context(cafile=str(settings.authority))
            self._context.minimum_version = ssl.TLSVersion.TLSv1_2
            self._context.load_cert_chain(settings.certificate, settings.key)
        except (OSError, ValueError) as error:
            message = f"the CA, certificate or key can't be loaded: {getattr(error, 'strerror', None) or 'not PEM'}"
            raise ClientSettingsError(message) from None

    def resolve(self, references: Sequence[str], *, require: str = "all") -> tuple[Answer, ...]:
        """Return one answer a reference, in the order asked.

        Tries again with growing pauses while the broker is away, until the settings' `wait_seconds` are over.

        Raises:
            BrokerUnreachableError: It stayed away.
            CertificateRefusedError: One side refuses the other's certificate; trying again would not help.
            ResolveRefusedError: It gives no value; with `require="all"` one refused reference is enough.
            MalformedAnswerError: What answers there is no broker, or it answered something else than was asked.

        """
        body = json.dumps({"references": list(references), "require": require})
        return read_answers(*self._exchange("/v1/resolve", body), asked=references)

    def watch(
        self, references: Sequence[str], *, versions: Mapping[str, str], after: str = ""
    ) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
        """Yield the name, the id ("" without) and the data of each event, until the stream ends.

        `versions` are those that are held, by reference; `after` is the id of the last event that was seen.

        Raises:
            BrokerUnreachableError: There is no broker, or nothing came from it for longer than its signs of life.
            ResolveRefusedError: It refuses the watch.
            MalformedAnswerError: What answers there is no broker.

        """
        connection = http.client.HTTPSConnection(
            self._host, self._port, context=self._context, timeout=_SILENCE_SECONDS
        )
        headers = {"Content-Type": "application/json", **({"Last-Event-ID": after} if after else {})}
        body = json.dumps({"references": list(references), "versions": dict(versions)})
        try:
            connection.request("POST", "/v1/watch", body, headers)
            response = connection.getresponse()
            if response.status != HTTPStatus.OK:
                raise read_refusal(response.status, response.read(_MAX_EVENT_BYTES))
            yield from _events(response)
        except (OSError, http.client.HTTPException):
            message = "the broker's stream of changes broke off"
            raise BrokerUnreachableError(message) from None
        finally:
            connection.close()

    def order(self, path: str, order: Mapping[str, Any]) -> Mapping[str, Any]:
        """Give the broker an order at `path`, and return what it says; waits for it as `resolve` does.

        Raises:
            BrokerUnreachableError: It stayed away.
            CertificateRefusedError: One side refuses the other's certificate; trying again would not help.
            ResolveRefusedError: It refuses the order.
            MalformedAnswerError: What answers there is no broker.

        """
        return read_object(*self._exchange(path, json.dumps(order)))

    def _exchange(self, path: str, body: str) -> tuple[int, bytes]:
        """Return status and body of the answer, trying again while the broker is away."""
        deadline = time.monotonic() + self._settings.wait_seconds
        pause, closed = _FIRST_PAUSE, False
        while True:
            try:
                status, after, answer = self._post(path, body)
            except ssl.SSLError:
                message = (
                    "TLS failed: the broker refuses this certificate, or its own does not fit --ca and the host name"
                )
                raise CertificateRefusedError(message) from None
            except (OSError, http.client.HTTPException) as error:
                # With TLS 1.3 a refused certificate shows only here: the broker closes in the place of an answer.
                closed = isinstance(error, http.client.RemoteDisconnected | ConnectionResetError)
                status, after, answer = HTTPStatus.SERVICE_UNAVAILABLE, 0.0, None
            if answer is not None and status not in _LATER:
                return status, answer
            # Full jitter, so that a fleet that starts together does not come back together.
            wait = max(after, random.uniform(0, pause))  # noqa: S311  A pause is no secret.
            if time.monotonic() + wait > deadline:
                raise _given_up(status, answer, closed=closed)
            time.sleep(wait)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _post(self, path: str, body: str) -> tuple[int, float, bytes | None]:
        connection = http.client.HTTPSConnection(self._host, self._port, context=self._context, timeout=30)
        try:
            connection.request("POST", path, body, {"Content-Type": "application/json", "Accept": "application/json"})
            response = connection.getresponse()
            text = response.read(_MAX_ANSWER_BYTES)
            after = response.getheader("Retry-After", "0")
            return response.status, float(after) if after.isdecimal() else 0.0, text
        finally:
            connection.close()


def _events(response: http.client.HTTPResponse) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    name = position = ""
    while line := response.readline(_MAX_EVENT_BYTES):
        member, _, text = line.rstrip(b"\n").decode("utf-8", "replace").partition(": ")
        if member == "event":
            name, position = text, ""
        elif member == "id":
            position = text
        elif member == "data":
            yield name, position, read_object(HTTPStatus.OK, text.encode())


def _given_up(status: int, body: bytes | None, *, closed: bool) -> BrokerError:
    if body is not None:
        return read_refusal(status, body)
    if closed:
        return CertificateRefusedError("the broker closes the connection; it does not take this agent's certificate")
    return BrokerUnreachableError("the broker does not answer; is --url right, and does it run?")
