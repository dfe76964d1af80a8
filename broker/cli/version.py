"""`broker version`: what this broker is made of."""

import argparse
import json

from broker.assembly.implementations import known_schema
from broker.build import build_facts


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.epilog = (
        "`schema` is the version of the audit database that this broker writes. `commit` is `unknown` when the\n"
        "build could not tell.\n\nexample:\n  broker version --json"
    )


def run(arguments: argparse.Namespace) -> int:
    """Print the facts."""
    facts = build_facts(schema=known_schema())
    if arguments.json:
        print(json.dumps(facts))
    else:
        for name, value in facts.items():
            print(f"{name:13} {value}")
    return 0
