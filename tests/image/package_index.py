"""How this machine's pip finds packages, lent to a build without leaving a trace in it.

A build container does not see the settings of the machine. They are merged into one file that is mounted
over the build's `/etc/pip.conf`, together with the directories and the certificates that they name.
"""

import ast
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

_TRANSPORT: Final = ("index-url", "extra-index-url", "find-links", "cert", "trusted-host", "proxy", "no-index")


@dataclass(frozen=True)
class PackageIndex:
    """The settings of pip that say where packages come from."""

    settings: Mapping[str, str]

    @classmethod
    def of_this_machine(cls) -> "PackageIndex":
        """Return what `pip config list` tells, the environment winning over the files as it does in pip."""
        listed = subprocess.run(
            [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
        ).stdout
        pairs = [line.split("=", 1) for line in listed.splitlines() if "=" in line]
        found: dict[str, str] = {}
        for from_environment in (False, True):
            for name, quoted in pairs:
                section, _, key = name.rpartition(".")
                if key in _TRANSPORT and (section == ":env:") is from_environment:
                    found[key] = ast.literal_eval(quoted)
        return cls(found)

    def volumes(self, directory: Path) -> list[str]:
        """Return the arguments that mount the settings, written into `directory`, and what they name."""
        configuration = directory / "pip.conf"
        lines = [f"{key} = {' '.join(value.split())}" for key, value in self.settings.items()]
        configuration.write_text("\n".join(["[global]", *lines, ""]))
        configuration.chmod(0o600)
        mounts = [f"{configuration}:/etc/pip.conf:ro", *(f"{path}:{path}:ro" for path in self._paths())]
        return [word for mount in mounts for word in ("--volume", mount)]

    def traces(self) -> list[bytes]:
        """Return the texts that no file of the image may hold."""
        words = [word for key, value in self.settings.items() if key != "cert" for word in value.split()]
        return [word.encode() for word in words if "/" in word]

    def _paths(self) -> list[Path]:
        words = [word for value in self.settings.values() for word in value.split()]
        named = {Path(urlsplit(word).path) for word in words if word.startswith(("/", "file://"))}
        # An index is a directory of links, which may lead to files beside it.
        return sorted({path.parent if path.name == "simple" else path for path in named if path.exists()})
