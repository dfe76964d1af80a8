"""`broker leases`: list the credentials that stores have made for identities, without values, and take them back."""

import argparse
import json
import os
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from broker.agent.client import BrokerClient
from broker.agent.refusal import say, say_waiting
from broker.agent.settings import add_client_arguments, client_settings
from broker.assembly.implementations import open_leases
from broker.errors import BrokerError
from broker.escape import clean
from broker.leases.record import LeaseRecord

_EXIT_LEFT = 4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--database", type=Path, metavar="FILE", help="the broker's state.db, which is listed")
    parser.add_argument("--identity", metavar="NAME", help="only those of this identity")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.epilog = (
        "an identity revokes its own with DELETE /v1/leases/ID; taking its rule out of the policy revokes them all\n\n"
        "examples:\n"
        "  broker leases --database /var/lib/logflux-broker/state.db\n"
        "  broker leases --database state.db --identity spiffe://prod.example/app --json\n"
        "  broker leases revoke --identity spiffe://prod.example/app"
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION")
    _add_revoke(actions.add_parser("revoke", help="take leases back, by an order to the running broker"))


def _add_revoke(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = "take leases back, by an order to the running broker"
    parser.add_argument("lease", nargs="?", metavar="ID", help="one lease")
    # Other names than those of the list, whose defaults would take their place.
    parser.add_argument("--identity", dest="of", metavar="NAME", help="all leases of this identity")
    parser.add_argument(
        "--reference",
        dest="references",
        action="append",
        metavar="PATTERN",
        help="all leases of a reference, or of a pattern as in policies; may be given several times",
    )
    parser.add_argument("--all", dest="everything", action="store_true", help="all leases")
    parser.add_argument("--json", dest="as_json", action="store_true", help="print the broker's answer")
    add_client_arguments(parser)
    parser.epilog = (
        "The certificate is that of an identity which the policy names under administrators. Whoever policy still\n"
        "allows it gets another lease when it asks again: take its right away first.\n\n"
        "exit status: 0 all are gone, 1 refused or no such lease, 2 wrong command line,\n"
        "             4 broker away, or some are left: they are tried until they are gone\n\n"
        "examples:\n"
        "  broker leases revoke lease_x9Jq0m5o4k2rW7tYb1cD8g\n"
        "  broker leases revoke --identity spiffe://prod.example/app\n"
        "  broker leases revoke --reference vault:database/creds/app\n"
        "  broker leases revoke --all --json"
    )


def run(arguments: argparse.Namespace) -> int:
    """Print one line a lease, the oldest first, or give the order to take some back.

    Raises:
        SettingsInvalidError: The database can't be read.

    """
    if arguments.action == "revoke":
        return _revoke(arguments)
    if arguments.database is None:
        print("broker: --database FILE is missing; it names the broker's state.db", file=sys.stderr)
        return 2
    records = [record for record in open_leases(arguments.database) if arguments.identity in {None, record.identity}]
    for record in records:
        print(json.dumps(_document(record)) if arguments.json else _line(record))
    if not records and not arguments.json:
        print("no leases", file=sys.stderr)
    return 0


def _revoke(arguments: argparse.Namespace) -> int:
    named = {
        "lease": arguments.lease,
        "identity": arguments.of,
        "references": arguments.references,
        "everything": arguments.everything or None,
    }
    order = {name: what for name, what in named.items() if what is not None}
    if len(order) != 1:
        print("broker: name one of ID, --identity, --reference and --all", file=sys.stderr)
        return 2
    try:
        client = BrokerClient(settings=client_settings(arguments, os.environ), on_wait=say_waiting)
        answer = client.order("/v1/leases/revoke", order)
    except BrokerError as error:
        return say(error)
    if arguments.as_json:
        print(json.dumps(answer))
    else:
        _say_done(answer)
    return 0 if answer.get("revoked") == answer.get("leases") else _EXIT_LEFT


def _say_done(answer: Mapping[str, Any]) -> None:
    leases, revoked = answer.get("leases", 0), answer.get("revoked", 0)
    print(f"{leases} lease{'' if leases == 1 else 's'}, {revoked} revoked")
    for left in answer.get("revoking", ()):
        why = left.get("detail") or "it waits for its turn"
        print(f"  {left.get('id')} is being revoked: {why}", file=sys.stderr)


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
