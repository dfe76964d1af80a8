"""`broker lint`: find what is wrong with the references of configuration files, without a broker."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from broker.agent.configuration_file import Mention, mentions
from broker.agent.refusal import EXIT_BAD_FILE
from broker.agent.template import TemplateInvalidError
from broker.agent.text_file import read_argument

# Raised when a field is removed or means something else; new fields don't count.
JSON_SCHEMA: Final = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="a text; - is standard input")
    parser.add_argument("--list", action="store_true", help="also print each reference with its place")
    parser.add_argument("--json", action="store_true", help="print faults and references as JSON")
    parser.epilog = (
        "It looks at ${...}, and at what begins with vault:, bao:, env: or file: outside of comments. Nothing is\n"
        "asked, so it fits into a pipeline. Whether policy gives a reference: broker policy explain.\n\n"
        "exit status: 0 nothing wrong, 2 wrong command line, 3 something is wrong\n\n"
        "examples:\n"
        "  broker lint shipper.yaml\n"
        "  broker lint --list deploy/*.yaml     # what a policy has to allow"
    )


def run(arguments: argparse.Namespace) -> int:
    """Print one line a fault, `file:line:column: what and what to do`."""
    faults: list[dict[str, object]] = []
    references: list[dict[str, object]] = []
    for file in arguments.files:
        for mention in _mentions(file):
            place = {"file": str(file), "line": mention.line, "column": mention.column}
            if mention.reference is None:
                faults.append({**place, "detail": mention.fault})
            else:
                references.append({**place, "reference": mention.reference.text, "bare": mention.is_bare})
    if arguments.json:
        report = {"schema": JSON_SCHEMA, "faults": faults, "references": references}
        print(json.dumps(report, indent=2, ensure_ascii=False))
    else:
        _print(arguments.files, faults, references, every=arguments.list)
    return EXIT_BAD_FILE if faults else 0


def _mentions(file: Path) -> Sequence[Mention]:
    try:
        return sorted(mentions(read_argument(file)), key=lambda mention: (mention.line, mention.column))
    except TemplateInvalidError as error:
        return [Mention(reference=None, fault=error.detail.removeprefix(f"{file}: "), line=0, column=0, is_bare=False)]


def _print(
    files: Sequence[Path],
    faults: Sequence[dict[str, object]],
    references: Sequence[dict[str, object]],
    *,
    every: bool,
) -> None:
    for fault in faults:
        at = f":{fault['line']}:{fault['column']}" if fault["line"] else ""
        print(f"{fault['file']}{at}: {fault['detail']}")
    for found in references if every else ():
        print(f"{found['file']}:{found['line']}:{found['column']}: {found['reference']}")
    if not faults:
        print(f"nothing wrong: {_count(len(references), 'reference')} in {_count(len(files), 'file')}")


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
