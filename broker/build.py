"""What this broker is made of: its version, its commit, and what it runs on."""

import platform
import sqlite3
import ssl
from importlib.metadata import version
from importlib.resources import files
from typing import Final

UNKNOWN: Final = "unknown"


def commit() -> str:
    """Return the commit that the package was built from; `unknown` when its build could not tell."""
    try:
        return (files("broker") / "commit.txt").read_text(encoding="ascii").strip() or UNKNOWN
    except OSError:
        return UNKNOWN


def build_facts(*, schema: int) -> dict[str, str | int]:
    """Return everything that a report about this broker should name; `schema` is that of the audit database."""
    return {
        "version": version("logflux-broker"),
        "commit": commit(),
        "schema": schema,
        "python": platform.python_version(),
        "openssl": ssl.OPENSSL_VERSION,
        "sqlite": sqlite3.sqlite_version,
        "aiohttp": version("aiohttp"),
        "cryptography": version("cryptography"),
    }
