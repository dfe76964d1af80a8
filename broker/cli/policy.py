"""`broker policy`: check a policy file, or explain a decision."""

import argparse
import json
import time
from dataclasses import asdict
from ipaddress import IPv4Address, ip_address
from pathlib import Path
from typing import Final

from broker.cli.policy_expectations import add_test_arguments, run_test
from broker.cli.policy_hint import hint_for
from broker.cli.policy_review import add_review_arguments, run_review
from broker.errors import PolicyInvalidError
from broker.identity import identity_named
from broker.peer_address import Address
from broker.policy.decision import Allow, Context, Decision
from broker.policy.expectations import moment
from broker.policy.explain import Explanation, Outcome, explain
from broker.policy_file import load_policy
from broker.reference import Reference, parse
from broker.scope import parse_scope

EXIT_YES: Final = 0
EXIT_NO: Final = 1
EXIT_BAD_FILE: Final = 3

_EPILOG: Final = """\
exit status:
  0  the file is good; the reference is allowed; somebody may read it; every expectation is met
  1  the reference is denied; nobody may read it; an expectation is not met
  2  the command line is wrong
  3  the file can't be used, or the reference or the scope is malformed

examples:
  broker policy check /etc/logflux-broker/policy.yaml
  broker policy explain --policy p.yaml --identity spiffe://prod.example/logflux/shipper \\
      --reference 'vault:secret/logflux#api_key'
  broker policy explain --policy p.yaml --identity agent.example --reference '${LOGFLUX_PAT}' \\
      --address 10.1.2.3 --at 2026-01-05T09:00:00Z
  broker policy review p.yaml --reference 'vault:secret/logflux#api_key'
  broker policy test --policy p.yaml expectations.yaml
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.epilog = _EPILOG
    commands = parser.add_subparsers(dest="policy_command", metavar="COMMAND", required=True)
    check = commands.add_parser("check", help="tell whether the broker could use the file")
    check.add_argument("file", type=Path, metavar="FILE", help="the policy")
    check.add_argument("--json", action="store_true", help="print the result as JSON")
    why = commands.add_parser("explain", help="show the decision, and for every rule why it did or did not count")
    why.add_argument("--policy", type=Path, required=True, metavar="FILE", help="the policy")
    why.add_argument(
        "--identity", required=True, metavar="ID", help="a certificate's name: spiffe://..., a DNS name, or sha256:..."
    )
    why.add_argument("--reference", required=True, metavar="REF", help="what would be resolved")
    why.add_argument(
        "--address", type=_address, default=IPv4Address("127.0.0.1"), metavar="IP", help="where from (127.0.0.1)"
    )
    why.add_argument("--at", type=_moment, metavar="RFC3339", help="when, such as 2026-01-05T09:00:00Z (now)")
    why.add_argument("--scope", metavar="SCOPE", help="as with a token of this scope (without a token)")
    why.add_argument("--json", action="store_true", help="print the result as JSON")
    add_review_arguments(commands.add_parser("review", help="show who may read what, by which rule and when"))
    add_test_arguments(commands.add_parser("test", help="compare a policy with what is expected of it"))


def run(arguments: argparse.Namespace) -> int:
    """Do the command.

    Raises:
        PolicyInvalidError: The file can't be read or can't be used.
        MalformedReferenceError: The reference is none.
        ScopeRefusedError: The scope is none.

    """
    match arguments.policy_command:
        case "check":
            return _check(arguments)
        case "review":
            return run_review(arguments)
        case "test":
            return run_test(arguments)
        case _:
            return _explain(arguments)


def _check(arguments: argparse.Namespace) -> int:
    try:
        policy = load_policy(arguments.file)
    except PolicyInvalidError as error:
        if not arguments.json:
            raise
        place = {"line": error.line, "column": error.column}
        print(json.dumps({"valid": False, "code": error.code, "detail": error.detail, **place}, indent=2))
        return EXIT_BAD_FILE
    if arguments.json:
        print(json.dumps({"valid": True, "rules": policy.rule_count, "digest": policy.digest}, indent=2))
    else:
        print(f"{arguments.file}: good, {policy.rule_count} rules, sha256 {policy.digest}")
    return EXIT_YES


def _explain(arguments: argparse.Namespace) -> int:
    policy = load_policy(arguments.policy)
    reference = parse(arguments.reference)
    context = Context(
        address=arguments.address,
        now=time.time() if arguments.at is None else arguments.at,
        scope=None if arguments.scope is None else parse_scope(arguments.scope),
    )
    explanation = explain(policy, identity=identity_named(arguments.identity), reference=reference, context=context)
    hint = hint_for(policy, explanation, name=arguments.identity, reference=reference)
    if arguments.json:
        asked = {"identity": arguments.identity, "reference": reference.text}
        print(json.dumps({**asked, **_as_json(explanation), "hint": hint}, indent=2))
    else:
        _print(explanation, identity=arguments.identity, reference=reference)
        if hint:
            print(f"\nhint: {hint}")
    return EXIT_YES if isinstance(explanation.decision, Allow) else EXIT_NO


def _address(text: str) -> Address:
    try:
        return ip_address(text)
    except ValueError:
        message = f"no IP address: {text!r}"
        raise argparse.ArgumentTypeError(message) from None


def _moment(text: str) -> float:
    try:
        return moment(text)
    except ValueError as error:
        message = f"{text!r}: {error}"
        raise argparse.ArgumentTypeError(message) from None


def _as_json(explanation: Explanation) -> dict[str, object]:
    decision = explanation.decision
    return {**asdict(explanation), "decision": {"allowed": isinstance(decision, Allow), **asdict(decision)}}


def _print(explanation: Explanation, *, identity: str, reference: Reference) -> None:
    print(f"{_verdict(explanation.decision)}")
    entry = explanation.entry or "no single entry of the policy"
    environment = explanation.environment or "none"
    print(f"\nidentity     {identity}: {entry}, environment {environment}")
    print(f"reference    {reference.text}")
    if explanation.foreign_owners:
        print(f"wall         owned by {', '.join(explanation.foreign_owners)}")
    if not explanation.within_scope:
        print("scope        does not cover the reference")
    print()
    for finding in explanation.findings:
        mark = "->" if finding.outcome is Outcome.COUNTS else "  "
        print(f"{mark} {finding.effect:5} {finding.rule}: {finding.outcome.value} ({finding.why})")


def _verdict(decision: Decision) -> str:
    if isinstance(decision, Allow):
        clocks = f"fresh for {decision.fresh_for:g} s, stale up to {decision.max_stale:g} s"
        if decision.younger_than is not None:
            clocks += f", if the secret is younger than {decision.younger_than:g} s"
        return f"ALLOWED by rule {decision.rule!r} ({clocks})"
    rule = "" if decision.rule is None else f" by rule {decision.rule!r}"
    return f"DENIED: {decision.reason.value}{rule}"
