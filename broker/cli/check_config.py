"""`broker check-config`: find before the start what would fail after it."""

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from broker.app import check_settings
from broker.config_source import read_settings
from broker.errors import BrokerError

HELP = "find before the start what would fail after it"
EXIT_BAD_INPUT = 3


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that would stop the broker."""

    code: str
    detail: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--config", type=Path, metavar="FILE", help="settings file; LOGFLUX_CONFIG otherwise")
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    parser.epilog = (
        "exit status: 0 nothing found, 3 something found\n\nexample:\n  broker check-config --config broker.yaml"
    )


def run(arguments: argparse.Namespace) -> int:
    """Print what is wrong, one line a finding."""
    try:
        findings = [Finding(error.code, error.detail) for error in check_settings(read_settings(arguments.config))]
    except BrokerError as error:
        findings = [Finding(error.code, error.detail)]
    if arguments.json:
        print(json.dumps({"findings": [asdict(finding) for finding in findings]}, indent=2))
    else:
        for finding in findings:
            print(f"{finding.code}: {finding.detail}")
        if not findings:
            print("nothing found: the broker would start")
    return EXIT_BAD_INPUT if findings else 0
