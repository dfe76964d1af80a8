"""Where the broker is, and who this agent is: flags, and what the environment says without them."""

import argparse
import math
import os
import stat
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from broker.errors import BrokerError


class ClientSettingsError(BrokerError):
    """The agent's own settings can't be used."""

    code = "client_settings_invalid"


_VARIABLES: Final = {
    "url": "LOGFLUX_BROKER_URL",
    "ca": "LOGFLUX_BROKER_CA",
    "cert": "LOGFLUX_AGENT_CERT",
    "key": "LOGFLUX_AGENT_KEY",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientSettings:
    """Where the broker is, and who this agent is."""

    url: str
    authority: Path
    certificate: Path
    key: Path
    wait_seconds: float


def add_client_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments that name the broker and this agent."""
    group = parser.add_argument_group("broker")
    group.add_argument("--url", metavar="URL", help="https address of the broker; LOGFLUX_BROKER_URL otherwise")
    group.add_argument(
        "--ca", metavar="FILE", help="certificates that the broker's is checked against; LOGFLUX_BROKER_CA"
    )
    group.add_argument("--cert", metavar="FILE", help="this agent's certificate; LOGFLUX_AGENT_CERT")
    group.add_argument("--key", metavar="FILE", help="its private key, mode 0600; LOGFLUX_AGENT_KEY")
    group.add_argument(
        "--wait",
        type=seconds,
        default=30.0,
        metavar="SECONDS",
        help="how long to try while the broker is away (%(default)g)",
    )


def seconds(text: str) -> float:
    """Return the number of seconds that an argument names.

    Raises:
        argparse.ArgumentTypeError: It is no number, or no time.

    """
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number < math.inf:
        message = f"{text!r} is no number of seconds from 0 on, as in 30 or 0.5"
        raise argparse.ArgumentTypeError(message)
    return number


def client_settings(arguments: argparse.Namespace, environment: Mapping[str, str]) -> ClientSettings:
    """Return the settings, flags before environment.

    Raises:
        ClientSettingsError: One is missing, or the key is open to others.

    """
    named = {name: getattr(arguments, name) or environment.get(variable, "") for name, variable in _VARIABLES.items()}
    missing = [f"--{name} or {_VARIABLES[name]}" for name, value in named.items() if not value]
    if missing:
        message = f"where the broker is and who this agent is has to be said: give {'; '.join(missing)}"
        raise ClientSettingsError(message)
    _check_url(named["url"])
    _check_key(Path(named["key"]))
    return ClientSettings(
        url=named["url"],
        authority=Path(named["ca"]),
        certificate=Path(named["cert"]),
        key=Path(named["key"]),
        wait_seconds=arguments.wait,
    )


def _check_url(url: str) -> None:
    if not url.startswith("https://"):
        message = "the broker is asked over https only; write --url as https://broker.example:8443"
        raise ClientSettingsError(message)
    try:
        address = urllib.parse.urlsplit(url)
        more = address.path.strip("/") or address.query or address.fragment or "@" in address.netloc
        # A label of a name has 63 characters at most, which only the codec tells.
        (address.hostname or "").encode("idna")
        is_plain = bool(address.hostname) and address.port != 0 and not more
    except ValueError:
        is_plain = False
    if not is_plain:
        message = "--url is the broker's host and port, and nothing more: https://broker.example:8443"
        raise ClientSettingsError(message)


def _check_key(key: Path) -> None:
    try:
        mode = stat.S_IMODE(os.stat(key).st_mode)  # noqa: PTH116  One look, followed through links as the loader does.
    except OSError as error:
        message = f"--key {key}: {error.strerror}"
        raise ClientSettingsError(message) from None
    # Kubernetes mounts a secret with fsGroup as 0440; nobody but owner and group may ever read a key.
    if mode & 0o037:
        message = f"--key {key}: mode {mode:04o} lets others at the key; run: chmod 600 {key}"
        raise ClientSettingsError(message)
