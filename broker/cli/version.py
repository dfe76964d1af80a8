"""`broker version`: what this broker is made of."""

import argparse
import json
import platform
import sqlite3
import ssl
from importlib.metadata import version
from importlib.resources import files
from typing import Final

from broker.assembly.implementations import known_schemas

_UNKNOWN: Final = "unknown"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.epilog = (
        "`schema` is the version of the audit database that this broker writes, `state_schema` that of state.db.\n"
        "`commit` is `unknown` when the build could not tell.\n\nexample:\n  broker version --json"
    )


def run(arguments: argparse.Namespace) -> int:
    """Print the facts."""
    audit, state = known_schemas()
    facts = _facts(schema=audit, state_schema=state)
    if arguments.json:
        print(json.dumps(facts))
    else:
        for name, value in facts.items():
            print(f"{name:13} {value}")
    return 0


def _commit() -> str:
    """Return the commit that the package was built from; `unknown` when its build could not tell."""
    try:
        return (files("broker") / "commit.txt").read_text(encoding="ascii").strip() or _UNKNOWN
    except OSError:
        return _UNKNOWN


def _facts(*, schema: int, state_schema: int) -> dict[str, str | int]:
    """Return everything that a report about this broker should name; the schemas are those of its two databases."""
    return {
        "version": version("logflux-broker"),
        "commit": _commit(),
        "schema": schema,
        "state_schema": state_schema,
        "python": platform.python_version(),
        "openssl": ssl.OPENSSL_VERSION,
        "sqlite": sqlite3.sqlite_version,
        "aiohttp": version("aiohttp"),
        "cryptography": version("cryptography"),
    }
