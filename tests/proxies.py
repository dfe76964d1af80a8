"""Real proxies for tests: squid for HTTP and HTTPS, dante for SOCKS5. Both are Debian packages."""

import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from broker.cli.child import free_port
from tests.certificates import Files
from tests.programs import needed

_HELPER = Path("/usr/lib/squid/basic_ncsa_auth")


@dataclass(frozen=True)
class Proxy:
    """A running proxy, and the log of what it was asked for."""

    port: int
    log: Path

    @property
    def asked(self) -> str:
        return self.log.read_text() if self.log.exists() else ""


@contextmanager
def squid(*, login: str | None = None, tls: Files | None = None) -> Iterator[Proxy]:
    """Run an HTTP proxy, which tunnels to this machine alone; over TLS with `tls`, for `name:password` with `login`."""
    program = needed("squid")
    with _directory() as directory:
        port = free_port()
        log = directory / "access.log"
        lines = [
            f"{_listener(directory, tls)}_port 127.0.0.1:{port}{_listener_options(directory, tls)}",
            f"access_log stdio:{log}",
            f"cache_log {directory}/cache.log",
            "pid_filename none",
            "cache deny all",
            "shutdown_lifetime 0 seconds",
            "acl here dst 127.0.0.0/8",
            *([] if login is None else _demand(directory, login)),
            "http_access allow here",
            "http_access deny all",
        ]
        config = directory / "squid.conf"
        config.write_text("\n".join(lines) + "\n")
        with _running([program, "-N", "-f", str(config)], port, directory / "cache.log"):
            yield Proxy(port, log)


@contextmanager
def dante(*, login: str | None = None, hosts: str | None = None) -> Iterator[Proxy]:
    """Run a SOCKS5 proxy that lets everybody through to this machine.

    With `login`, who knows `name:password` alone, because dante asks for a user of its machine. `hosts` is
    what it has in place of /etc/hosts.
    """
    program = needed("danted")
    method = "none" if login is None else "username"
    with _directory() as directory:
        port = free_port()
        log = directory / "dante.log"
        config = directory / "danted.conf"
        config.write_text(
            f"logoutput: {log}\ninternal: 127.0.0.1 port = {port}\nexternal: 127.0.0.1\n"
            f"clientmethod: none\nsocksmethod: {method}\nuser.privileged: root\nuser.unprivileged: nobody\n"
            "client pass { from: 127.0.0.0/8 to: 0.0.0.0/0 }\n"
            "socks pass { from: 127.0.0.0/8 to: 0.0.0.0/0 log: connect }\n"
        )
        command = [program, "-f", str(config), "-p", str(directory / "danted.pid"), "-N", "1"]
        contents = {**({} if login is None else _with_user(login)), **({} if hosts is None else {"hosts": hosts})}
        if contents:
            command = _on_another_machine(directory, command, contents)
        with _running(command, port, log):
            yield Proxy(port, log)


def _on_another_machine(directory: Path, command: list[str], contents: Mapping[str, str]) -> list[str]:
    """Return `command` in a mount namespace of its own, with other `contents` in files of /etc."""
    for file, content in contents.items():
        (directory / file).touch(mode=Path("/etc", file).stat().st_mode & 0o777)
        (directory / file).write_text(content)
    mounts = "".join(f"mount --bind {directory}/{file} /etc/{file} && " for file in contents)
    return ["unshare", "--mount", "sh", "-c", f'{mounts}exec "$@"', "sh", *command]


def _with_user(login: str) -> dict[str, str]:
    """Return what makes `name:password` one more user of a machine."""
    name, _, password = login.partition(":")
    lines = {"passwd": f"{name}:x:65533:65533::/:/bin/false", "shadow": f"{name}:{_hashed(password, '-6')}:1::::::"}
    return {file: f"{line}\n{Path('/etc', file).read_text()}" for file, line in lines.items()}


def _hashed(password: str, kind: str) -> str:
    done = subprocess.run(
        ["openssl", "passwd", kind, "-stdin"], input=password, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def _listener(directory: Path, tls: Files | None) -> str:
    if tls is None:
        return "http"
    pem = directory / "proxy.pem"
    pem.write_bytes(tls.certificate.read_bytes() + tls.key.read_bytes())
    # The proxy gives its rights up before it reads the file.
    pem.chmod(0o644)
    return "https"


def _listener_options(directory: Path, tls: Files | None) -> str:
    return "" if tls is None else f" tls-cert={directory}/proxy.pem"


def _demand(directory: Path, login: str) -> list[str]:
    name, _, password = login.partition(":")
    passwords = directory / "passwords"
    passwords.write_text(f"{name}:{_hashed(password, '-apr1')}\n")
    return [
        f"auth_param basic program {_HELPER} {passwords}",
        "acl known proxy_auth REQUIRED",
        "http_access deny !known",
    ]


@contextmanager
def _directory() -> Iterator[Path]:
    # Both servers go over to a user of their own, who may not look into a folder of pytest's.
    with tempfile.TemporaryDirectory(prefix="proxy-") as name:
        directory = Path(name)
        directory.chmod(0o777)
        yield directory


@contextmanager
def _running(command: list[str], port: int, log: Path) -> Iterator[None]:
    child = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        deadline = time.monotonic() + 20
        while not _answers(port):
            if child.poll() is not None or time.monotonic() > deadline:
                text = log.read_text(errors="replace")[-2000:] if log.exists() else "no log"
                raise AssertionError(f"{command[0]} does not get ready:\n{text}")
            time.sleep(0.05)
        yield
    finally:
        # The session of the test's own child: helpers of the proxy end with it.
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
