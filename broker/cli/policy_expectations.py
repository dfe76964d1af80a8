"""`broker policy test`: compare a policy with what is expected of it, before it goes into force."""

import argparse
import json
import time
from pathlib import Path
from typing import Final

from broker.errors import DocumentInvalidError
from broker.identity import identity_named
from broker.policy.decision import Allow, Decision
from broker.policy.expectations import ALLOWED, Expectation, parse_expectations
from broker.policy_file import load_policy

# Raised when a field is removed or means something else; new fields don't count.
JSON_SCHEMA: Final = 1


def add_test_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--policy", type=Path, required=True, metavar="FILE", help="the policy")
    parser.add_argument("file", type=Path, metavar="FILE", help="the expectations")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run_test(arguments: argparse.Namespace) -> int:
    """Print each expectation that is not met, `file:line: what`; return 1 when there is one.

    Raises:
        PolicyInvalidError: The policy can't be read or can't be used.
        DocumentInvalidError: The expectations can't.

    """
    policy = load_policy(arguments.policy)
    now = time.time()
    failed = []
    expectations = _read(arguments.file)
    for line, expectation in expectations:
        decision = policy.decide(
            identity=identity_named(expectation.identity),
            reference=expectation.reference,
            context=expectation.context(now=now),
        )
        if not expectation.is_met(decision):
            failed.append((line, expectation, _said(decision)))
    if arguments.json:
        report = {"schema": JSON_SCHEMA, "digest": policy.digest, "expectations": len(expectations)}
        print(json.dumps({**report, "failed": [_as_json(*each) for each in failed]}, indent=2))
    else:
        for line, expectation, said in failed:
            asked = f"{expectation.identity} {expectation.reference.text}"
            print(f"{arguments.file}:{line}: {asked}: expected {expectation.expect}, is {said}")
        print(f"{len(expectations) - len(failed)} of {len(expectations)} expectations are met")
    return 1 if failed else 0


def _read(file: Path) -> tuple[tuple[int, Expectation], ...]:
    try:
        return parse_expectations(file.read_bytes())
    except OSError as error:
        message = f"{file}: {error.strerror}; name a readable file"
        raise DocumentInvalidError(message) from None
    except DocumentInvalidError as error:
        message = f"{file}: {error.detail}"
        raise DocumentInvalidError(message, line=error.line, column=error.column) from None


def _said(decision: Decision) -> str:
    if isinstance(decision, Allow):
        return f"{ALLOWED} by rule {decision.rule!r}"
    return f"denied: {decision.reason.value}" + ("" if decision.rule is None else f" by rule {decision.rule!r}")


def _as_json(line: int, expectation: Expectation, said: str) -> dict[str, object]:
    return {
        "line": line,
        "identity": expectation.identity,
        "reference": expectation.reference.text,
        "expected": expectation.expect,
        "is": said,
    }
