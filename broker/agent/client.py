"""The agent's client: references out, values in, over mTLS, with the standard library alone."""

import http.client
import json
import random
import socket
import ssl
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

from broker.agent.answer import Answer, read_answers, read_object, read_refusal
from broker.agent.settings import ClientSettings
from broker.agent.tls import client_context, failed_handshake, refused_certificate
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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Attempt:
    """What came of one request; `answer` is None when none came, and `after` is in seconds."""

    why: str
    status: int = HTTPStatus.SERVICE_UNAVAILABLE
    after: float = 0.0
    answer: bytes | None = None
    closed: bool = False


class BrokerClient:
    """Ask one broker."""

    def __init__(self, *, settings: ClientSettings, on_wait: Callable[[str], None] = lambda _: None) -> None:
        """Load the certificates.

        Args:
            settings: Where the broker is, and who this agent is.
            on_wait: Told once why there is no answer yet, and for how long it is tried.

        Raises:
            ClientSettingsError: A file is missing or is no certificate or key.

        """
        self._settings = settings
        self._on_wait = on_wait
        address = urllib.parse.urlsplit(settings.url)
        self._host, self._port = address.hostname or "", address.port or 443
        self._context = client_context(settings)

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
        began = time.monotonic()
        pause, told = _FIRST_PAUSE, False
        while True:
            attempt = self._attempt(path, body)
            if attempt.answer is not None and attempt.status not in _LATER:
                return attempt.status, attempt.answer
            # Full jitter, so that a fleet that starts together does not come back together.
            wait = max(attempt.after, random.uniform(0, pause))  # noqa: S311  A pause is no secret.
            if time.monotonic() + wait > began + self._settings.wait_seconds:
                raise self._given_up(attempt, seconds=time.monotonic() - began)
            if not told:
                self._on_wait(f"{self._settings.url}: {attempt.why}; trying for {self._settings.wait_seconds:g} s")
                told = True
            time.sleep(wait)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _attempt(self, path: str, body: str) -> _Attempt:
        connection = http.client.HTTPSConnection(self._host, self._port, context=self._context, timeout=30)
        is_open = False
        try:
            connection.connect()
            is_open = True
            return _posted(connection, path, body)
        except (ssl.SSLEOFError, ssl.SSLZeroReturnError, ConnectionError, http.client.RemoteDisconnected) as error:
            # With TLS 1.3 a refused certificate shows only here: the broker closes in the place of an answer.
            # Before the handshake is over, it is a balancer with no broker behind it, which passes.
            return _Attempt(why=_why(error), closed=is_open)
        except ssl.SSLError as error:
            raise CertificateRefusedError(failed_handshake(error, self._settings)) from None
        except (OSError, http.client.HTTPException) as error:
            return _Attempt(why=_why(error))
        finally:
            connection.close()

    def _given_up(self, attempt: _Attempt, *, seconds: float) -> BrokerError:
        if attempt.answer is not None:
            return read_refusal(attempt.status, attempt.answer)
        if attempt.closed:
            return CertificateRefusedError(refused_certificate(self._settings))
        message = f"{self._settings.url}: {attempt.why}, tried for {seconds:.0f} s; is --url right, and does it run?"
        return BrokerUnreachableError(message)


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


def _posted(connection: http.client.HTTPSConnection, path: str, body: str) -> _Attempt:
    connection.request("POST", path, body, {"Content-Type": "application/json", "Accept": "application/json"})
    response = connection.getresponse()
    text = response.read(_MAX_ANSWER_BYTES)
    after = response.getheader("Retry-After", "0")
    return _Attempt(
        why=f"the broker answers {response.status}",
        status=response.status,
        after=float(after) if after.isdecimal() else 0.0,
        answer=text,
    )


def _why(error: OSError | http.client.HTTPException) -> str:
    match error:
        case socket.gaierror():
            return "this host name has no address"
        case TimeoutError():
            return "no answer in time"
        case ConnectionRefusedError():
            return "nothing listens there (connection refused)"
        case ssl.SSLError() | ConnectionError():
            return "the connection is closed before an answer"
        case OSError():
            return error.strerror or "the network is down"
        case _:
            return "what answers there speaks no HTTP"
