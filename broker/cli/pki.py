"""`broker pki`: make an authority, certificates for the broker and its agents, and revoke them."""

import argparse
import json
from pathlib import Path
from typing import Final

from broker.errors import SettingsInvalidError
from broker.pki.authority import Made, create_authority, issue_certificate
from broker.pki.revocation import write_revocation_list
from broker.whole_file import replace_whole

EXIT_DONE: Final = 0
_AUTHORITY_DAYS: Final = 3650
_LEAF_DAYS: Final = 90
_LIST_DAYS: Final = 30

_EPILOG: Final = """\
exit status:
  0  made
  2  the command line is wrong
  3  a file exists already, is missing or unusable, or a name is

examples:
  broker pki init --dir pki
  broker pki issue broker --dir pki --server --dns localhost --ip 127.0.0.1
  broker pki issue shipper --dir pki --agent --spiffe spiffe://prod.example/logflux/shipper
  broker pki revoke --dir pki pki/shipper.crt      # the next ca.crl, with this certificate in it
  broker pki revoke --dir pki pki/shipper.crt --publish /etc/logflux-broker/tls/agents.crl
  broker pki revoke --dir pki                      # the next ca.crl, before the last one ends
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.epilog = _EPILOG
    commands = parser.add_subparsers(dest="pki_command", metavar="COMMAND", required=True)
    authority = commands.add_parser("init", help="make a new certificate authority")
    authority.add_argument("--name", default="logflux-broker CA", metavar="NAME", help="its common name")
    _common(authority, days=_AUTHORITY_DAYS)
    revoke = commands.add_parser("revoke", help="write the authority's next revocation list, DIR/ca.crl")
    revoke.add_argument("certificates", nargs="*", type=Path, metavar="FILE", help="certificates to add to it")
    revoke.add_argument(
        "--publish",
        type=Path,
        metavar="FILE",
        help="also put the list there in one step: the broker's tls.client_crl, when this is its one authority",
    )
    _common(revoke, days=_LIST_DAYS, keys=False)
    leaf = commands.add_parser("issue", help="issue a certificate for the broker or for an agent")
    leaf.add_argument("name", metavar="NAME", help="name of the files, NAME.crt and NAME.key, and its common name")
    usage = leaf.add_mutually_exclusive_group(required=True)
    usage.add_argument("--server", dest="usage", action="store_const", const="server", help="for the broker")
    usage.add_argument("--agent", dest="usage", action="store_const", const="agent", help="for an agent")
    leaf.add_argument("--spiffe", metavar="ID", help="SPIFFE id, such as spiffe://prod.example/logflux/shipper")
    leaf.add_argument("--dns", action="append", default=[], metavar="NAME", help="DNS name; may be repeated")
    leaf.add_argument("--ip", action="append", default=[], metavar="IP", help="IP address; may be repeated")
    _common(leaf, days=_LEAF_DAYS)


def run(arguments: argparse.Namespace) -> int:
    """Make what was asked for, and print where it is.

    Raises:
        SettingsInvalidError: A file is in the way or missing, or a name is unusable.

    """
    if arguments.pki_command == "revoke":
        listed = write_revocation_list(arguments.dir, revoke=arguments.certificates, days=arguments.days)
        report = {
            "list": str(listed.file),
            "number": str(listed.number),
            "revoked": str(listed.revoked),
            "not_after": f"{listed.not_after:%Y-%m-%dT%H:%M:%SZ}",
        }
        if arguments.publish is not None:
            _publish(listed.file, arguments.publish)
            report["published"] = str(arguments.publish)
        _print(report, as_json=arguments.json)
        return EXIT_DONE
    if arguments.pki_command == "init":
        made = create_authority(
            arguments.dir, common_name=arguments.name, days=arguments.days, key_type=arguments.key_type
        )
    else:
        made = issue_certificate(
            arguments.dir,
            name=arguments.name,
            usage=arguments.usage,
            spiffe=arguments.spiffe,
            dns=arguments.dns,
            ips=arguments.ip,
            days=arguments.days,
            key_type=arguments.key_type,
        )
    _print(_report(made), as_json=arguments.json)
    return EXIT_DONE


def _publish(file: Path, place: Path) -> None:
    try:
        # A list is signed and no secret; whoever runs the broker has to be able to read it.
        replace_whole(place, [file.read_bytes()], mode=0o644)
    except OSError as error:
        message = f"{place}: {error.strerror}; the new list is in {file}, and the broker does not have it: put it there"
        raise SettingsInvalidError(message) from None


def _print(report: dict[str, str], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(report, indent=2))
    else:
        for title, text in report.items():
            print(f"{title:12} {text}")


def _common(parser: argparse.ArgumentParser, *, days: int, keys: bool = True) -> None:
    parser.add_argument("--dir", type=Path, required=True, metavar="DIR", help="directory of the authority")
    parser.add_argument("--days", type=int, default=days, metavar="N", help=f"days that it is valid ({days})")
    if keys:
        parser.add_argument("--key-type", choices=("ec", "rsa4096"), default="ec", help="EC P-256 (ec) or RSA-4096")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def _report(made: Made) -> dict[str, str]:
    report = {
        "certificate": str(made.certificate),
        "key": str(made.key),
        "name": made.name,
        "fingerprint": made.fingerprint,
        "not_after": f"{made.not_after:%Y-%m-%dT%H:%M:%SZ}",
    }
    return {**report, "identity": made.identity} if made.identity else report
