"""`broker audit`: search the trail, and verify that nobody changed it."""

import argparse
import json
import re
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from broker.assembly.implementations import open_trail_reader
from broker.audit.chain import TrailRecord
from broker.audit.checkpoint import notes_in
from broker.audit.event import EventKind, Outcome
from broker.audit.search import Query, TrailReader, search
from broker.audit.textfile import write_verification
from broker.audit.verify import VerificationReport, verify
from broker.errors import MalformedReferenceError, SettingsInvalidError
from broker.escape import clean
from broker.reference import parse

EXIT_TAMPERED: Final = 1
_SIDE_FILE: Final = "checkpoints.log"
_POLL_SECONDS: Final = 0.25
_PROGRESS_SECONDS: Final = 1.0
_AGE: Final = re.compile(r"([0-9]{1,9})(s|m|h|d|w)")
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_NO_LIMIT: Final = sys.maxsize


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    verbs = parser.add_subparsers(dest="audit_verb", metavar="COMMAND", required=True)
    raw = argparse.RawDescriptionHelpFormatter
    find = verbs.add_parser("search", help="print the records that fit, newest last", formatter_class=raw)
    find.add_argument("--database", type=Path, required=True, metavar="FILE", help="the broker's audit.db")
    find.add_argument("--type", choices=[kind.value for kind in EventKind], help="what happened")
    find.add_argument("--outcome", choices=[outcome.value for outcome in Outcome], help="how it ended")
    find.add_argument("--since", type=_since, metavar="WHEN", help="an age (90s, 30m, 24h, 7d) or a time (RFC 3339)")
    find.add_argument("--until", type=_since, metavar="WHEN", help="before that, an age or a time as for --since")
    find.add_argument("--request", default="", metavar="ID", help="of one request: an answer's X-Request-Id")
    find.add_argument("--identity", default="", metavar="NAME", help="the peer's name; may end with *")
    find.add_argument("--reference", default="", metavar="REF", help="a reference asked for; may end with *")
    find.add_argument("--limit", type=_count, metavar="N", help="the newest N only")
    find.add_argument("--json", action="store_true", help="print the records as they are kept, one a line")
    find.add_argument("--follow", action="store_true", help="go on with what is written from now on")
    find.epilog = (
        "exit status: 0 done (also when nothing fits), 3 the database can't be read\n\nexamples:\n"
        "  broker audit search --database audit.db --type auth --outcome failure --since 24h\n"
        "  broker audit search --database audit.db --request ed844271ada34fd20000000000000026\n"
        "  broker audit search --database audit.db --since 2026-01-01 --until 2026-04-01 --json > quarter.jsonl\n"
        "  broker audit search --database audit.db --reference 'vault:secret/logflux#api_key' --json\n"
        "  broker audit search --database audit.db --limit 20 --follow"
    )
    check = verbs.add_parser("verify", help="find every record that was changed, and a cut end", formatter_class=raw)
    check.add_argument("--database", type=Path, required=True, metavar="FILE", help="the broker's audit.db")
    check.add_argument(
        "--checkpoints",
        type=Path,
        metavar="FILE",
        help=f"a copy of {_SIDE_FILE}; the one beside the database otherwise",
    )
    check.add_argument(
        "--key", metavar="VKEY", help="the verifier key to trust; the one that the trail names otherwise"
    )
    check.add_argument("--json", action="store_true", help="print the report as JSON")
    check.add_argument(
        "--metrics", type=_prom_file, metavar="FILE", help="also write FILE (*.prom) for Prometheus' textfile collector"
    )
    check.epilog = (
        "exit status: 0 nothing found, 1 tampered with, 3 something can't be read\n\nexamples:\n"
        "  broker audit verify --database audit.db\n"
        '  broker audit verify --database audit.db --checkpoints /mnt/worm/checkpoints.log --key "$VKEY"\n'
        "  broker audit verify --database audit.db --metrics /var/lib/prometheus/node-exporter/broker_audit.prom"
    )


def run(arguments: argparse.Namespace) -> int:
    """Search or verify."""
    with closing(open_trail_reader(arguments.database)) as reader:
        if arguments.audit_verb == "search":
            return _search(reader, arguments)
        return _verify(reader, arguments)


def _search(reader: TrailReader, arguments: argparse.Namespace) -> int:
    query = Query(
        kind=EventKind(arguments.type) if arguments.type else None,
        outcome=Outcome(arguments.outcome) if arguments.outcome else None,
        since_ms=arguments.since,
        until_ms=arguments.until,
        request=arguments.request,
        identity=clean(arguments.identity),
        reference=_canonical(arguments.reference),
        limit=arguments.limit,
    )
    show = _json_line if arguments.json else _line
    last = _print(search(reader, query=query), show)
    while arguments.follow:
        time.sleep(_POLL_SECONDS)
        last = max(last, _print(search(reader, query=replace(query, after=last, limit=None)), show))
    return 0


def _print(records: Iterable[TrailRecord], show: Callable[[TrailRecord], str]) -> int:
    """Print `records`; return the number of the last one, 0 without any."""
    last = 0
    for record in records:
        print(show(record))
        last = record.seq
    sys.stdout.flush()
    return last


def _json_line(record: TrailRecord) -> str:
    """Return the body. What somebody else put into the database must not reach the terminal either."""
    return clean(record.body.decode("utf-8", "replace"), limit=_NO_LIMIT)


def _line(record: TrailRecord) -> str:
    """Return one line for a person."""
    try:
        body = json.loads(record.body)
        words = [body["time"], str(record.seq), body["kind"], body["outcome"], body.get("identity") or "-"]
        words += [f"{name}={body[name]}" for name in ("reason", "address", "request", "token") if body.get(name)]
        words += [f"{name}={value}" for name, value in body.get("details", {}).items()]
        words += [_reference(entry) for entry in body.get("references", [])]
    except (ValueError, TypeError, KeyError, AttributeError):
        words = [f"{record.seq}", "unreadable: run `broker audit verify`"]
    return clean("  ".join(words), limit=_NO_LIMIT)


def _reference(entry: dict[str, Any]) -> str:
    why = f"({entry['reason']})" if entry.get("reason") else ""
    said = f" [{entry['upstream_asked']}: {entry['upstream_said']}]" if entry.get("upstream_said") else ""
    return f"{entry['reference']}={entry['status']}{why}{said}"


def _verify(reader: TrailReader, arguments: argparse.Namespace) -> int:
    file, notes = _side_notes(arguments)
    began = time.monotonic()
    report = verify(reader, checkpoints=notes, verifier_key=arguments.key, progress=_progress())
    if arguments.json:
        kept = {"good": report.good, **asdict(report), "checkpoint_file": str(file) if file else None}
        print(json.dumps(kept, indent=2))
    else:
        _print_report(report, file=file, pinned=arguments.key is not None)
    if arguments.metrics is not None:
        write_verification(arguments.metrics, report, now=time.time(), seconds=time.monotonic() - began)
    return 0 if report.good else EXIT_TAMPERED


def _print_report(report: VerificationReport, *, file: Path | None, pinned: bool) -> None:
    for finding in report.findings:
        print(
            f"{finding.what}: record {finding.seq}: {finding.detail}"
            if finding.seq
            else f"{finding.what}: {finding.detail}"
        )
    verdict = "good" if report.good else "TAMPERED WITH"
    print(
        f"{verdict}: {report.records} records, {report.checkpoints} checkpoints, signed up to record {report.anchored}"
    )
    print(f"trail: {clean(report.trail_id)}\nhead: {report.head}\nverifier key: {clean(report.verifier_key)}")
    if not pinned:
        print("note: the key is the one that the trail names; keep it elsewhere and give it with --key")
    if file is None:
        print(f"note: no {_SIDE_FILE}; without a copy of it a cut end can't be found")


def _side_notes(arguments: argparse.Namespace) -> tuple[Path | None, list[bytes]]:
    """Return the checkpoint file that counts, and its notes."""
    file: Path = arguments.checkpoints or arguments.database.with_name(_SIDE_FILE)
    if arguments.checkpoints is None and not file.exists():
        return None, []
    try:
        return file, list(notes_in(file.read_bytes()))
    except OSError as error:
        message = f"{file}: {error.strerror}"
        raise SettingsInvalidError(message) from None


def _progress() -> Callable[[int], None]:
    """Return what tells a person each second how far it is, and nobody else."""
    if not sys.stderr.isatty():
        return lambda _seq: None
    told = time.monotonic()

    def tell(seq: int) -> None:
        nonlocal told
        if time.monotonic() - told > _PROGRESS_SECONDS:
            told = time.monotonic()
            print(f"\rverified up to record {seq}", end="", file=sys.stderr, flush=True)

    return tell


def _canonical(reference: str) -> str:
    """Return the canonical spelling, since the trail knows `${NAME}` as `env:NAME`."""
    if reference.endswith("*"):
        return reference
    try:
        return parse(reference).text
    except MalformedReferenceError:
        # The trail has no text of one that is malformed, so nothing is found.
        return reference


def _since(text: str) -> int:
    """Return the wall time in milliseconds that an age or a time means."""
    if age := _AGE.fullmatch(text):
        return int((time.time() - int(age[1]) * _UNITS[age[2]]) * 1000)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        message = f"{text!r} is neither an age such as 24h nor a time such as 2026-01-31T12:00:00Z"
        raise argparse.ArgumentTypeError(message) from None
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)


def _prom_file(text: str) -> Path:
    """Return the path of a file that a textfile collector would read."""
    if not text.endswith(".prom"):
        message = f"{text!r} does not end in .prom, so the textfile collector would not read it"
        raise argparse.ArgumentTypeError(message)
    return Path(text)


def _count(text: str) -> int:
    if text.isascii() and text.isdecimal() and int(text[:10]) > 0:
        return int(text[:10])
    message = f"{text!r} is no number of records, 1 or more"
    raise argparse.ArgumentTypeError(message)
