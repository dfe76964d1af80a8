"""`broker leases`: list the credentials that stores have made for identities, without their values."""

import argparse
import json
from datetime import UTC, datetime
from pathlib import Path

from broker.escape import clean
from broker.implementations import open_leases
from broker.leases.record import LeaseRecord


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--database", type=Path, required=True, metavar="FILE", help="the broker's state.db")
    parser.add_argument("--identity", metavar="NAME", help="only those of this identity")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.epilog = (
        "an identity revokes its own with DELETE /v1/leases/ID; taking its rule out of the policy revokes them all\n\n"
        "examples:\n"
        "  broker leases --database /var/lib/logflux-broker/state.db\n"
        "  broker leases --database state.db --identity spiffe://prod.example/app --json"
    )


def run(arguments: argparse.Namespace) -> int:
    """Print one line a lease, the oldest first.

    Raises:
        SettingsInvalidError: The database can't be read.

    """
    for record in open_leases(arguments.database):
        if arguments.identity in {None, record.identity}:
            print(json.dumps(_document(record)) if arguments.json else _line(record))
    return 0


def _document(record: LeaseRecord) -> dict[str, str | bool | None]:
    """Return what may be told: the store's own names of leases and tokens stay in the database."""
    return {
        "id": record.id,
        "identity": clean(record.identity),
        "reference": clean(record.source),
        "state": record.state.value,
        "reason": record.reason.value,
        "renewable": record.renewable,
        "created_at": _time(record.created),
        "expires_at": _time(record.expires),
        "revoked_from": None if record.due is None else _time(record.due),
    }


def _line(record: LeaseRecord) -> str:
    state = record.state.value + (f" ({record.reason.value})" if record.reason.value else "")
    return f"{record.id}  {state}  until {_time(record.expires)}  {clean(record.source)}  {clean(record.identity)}"


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
