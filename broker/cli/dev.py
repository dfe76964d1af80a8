"""`broker dev`: one command to try the broker, with a real store and throw-away certificates."""

import argparse
import asyncio
import shutil
import sys
from pathlib import Path

from broker.app import Service
from broker.cli.sandbox import Sandbox, sandbox
from broker.cli.serve import configure_logging, serve
from broker.cli.undumpable import forbid_dumps
from broker.config_source import read_settings
from broker.systemd.notify import ServiceManager


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--fresh-for", default="5m", metavar="DURATION", help="how long a value counts as fresh (5m)")
    parser.epilog = (
        "Everything is made below a temporary directory, and removed at the end (Ctrl-C).\n\nexample:\n  broker dev"
    )


def run(arguments: argparse.Namespace) -> int:
    """Run until Ctrl-C."""
    forbid_dumps()
    with sandbox(fresh_for=arguments.fresh_for) as place:
        settings = read_settings(place.settings_file)
        configure_logging(settings)
        service = Service(settings=settings)
        print(_introduction(place), flush=True)
        asyncio.run(serve(service, ServiceManager(address="")))
    return 0


def _introduction(place: Sandbox) -> str:
    certificate, key = place.certificate("shipper")
    return f"""\
A broker for development is starting; everything below {place.directory} goes away with it.

try it:
  curl --cacert {place.authority} --cert {certificate} --key {key} \\
    -H 'Content-Type: application/json' \\
    -d '{{"references": ["vault:secret/logflux#api_key", "${{LOGFLUX_PAT}}", "{place.files}/tls_passphrase"]}}' \\
    {place.url}/v1/resolve
  curl http://127.0.0.1:{place.operations_port}/readyz

or with the agent's own command:
{_way_to_the_command()}  export LOGFLUX_BROKER_URL={place.url} LOGFLUX_BROKER_CA={place.authority}
  export LOGFLUX_AGENT_CERT={certificate} LOGFLUX_AGENT_KEY={key}
  broker get 'vault:secret/logflux#api_key'
  broker audit search --database {place.database}
"""


def _way_to_the_command() -> str:
    """Return the line that puts this command into the path of who ran `make run`, which needs none."""
    if shutil.which("broker") is not None:
        return ""
    return f'  export PATH="{Path(sys.executable).parent}:$PATH"\n'
