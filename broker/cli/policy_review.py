"""`broker policy review`: who may read what, by which rule and when."""

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Final

from broker.policy.review import Clause, Entry, Verdict, review
from broker.policy_file import load_policy
from broker.reference import parse

# Raised when a field is removed or means something else; new fields don't count.
JSON_SCHEMA: Final = 1


def add_review_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("file", type=Path, metavar="FILE", help="the policy")
    parser.add_argument("--reference", metavar="REF", help="only who may read this, or a part of it")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run_review(arguments: argparse.Namespace) -> int:
    """Print the identities with their rules; with a reference, return 1 when nobody may read it.

    Raises:
        PolicyInvalidError: The file can't be read or can't be used.
        MalformedReferenceError: The reference is none.

    """
    reference = None if arguments.reference is None else parse(arguments.reference)
    policy = load_policy(arguments.file)
    entries = review(policy, reference=reference)
    readers = [entry for entry in entries if entry.verdict is not Verdict.NEVER]
    if arguments.json:
        asked = None if reference is None else reference.text
        told = {"schema": JSON_SCHEMA, "digest": policy.digest, "reference": asked}
        print(json.dumps({**told, "identities": [asdict(entry) for entry in entries]}, indent=2))
    else:
        for entry in readers:
            print("\n".join(_lines(entry)))
        if not readers:
            print("nobody may read it")
    return 0 if readers or reference is None else 1


def _lines(entry: Entry) -> Iterator[str]:
    environment = "" if entry.environment is None else f", environment {entry.environment}"
    yield f"{entry.name} ({entry.certificates}{environment})"
    if entry.administrator:
        yield "  gives orders to the broker, and reads nothing"
        return
    if not any(clause.effect == "allow" for clause in entry.clauses):
        yield "  reads nothing"
        return
    for clause in entry.clauses:
        yield from _clause(clause)


def _clause(clause: Clause) -> Iterator[str]:
    verb = "reads" if clause.effect == "allow" else "never" if not clause.conditions else "not"
    when = f" {', '.join(clause.conditions)}" if clause.conditions else ""
    yield f"  {verb}{when}, by rule {clause.rule!r}:"
    for pattern in clause.patterns:
        yield f"    {pattern}"
