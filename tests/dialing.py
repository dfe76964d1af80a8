"""One connection to a listener of the test's own, held in hand."""

import socket
import ssl
from typing import Any

REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


def dial(port: int, context: ssl.SSLContext, **rest: Any) -> ssl.SSLSocket:
    """Return a connection whose handshake is done."""
    plain = socket.create_connection(("127.0.0.1", port), timeout=10)
    try:
        return context.wrap_socket(plain, server_hostname="localhost", **rest)
    except BaseException:
        plain.close()
        raise


def ask(connection: ssl.SSLSocket) -> str:
    """Return the body of the answer to one request on `connection`."""
    connection.sendall(REQUEST)
    received = b""
    while b"\r\n\r\n" not in received:
        part = connection.recv(65536)
        if not part:
            return ""
        received += part
    head, _, body = received.partition(b"\r\n\r\n")
    length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
    while len(body) < length:
        body += connection.recv(65536)
    return body.decode()
