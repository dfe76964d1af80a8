"""`broker check-config`: find before the start what would fail after it."""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Final

from broker.config_source import SettingsFaultsError, SettingsSource
from broker.finding import Finding, Severity
from broker.preflight.run import examine

EXIT_BAD_INPUT: Final = 3
# Raised when a field is removed or means something else; new fields don't count.
JSON_SCHEMA: Final = 1

_EPILOG: Final = """\
Run it as the user that the broker runs as, or modes and owners are judged for somebody else.
It changes nothing and leaves no trace. Each code: docs/check-config.md

exit status:
  0  nothing found, or warnings alone
  2  the command line is wrong
  3  an error found; with --strict a warning too

examples:
  broker check-config --config broker.yaml
  broker check-config --config broker.yaml --online --strict --json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--config", type=Path, metavar="FILE", help="settings file; LOGFLUX_CONFIG otherwise")
    parser.add_argument("--online", action="store_true", help="also log in to the store, and look at its mounts")
    parser.add_argument("--running", action="store_true", help="the broker is running, so its ports are taken")
    parser.add_argument("--strict", action="store_true", help="exit with 3 for a warning too")
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    parser.epilog = _EPILOG


def run(arguments: argparse.Namespace) -> int:
    """Print what is wrong, one line a finding, errors and warnings in the order of the settings."""
    try:
        source = SettingsSource(arguments.config)
        findings = list(examine(source, online=arguments.online, running=arguments.running))
    except SettingsFaultsError as error:
        findings = list(error.findings)
    errors = sum(finding.severity is Severity.ERROR for finding in findings)
    if arguments.json:
        counts = {"errors": errors, "warnings": len(findings) - errors}
        report = {"schema": JSON_SCHEMA, **counts, "findings": [asdict(finding) for finding in findings]}
        print(json.dumps(report, indent=2))
    else:
        _print(findings, errors)
    return EXIT_BAD_INPUT if errors or (arguments.strict and findings) else 0


def _print(findings: Sequence[Finding], errors: int) -> None:
    for finding in findings:
        print(f"{finding.severity}[{finding.code}] {finding.text}")
    if not findings:
        print("nothing found: the broker would start")
    elif not errors:
        print(f"no error and {len(findings)} warnings: the broker would start")
