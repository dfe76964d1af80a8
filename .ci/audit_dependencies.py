"""Ask whether a known vulnerability is in the locked dependencies, and never mistake silence for a no.

pip-audit ends with 0 when its source knows nothing about a package, as an index mirror without advisories
does, and with 1 both for a finding and for a source that does not answer. Here each has its own exit status:

    0   every locked dependency was looked up, and nothing is known against any
    1   something is known against a dependency
    75  something could not be looked up, so that nothing is proved (EX_TEMPFAIL)
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

EXIT_VULNERABLE: Final = 1
EXIT_NOT_AUDITED: Final = 75


def main(lock: Path) -> int:
    """Audit `lock`, say what was found, and return the exit status."""
    with tempfile.TemporaryDirectory() as directory:
        report = Path(directory, "report.json")
        done = _pip_audit(lock, report)
        if not report.exists():
            _say(f"NOT AUDITED: the source of advisories does not answer.\n{done.stderr.strip()[-1000:]}")
            return EXIT_NOT_AUDITED
        dependencies = json.loads(report.read_text())["dependencies"]
    return verdict(dependencies)


def verdict(dependencies: list[dict[str, Any]]) -> int:
    """Say what a report of pip-audit means, and return the exit status."""
    skipped = [entry["name"] for entry in dependencies if "skip_reason" in entry]
    known = [(entry, fault) for entry in dependencies for fault in entry.get("vulns", ())]
    for entry, fault in known:
        fixed = ", ".join(fault["fix_versions"]) or "no version"
        _say(f"{entry['name']} {entry['version']}: {fault['id']}, fixed in {fixed}")
    if known:
        return EXIT_VULNERABLE
    if skipped or not dependencies:
        _say(
            f"NOT AUDITED: {len(skipped)} of {len(dependencies)} dependencies are unknown to the source of advisories "
            f"({', '.join(skipped[:3])} ...). Run this where pypi.org's own JSON interface is in reach."
        )
        return EXIT_NOT_AUDITED
    _say(f"{len(dependencies)} dependencies looked up, nothing known against any")
    return 0


def _pip_audit(lock: Path, report: Path) -> "subprocess.CompletedProcess[str]":
    command = ["pip-audit", "--requirement", str(lock), "--require-hashes", "--disable-pip", "--progress-spinner=off"]
    output = ["--format=json", f"--output={report}"]
    beside = Path(sys.executable).with_name(command[0])
    return subprocess.run([str(beside), *command[1:], *output], capture_output=True, text=True, check=False)  # noqa: S603  The command is made of fixed words and a lock file of ours.


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
