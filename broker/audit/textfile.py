"""What a verification of the trail found, as a file for Prometheus' textfile collector.

The verifier is a process of its own, so that a broker that was taken over can't vouch for itself. Its series
stand here and not in `series/`, which holds those of the running broker.
"""

from pathlib import Path

from prometheus_client import CollectorRegistry, Gauge, generate_latest

from broker.audit.verify import VerificationReport
from broker.audit.walk import Tampering
from broker.errors import SettingsInvalidError
from broker.whole_file import replace_whole


def write_verification(file: Path, report: VerificationReport, *, now: float, seconds: float) -> None:
    """Replace `file` at once by what `report` says: a collector sees the old one or the new one, and no half.

    Args:
        file: A `.prom` file in the directory of the collector.
        report: What was found.
        now: Wall time of the end of the verification, in seconds.
        seconds: How long it took.

    Raises:
        SettingsInvalidError: The file can't be written.

    """
    text = generate_latest(_series_of(report, now=now, seconds=seconds))
    try:
        # The collector is another user, and nothing in here is secret.
        replace_whole(file, [text], mode=0o644)
    except OSError as error:
        message = f"{file}: {error.strerror}; --metrics names a file in a directory that this user may write"
        raise SettingsInvalidError(message) from None


def _series_of(report: VerificationReport, *, now: float, seconds: float) -> CollectorRegistry:
    registry = CollectorRegistry()
    gauges = (
        ("good", "1 when nobody changed the trail.", float(report.good)),
        ("timestamp_seconds", "When the trail was last verified.", now),
        ("duration_seconds", "Time that it took.", seconds),
        ("records", "Records that were read.", float(report.records)),
        ("anchored_records", "Records that a signed checkpoint covers.", float(report.anchored)),
    )
    for name, text, value in gauges:
        Gauge(f"broker_audit_verify_{name}", text, registry=registry).set(value)
    # what: a `Tampering`.
    findings = Gauge("broker_audit_verify_findings", "What was found, by kind.", ["what"], registry=registry)
    for what in Tampering:
        findings.labels(what).set(sum(finding.what is what for finding in report.findings))
    return registry
