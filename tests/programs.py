"""Programs of Debian that tests run: their paths, or the reason why they are not there."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import pytest

PACKAGES: Final[Mapping[str, str]] = {
    "danted": "dante-server",
    "pkcs11-tool": "opensc",
    "softhsm2-util": "softhsm2",
    "squid": "squid",
    "swtpm": "swtpm",
    "systemd-analyze": "systemd",
    "systemd-creds": "systemd",
    "systemd-socket-activate": "systemd",
    "tpm2_unseal": "tpm2-tools",
}


def needed(program: str) -> str:
    """Return the path of `program`, or skip the test with the command that installs it."""
    found = shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    return found or _absent(program, PACKAGES[program])


def needed_file(pattern: str, package: str) -> Path:
    """Return the file below /usr/lib that fits `pattern`, or skip the test as above."""
    found = next(Path("/usr/lib").glob(pattern), None)
    return found or Path(_absent(pattern, package))


def _absent(what: str, package: str) -> str:
    reason = f"{what} is not installed: sudo apt-get install {package}"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)
