"""A real PostgreSQL for tests, behind the database engine of a real OpenBao."""

import contextlib
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.cli.child import free_port
from tests.openbao import OpenBao

_START_SECONDS = 30.0
# Debian gives each version a directory of its own, off the path.
_VERSIONS = Path("/usr/lib/postgresql")


def _binaries() -> Path | None:
    found = sorted(_VERSIONS.glob("*/bin/initdb"))
    beside = shutil.which("initdb")
    return found[-1].parent if found else Path(beside).parent if beside else None


class PostgreSQL:
    """One server in a process of its own, run by a user other than root as it demands."""

    def __init__(self) -> None:
        binaries = _binaries()
        if binaries is None:
            message = "PostgreSQL is not installed: sudo apt-get install postgresql"
            if os.environ.get("CI") == "true":
                raise AssertionError(message)
            pytest.skip(message)
        self._binaries = binaries
        # Not below pytest's own directory, which lets nobody but root in.
        self._directory = Path(tempfile.mkdtemp(prefix="logflux-postgres-"))
        self._user = _other_user()
        self.password = secrets.token_hex(16)
        self.port = free_port()
        self._child: subprocess.Popen[bytes] | None = None
        try:
            self._create()
            self.start()
            self.sql(f"create role vaultadmin login createrole password '{self.password}'", database="postgres")
            self.sql("create role app_ro nologin", database="postgres")
            self.sql("grant app_ro to vaultadmin with admin option", database="postgres")
            self.sql("create database app", database="postgres")
        except BaseException:
            self.close()
            raise

    def start(self) -> None:
        """Start the server and wait until it answers."""
        command = [self._binaries / "postgres", "-D", self._data, "-p", str(self.port), "-h", "127.0.0.1"]
        options = ["-c", f"unix_socket_directories={self._directory}", "-c", "fsync=off"]
        with (self._directory / "log").open("ab") as log:
            self._child = subprocess.Popen(
                [*command, *options], stdin=subprocess.DEVNULL, stdout=log, stderr=log, user=self._user
            )
        deadline = time.monotonic() + _START_SECONDS
        while self._psql("select 1", "postgres").returncode != 0:
            if self._child.poll() is not None or time.monotonic() > deadline:
                raise AssertionError((self._directory / "log").read_text()[-2000:])
            time.sleep(0.05)

    def stop(self) -> None:
        """End the server at once, as its host's failure would; `start` brings it back with its data."""
        child, self._child = self._child, None
        if child is not None:
            # "Immediate shutdown" in PostgreSQL's words: a SIGKILL would leave its children behind.
            child.send_signal(signal.SIGQUIT)
            child.wait(timeout=20)

    def close(self) -> None:
        """End the server and remove its data."""
        self.stop()
        shutil.rmtree(self._directory, ignore_errors=True)

    def sql(self, statement: str, *, database: str = "app") -> str:
        """Run a statement as the administrator, and return the rows, one a line."""
        done = self._psql(statement, database)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def roles(self, prefix: str = "v-") -> set[str]:
        """Return the names of the credentials that the engine has made and that are there now."""
        return set(self.sql(f"select rolname from pg_roles where rolname like '{prefix}%'").split())

    def logs_in(self, user: str, password: str) -> bool:
        """Tell whether a credential opens the database."""
        return self._psql("select 1", "app", user=user, password=password).returncode == 0

    def behind(self, store: OpenBao, *, mount: str = "database", **role: str) -> None:
        """Mount the database engine on this server, with a role `app` whose credentials live 1 hour, 24 at most."""
        store.mount(mount, "database")
        store.write(
            f"{mount}/config/pg",
            {
                "plugin_name": "postgresql-database-plugin",
                "allowed_roles": "*",
                "username": "vaultadmin",
                "password": self.password,
                "connection_url": f"postgresql://{{{{username}}}}:{{{{password}}}}@127.0.0.1:{self.port}/app?sslmode=disable",
                "password_authentication": "scram-sha-256",
            },
        )
        self.role(store, "app", mount=mount, **role)

    @staticmethod
    def role(
        store: OpenBao, name: str, *, mount: str = "database", default_ttl: str = "1h", max_ttl: str = "24h"
    ) -> None:
        """Write a role of the engine."""
        statement = "CREATE ROLE \"{{name}}\" LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}'; "
        store.write(
            f"{mount}/roles/{name}",
            {
                "db_name": "pg",
                "default_ttl": default_ttl,
                "max_ttl": max_ttl,
                "creation_statements": [statement + 'GRANT app_ro TO "{{name}}";'],
            },
        )

    @property
    def _data(self) -> Path:
        return self._directory / "data"

    def _create(self) -> None:
        # `initdb` reads no pipe as another user, so the password goes by a file.
        password = self._directory / "password"
        password.touch(mode=0o600)
        password.write_text(self.password)
        if self._user is not None:
            shutil.chown(self._directory, user=self._user)
            shutil.chown(password, user=self._user)
        subprocess.run(
            [
                self._binaries / "initdb",
                *("-D", self._data, "-A", "scram-sha-256", "-U", "postgres", f"--pwfile={password}", "--no-sync"),
            ],
            user=self._user,
            check=True,
            capture_output=True,
            timeout=60,
            cwd="/",
        )
        password.unlink()

    def _psql(
        self, statement: str, database: str, *, user: str = "postgres", password: str | None = None
    ) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [
                self._binaries / "psql",
                *("-X", "-A", "-t", "-q", "-h", "127.0.0.1", "-p", str(self.port), "-U", user, "-d", database),
                *("-c", statement),
            ],
            env={**os.environ, "PGPASSWORD": password or self.password, "PGCONNECT_TIMEOUT": "5"},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )


def _other_user() -> str | None:
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name).pw_name
    raise AssertionError("there is no user to run PostgreSQL as")


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgreSQL]:
    """Return the PostgreSQL of this module's tests."""
    server = PostgreSQL()
    yield server
    server.close()
